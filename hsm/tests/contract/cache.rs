//! What derivation costs, and that it costs no more memory than it may.

use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_hsm::pkcs11::{Pkcs11Hsm, Slot};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, Hsm};

use crate::support::device::{Device, PAN};
use crate::support::slot::{self, SHARED, spec};
use crate::{MODULE, subject};

const LENGTHS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];

fn calls(tally: &CallTally, function: &str) -> u32 {
    tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times)
}

fn legal_counters(scheme: Scheme, after: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(scheme.next_counter(after), move |counter| scheme.next_counter(counter.get()))
        .map(|counter| counter.get())
}

#[test]
fn consecutive_counters_cost_one_node_and_two_working_keys() {
    let slot = MODULE.shared();
    for mode in [DecryptionMode::Hardware, DecryptionMode::Hybrid] {
        for spec in LENGTHS.map(|len| spec(Scheme::Aes, len, mode)) {
            let mut hsm = slot.session(std::slice::from_ref(&spec)).unwrap();
            let device = Device::new(&spec, 1);
            // From a counter with 15 one-bits over a carry into every one of them.
            let mut counters = legal_counters(Scheme::Aes, 0xFFFB);
            hsm.take_calls();
            hsm.open(&spec.id, &device.frame(counters.next().unwrap())).unwrap();
            hsm.take_calls();
            let mut total = 0;
            for counter in counters.take(300) {
                hsm.open(&spec.id, &device.frame(counter)).unwrap();
                let tally = hsm.take_calls();
                assert_eq!(calls(&tally, "C_DeriveKey"), 3, "{} at {counter:#x}: {tally}", spec.id);
                total += tally.total();
            }
            // Three derivations, a verification, a decryption or a read, and each object destroyed in the end.
            assert!(total <= 300 * 10 + 17, "{}: {total} calls for 300 frames", spec.id);
        }
    }
}

#[test]
fn host_derived_mode_asks_the_slot_once_for_each_device() {
    let slot = MODULE.shared();
    for scheme in [Scheme::Aes, Scheme::Tdes] {
        let spec = spec(scheme, KeyLen::K128, DecryptionMode::HostDerived);
        let mut hsm = slot.session(std::slice::from_ref(&spec)).unwrap();
        for serial in 1..=5 {
            let device = Device::new(&spec, serial);
            hsm.open(&spec.id, &device.frame(1)).unwrap();
            assert!(hsm.take_calls().total() > 0);
            for counter in legal_counters(scheme, 1).take(50) {
                hsm.open(&spec.id, &device.frame(counter)).unwrap();
            }
            assert_eq!(hsm.take_calls().total(), 0);
        }
    }
}

/// Every object a session ever derived, minus those it destroyed: what it holds.
fn live_objects(hsm: &mut Pkcs11Hsm, balance: &mut i64) {
    let tally = hsm.take_calls();
    *balance += i64::from(calls(&tally, "C_DeriveKey")) - i64::from(calls(&tally, "C_DestroyObject"));
}

fn small_cache(nodes: usize) -> Slot {
    MODULE.shared();
    let mut config = MODULE.config(SHARED);
    config.cache_nodes = nodes;
    Slot::open(config).unwrap()
}

#[test]
fn the_cache_keeps_to_its_bound_and_every_other_object_is_destroyed() {
    let spec = spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware);
    for nodes in [1, 17, 40] {
        let mut hsm = small_cache(nodes).session(std::slice::from_ref(&spec)).unwrap();
        let mut balance = 0;
        hsm.take_calls();
        for round in 0u32..6 {
            for serial in 1..=8 {
                let device = Device::new(&spec, serial);
                let mut frame = device.seal(0x1110 + round * 3 + u32::from(serial));
                if round == 3 {
                    // Refused ones leave nothing behind either.
                    *frame.last_mut().unwrap() ^= 1;
                }
                let frame = warifu_core::frame::SealedFrame::parse(&frame).unwrap();
                assert_eq!(hsm.open(&spec.id, &frame).is_ok(), round != 3);
                live_objects(&mut hsm, &mut balance);
                assert_eq!(usize::try_from(balance).unwrap(), hsm.cached_nodes());
                assert!(hsm.cached_nodes() <= nodes, "{} of {nodes}", hsm.cached_nodes());
            }
        }
    }
}

/// Keys of several lengths, with devices of the same ids, in one session.
#[test]
fn devices_of_different_keys_are_not_confused_and_share_the_bound() {
    let specs: Vec<BdkSpec> = slot::specs();
    let mut hsm = small_cache(60).session(&specs).unwrap();
    for counter in [5, 6, 7, 0x1111, 0x1112, 2] {
        for spec in &specs {
            let opened = hsm.open(&spec.id, &Device::new(spec, 1).frame(counter)).unwrap();
            assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes());
            assert_eq!(opened.mode, spec.mode);
            assert!(hsm.cached_nodes() <= 60);
        }
    }
}

#[test]
fn any_order_of_counters_opens_as_a_fresh_session_does() {
    for subject in subject::all() {
        let mut warm = subject.session();
        let device = subject.device(9);
        // A fixed walk that jumps back and forth through legal counters of any size.
        let mut state = 0x2545_F491_u32;
        for step in 0..40 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let near = state >> (8 + step % 20);
            let scheme = subject.spec.scheme;
            let Some(counter) = scheme.next_counter(near & scheme.max_counter()) else { continue };
            let frame = device.frame(counter.get());
            let opened = warm.open(&subject.spec.id, &frame).unwrap();
            assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes(), "{} {:#x}", subject.name, counter.get());
        }
        assert!(subject.session().open(&subject.spec.id, &device.frame(3)).is_ok());
    }
}
