//! AES on x86-64: what the processor was seen to have, and the calls into code compiled for it.
//!
//! Architecture invariant: the only `unsafe` for AES is in this folder. A [`Detected`] is proof that the
//! processor has what its path needs, so whoever holds one may call.

#![allow(unsafe_code, reason = "code for optional instructions may be called only where the processor has them")]

mod abreast;
mod group;
mod memory;
mod order;
mod schedule;
mod single;
mod xmm;
mod ymm;
mod zmm;

use super::{Block, Data, Key, Lanes, Path};
use crate::key::KeyLen;

/// A path whose instructions the processor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Detected(Path);

impl Detected {
    /// Asks the processor.
    pub(super) fn new(path: Path) -> Option<Self> {
        let single = is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx");
        let has = match path {
            Path::Portable => false,
            Path::AesNi => single,
            Path::Vaes256 => single && is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2"),
            Path::Vaes512 => {
                single
                    && is_x86_feature_detected!("vaes")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
        };
        has.then_some(Self(path))
    }

    pub(super) fn path(self) -> Path {
        self.0
    }

    pub(super) fn derive(self, len: KeyLen, key: &Key, data: Data, new_len: KeyLen, derived: &mut Key) {
        // SAFETY: every detected path includes AES-NI and AVX.
        unsafe {
            single::derive(len, key, data, new_len, derived);
            memory::wipe_spilled();
        }
    }

    pub(super) fn derive_two(self, len: KeyLen, key: &Key, data: [Data; 2], new_len: KeyLen, derived: [&mut Key; 2]) {
        // SAFETY: every detected path includes AES-NI and AVX.
        unsafe {
            single::derive_two(len, key, data, new_len, derived);
            memory::wipe_spilled();
        }
    }

    pub(super) fn walk(self, len: KeyLen, key: &mut Key, data: Data, from: u32, to: u32) {
        // SAFETY: every detected path includes AES-NI and AVX.
        unsafe {
            single::walk(len, key, data, from, to);
            memory::wipe_spilled();
        }
    }

    pub(super) fn chain(self, len: KeyLen, key: &Key, state: &mut Block, message: &[Block]) {
        // SAFETY: every detected path includes AES-NI and AVX.
        unsafe {
            single::chain(len, key, state, message);
            memory::wipe_spilled();
        }
    }

    pub(super) fn cbc_decrypt(self, len: KeyLen, key: &Key, iv: &Block, blocks: &mut [Block]) {
        // SAFETY: every detected path includes AES-NI and AVX.
        unsafe {
            single::cbc_decrypt(len, key, iv, blocks);
            memory::wipe_round_keys();
        }
    }

    /// How many keys it takes side by side.
    pub(super) fn lanes(self) -> usize {
        match self.0 {
            Path::Portable => 1,
            Path::AesNi => xmm::LANES,
            Path::Vaes256 => ymm::LANES,
            Path::Vaes512 => zmm::LANES,
        }
    }

    /// Replaces the key of each lane by the encryption under it of the lane's data, with `change` added to their head
    /// and each counter in turn for their tail's end: a row of the lanes' counters for every step.
    pub(super) fn derive_lanes(self, len: KeyLen, lanes: &mut Lanes, change: &Block, counters: &[u32]) {
        match self.0 {
            Path::Portable => {}
            // SAFETY: the path was detected, and its instructions are those of the kernel.
            Path::AesNi => unsafe { xmm::derive(len, lanes, change, counters) },
            // SAFETY: as above.
            Path::Vaes256 => unsafe { ymm::derive(len, lanes, change, counters) },
            // SAFETY: as above.
            Path::Vaes512 => unsafe { zmm::derive(len, lanes, change, counters) },
        }
    }

    /// Overwrites the stack that [`Detected::derive_lanes`] left: registers do not suffice for so many keys. The longest
    /// frame, that of [`Path::Vaes512`], has 3.2 kB.
    pub(super) fn wipe_lanes(self) {
        match self.0 {
            Path::Vaes512 => zeroize::zeroize_stack::<4096>(),
            Path::Portable | Path::AesNi | Path::Vaes256 => zeroize::zeroize_stack::<1536>(),
        }
    }
}
