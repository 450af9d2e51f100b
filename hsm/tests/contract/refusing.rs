//! Frames that must not open, and what they must not disturb.

use warifu_core::frame::SealedFrame;
use warifu_hsm::{CallTally, HsmError};

use crate::subject::{self, Subject};
use crate::support::device::PAN;

fn calls(tally: &CallTally, function: &str) -> u32 {
    tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times)
}

/// Neither in the slot nor, by way of an exported key, on the host.
fn assert_nothing_was_decrypted(subject: &Subject, tally: &CallTally) {
    for function in ["C_DecryptInit", "C_Decrypt", "C_GetAttributeValue"] {
        if subject.works_in_slot() {
            assert_eq!(calls(tally, function), 0, "{}: {tally}", subject.name);
        }
    }
}

#[test]
fn a_byte_changed_anywhere_is_refused_and_the_next_good_frame_opens() {
    for subject in subject::all() {
        let mut hsm = subject.session();
        let device = subject.device(3);
        let good = device.seal(0x15);
        let mut wrong_macs = 0;
        for at in 0..good.len() {
            for change in [0x01, 0x02, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= change;
                // A header that cannot be, or lengths that do not add up, never come to be asked.
                let Ok(frame) = SealedFrame::parse(&bad) else { continue };
                hsm.take_calls();
                match hsm.open(&subject.spec.id, &frame) {
                    Err(HsmError::WrongMac) => wrong_macs += 1,
                    // The suite byte, made to name other keys.
                    Err(HsmError::SuiteMismatch(_)) if at == 3 => {}
                    Err(other) => panic!("{} byte {at}: {other}", subject.name),
                    Ok(_) => panic!("{} opened with byte {at} changed", subject.name),
                }
                assert_nothing_was_decrypted(&subject, &hsm.take_calls());
            }
        }
        // At the least everything from the KSN on came this far and was refused by its MAC.
        assert!(wrong_macs >= (good.len() - 8) * 3, "{}: {wrong_macs}", subject.name);
        let opened = hsm.open(&subject.spec.id, &SealedFrame::parse(&good).unwrap()).unwrap();
        assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes());
    }
}

#[test]
fn a_frame_of_another_key_has_a_wrong_mac() {
    let subjects = subject::all();
    for subject in &subjects {
        let mut hsm = subject.session();
        // The same device id and counter, under a key of the next serial's device.
        let mut frame = subject.device(4).seal(7);
        let other = subject.device(5).seal(7);
        let mac_at = frame.len() - 8;
        frame[mac_at..].copy_from_slice(&other[mac_at..]);
        let refused = hsm.open(&subject.spec.id, &SealedFrame::parse(&frame).unwrap());
        assert!(matches!(refused, Err(HsmError::WrongMac)), "{}", subject.name);
    }
}

#[test]
fn a_genuine_frame_with_no_card_in_it_is_refused_as_such() {
    for subject in subject::all() {
        let mut hsm = subject.session();
        let frame = subject.device(6).seal_as(3, subject.spec.len, b"hello, world");
        let refused = hsm.open(&subject.spec.id, &SealedFrame::parse(&frame).unwrap());
        assert!(matches!(refused, Err(HsmError::Card(_))), "{}", subject.name);
        assert!(hsm.open(&subject.spec.id, &subject.device(6).frame(4)).is_ok());
    }
}

#[test]
fn refusals_are_no_outages() {
    for subject in subject::all() {
        let mut hsm = subject.session();
        let mut bad = subject.device(7).seal(1);
        *bad.last_mut().unwrap() ^= 1;
        let refused = hsm.open(&subject.spec.id, &SealedFrame::parse(&bad).unwrap()).err().unwrap();
        assert!(!refused.is_outage());
    }
}
