//! The contract.
#![allow(clippy::unwrap_used, clippy::as_conversions, unsafe_code, reason = "tests")]

mod support;

use support::device::{Device, PAN};
use support::slot;
use warifu_hsm::Hsm;

#[test]
fn opens() {
    for (spec, _) in slot::bdks() {
        let mut hsm = slot::shared().session(std::slice::from_ref(&spec)).unwrap();
        println!("{} {}", spec.id, hsm.take_calls());
        let device = Device::new(&spec, 1);
        for counter in [1, 2, 3, 0xFF] {
            let opened = hsm.open(&spec.id, &device.frame(counter)).unwrap();
            assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes());
            println!("{} {}", spec.id, hsm.take_calls());
        }
    }
}
