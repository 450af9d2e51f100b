//! The records that are measured: keys, counters and clear text, the same in every run.

use std::convert::Infallible;

use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;

/// Bytes of a record.
pub(crate) const RECORD: usize = 48;

pub(crate) fn key(len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(1u8..).for_each(|(byte, value)| *byte = value))
}

pub(crate) fn initial(ik: &KeyBytes) -> Result<KeyBytes, Infallible> {
    Ok(KeyBytes::filled(ik.key_len(), |bytes| bytes.copy_from_slice(ik.expose())))
}

/// Legal counters spread over the whole range, the same in every run: a 64-bit linear congruential generator
/// (constants of Knuth's MMIX).
pub(crate) fn counters(scheme: Scheme) -> impl Iterator<Item = u32> {
    let mut state = 0x5EED_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let raw = u32::try_from(state >> 32).expect("the upper half of 64 bits") % scheme.max_counter();
        scheme.next_counter(raw).map_or(1, |counter| counter.get())
    })
}
