//! Components combined inside the slot, where it can do that.

use warifu_core::component;
use warifu_core::custody::KeyProof;
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::provision;
use warifu_hsm::{BdkSpec, DecryptionMode, HsmError};

use crate::MODULE;
use crate::support::slot::Module;

fn component(seed: u8, len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value.wrapping_mul(29)))
}

#[test]
fn components_make_the_key_inside_the_slot_that_they_make_outside() {
    let slot = MODULE.shared();
    for len in [KeyLen::K128, KeyLen::K192, KeyLen::K256] {
        let Some(mut combiner) = slot.combiner(len).unwrap() else {
            assert_eq!(MODULE, Module::SoftHsm, "a slot that can combine says so");
            continue;
        };
        assert_eq!(MODULE, Module::Softokn);
        let components = [3, 41, 90].map(|seed| component(seed, len));
        components.iter().for_each(|component| combiner.add(component).unwrap());
        let key = component::combine(&components, Scheme::Aes).unwrap();
        let id = BdkId::parse(&format!("combined-{}", len.bits())).unwrap();
        let new = combiner.finish(&id).unwrap();
        assert_eq!(new.identify().unwrap(), (KeyProof::aes(&key), vec![Kcv::aes_cmac(&key), Kcv::aes(&key)]));
        for kcv in [Kcv::aes_cmac(&key), Kcv::aes(&key)] {
            assert_eq!(new.has_check_value(&kcv.to_string().to_lowercase()).unwrap(), Some(true));
        }
        assert_eq!(new.has_check_value(&Kcv::aes_cmac(&components[0]).to_string()).unwrap(), Some(false));
        new.keep().unwrap();
        let spec =
            BdkSpec { id, scheme: Scheme::Aes, len, mode: DecryptionMode::Hardware, proof: Some(KeyProof::aes(&key)) };
        slot.session(std::slice::from_ref(&spec)).unwrap();
        provision::destroy_bdk(&slot, &spec.id).unwrap();
    }
}

#[test]
fn a_combination_that_is_given_up_leaves_nothing() {
    let slot = MODULE.shared();
    slot.take_calls();
    if let Some(mut combiner) = slot.combiner(KeyLen::K128).unwrap() {
        combiner.add(&component(3, KeyLen::K128)).unwrap();
        assert!(matches!(combiner.add(&component(3, KeyLen::K256)), Err(HsmError::SelfTest(_))));
        combiner.add(&component(5, KeyLen::K128)).unwrap();
        drop(combiner);
        let nothing = slot.combiner(KeyLen::K128).unwrap().unwrap().finish(&BdkId::parse("nothing").unwrap());
        assert!(matches!(nothing.err(), Some(HsmError::SelfTest(_))));
    }
    let tally = slot.take_calls();
    let calls = |function| tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times);
    assert_eq!(calls("C_OpenSession"), calls("C_CloseSession"), "what is not destroyed dies with its session: {tally}");
}
