//! AES keys of many records by every path this processor has, through the door the server uses.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test; what was not run is told")]

use warifu_core::dukpt::aes::{self, Walk};
use warifu_core::dukpt::lanes::Path;
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::AesKsn;

#[test]
fn every_path_this_processor_has_gives_the_same_keys_as_one_by_one() {
    let device = AesKsn::new([0x12; 12]);
    let ksns: Vec<AesKsn> = (1..200_u32).map(|number| device.with_counter(number.wrapping_mul(0x9E37_79B9))).collect();
    for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
        let ik = KeyBytes::filled(len, |bytes| bytes.fill(0x5A));
        let walks: Vec<Walk<'_>> = ksns.iter().map(|ksn| Walk::whole(&ik, *ksn)).collect();
        for path in Path::ALL {
            if !path.is_available() {
                eprintln!("AES-{}: the path {path:?} was not run: this processor does not have it", len.bits());
                continue;
            }
            let keys = aes::working_keys_on(path, &walks, KeyUsage::DataEncryption, KeyType::aes(len)).unwrap();
            for (ksn, key) in ksns.iter().zip(&keys) {
                let node = aes::derivation_key(&ik, ksn);
                let alone = aes::working_key(&node, ksn, KeyUsage::DataEncryption, KeyType::aes(len)).unwrap();
                assert!(key.ct_eq(&alone), "{path:?} at {:08X}", ksn.raw_counter());
            }
        }
    }
}
