//! A slot held to what the registry knows of its keys.

use warifu_core::custody::{KeyProof, Purpose};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen, KeyType};
use warifu_core::key_block::{
    Algorithm, BlockId, Kbpk, KeyBlock, Mode, Protection, ProtectionCipher, Usage, Version, WrapError,
};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::{KbpkSpec, provision};
use warifu_hsm::{BdkSpec, DecryptionMode, HsmError};

use crate::MODULE;
use crate::support::slot::{self, test_key};

fn named(name: &str, scheme: Scheme, len: KeyLen) -> BdkSpec {
    let mode = match scheme {
        Scheme::Aes => DecryptionMode::Hardware,
        Scheme::Tdes => DecryptionMode::HostDerived,
    };
    BdkSpec { id: BdkId::parse(name).unwrap(), scheme, len, mode, proof: None }
}

fn key(seed: u8, len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(seed..).for_each(|(byte, value)| *byte = value))
}

#[test]
fn a_slot_identifies_each_key_as_the_domain_does() {
    let slot = MODULE.shared();
    for spec in slot::specs() {
        let (proof, shown) = slot.identify(&spec).unwrap();
        let key = test_key(&spec);
        assert_eq!(proof, KeyProof::of(spec.scheme, &key), "{}", spec.id);
        let on_paper = match spec.scheme {
            Scheme::Aes => vec![Kcv::aes_cmac(&key), Kcv::aes(&key)],
            Scheme::Tdes => vec![Kcv::tdes(&key)],
        };
        assert_eq!(shown, on_paper, "{}", spec.id);
    }
}

#[test]
fn a_session_opens_over_the_registered_keys_only() {
    let slot = MODULE.shared();
    let keys = [("held-one", Scheme::Aes, 1), ("held-two", Scheme::Aes, 2), ("held-tdes", Scheme::Tdes, 3)];
    let specs = keys.map(|(name, scheme, seed)| {
        let spec = named(name, scheme, KeyLen::K128);
        let key = key(seed, KeyLen::K128);
        provision::import_bdk(&slot, &spec, &key).unwrap();
        BdkSpec { proof: Some(KeyProof::of(scheme, &key)), ..spec }
    });
    slot.session(&specs).unwrap();

    let mut swapped = specs.clone();
    swapped[0].proof = specs[1].proof;
    swapped[1].proof = specs[0].proof;
    let refused = slot.session(&swapped).err().unwrap();
    assert!(matches!(&refused, HsmError::KeyReplaced { is: Some(id), .. } if *id == specs[1].id), "{refused}");
    assert!(refused.is_outage());

    for at in 0..specs.len() {
        let mut other = specs.clone();
        other[at].proof = Some(KeyProof([0; 16]));
        let refused = slot.session(&other).err().unwrap();
        assert!(matches!(&refused, HsmError::KeyReplaced { is: None, .. }), "{refused}");
        assert!(refused.to_string().contains(specs[at].id.as_str()), "{refused}");
    }
}

#[test]
fn a_destroyed_key_leaves_its_label_vacant() {
    let slot = MODULE.shared();
    for (scheme, name) in [(Scheme::Aes, "brief-aes"), (Scheme::Tdes, "brief-tdes")] {
        let spec = named(name, scheme, KeyLen::K128);
        assert!(slot.is_vacant(Purpose::Bdk, &spec.id).unwrap());
        provision::import_bdk(&slot, &spec, &key(9, KeyLen::K128)).unwrap();
        assert!(!slot.is_vacant(Purpose::Bdk, &spec.id).unwrap());
        provision::destroy_bdk(&slot, &spec.id).unwrap();
        assert!(slot.is_vacant(Purpose::Bdk, &spec.id).unwrap());
        assert!(matches!(slot.identify(&spec), Err(HsmError::KeyMissing { .. })));
        // What is not there is as good as destroyed.
        provision::destroy_bdk(&slot, &spec.id).unwrap();
    }
}

/// The block is one that others' code opens: `core` is held to the published vectors.
#[test]
fn an_initial_key_leaves_in_a_block_that_its_facility_can_open() {
    let slot = MODULE.shared();
    let (id, kbpk) = (BdkId::parse("facility").unwrap(), key(0x51, KeyLen::K256));
    provision::import_kbpk(&slot, &id, &kbpk).unwrap();
    let (proof, kcv) = slot.identify_kbpk(&id, KeyLen::K256).unwrap();
    assert_eq!((proof, kcv), (KeyProof::kbpk(&kbpk), Kcv::aes_cmac(&kbpk)));
    let facility = KbpkSpec { id: id.clone(), len: KeyLen::K256, proof };
    let kbpk = Kbpk::new(ProtectionCipher::Aes, kbpk).unwrap();
    let protection = Protection::new(Version::D, &kbpk).unwrap();

    let aes =
        [KeyLen::K128, KeyLen::K192, KeyLen::K256].map(|len| slot::spec(Scheme::Aes, len, DecryptionMode::Hardware));
    let tdes = slot::spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived);
    for spec in aes.iter().chain([&tdes]) {
        let ksn = match spec.scheme {
            Scheme::Aes => Ksn::Aes(AesKsn::new([0x5A; 12]).with_counter(0)),
            Scheme::Tdes => Ksn::Tdes(TdesKsn::new([0x5A; 10]).with_counter(0)),
        };
        let text = slot.export_initial_key(spec, &ksn, &facility).unwrap().to_string();
        let opened = KeyBlock::parse(&text).unwrap().unwrap_key(&protection).unwrap();
        let (algorithm, initial) = match &ksn {
            Ksn::Aes(ksn) => (Algorithm::Aes, aes::initial_key(&test_key(spec), ksn.ik_id())),
            Ksn::Tdes(ksn) => (Algorithm::Tdes, tdes::initial_key(&test_key(spec), ksn)),
        };
        assert!(opened.warnings().is_empty(), "{:?}", opened.warnings());
        let opened = opened.for_use(Usage::InitialKey, algorithm, Mode::Derive).unwrap();
        assert_eq!(opened.key().bytes().expose(), initial.expose());
        assert!(opened.for_export().is_err(), "an injected key stays where it is");
    }

    // A device that has its keys needs no facility: what it is to have next comes under its own update key.
    let (old, new) =
        (Ksn::Aes(AesKsn::new([0x5A; 12]).with_counter(7)), Ksn::Aes(AesKsn::new([0xA5; 12]).with_counter(0)));
    for (from, to) in [(0, 0), (1, 0), (2, 2)].map(|(from, to)| (&aes[from], &aes[to])) {
        let block = slot.export_update((from, &old), (to, &new)).unwrap();
        let (old_id, new_id) = ([0x5A; 8], [0xA5; 8]);
        let initial = aes::initial_key(&test_key(from), old_id);
        let update_key = aes::update_key(&initial, old_id, KeyType::aes(from.len)).unwrap();
        let update_key = Kbpk::new(ProtectionCipher::Aes, update_key).unwrap();
        let opened = block.unwrap_key(&Protection::new(Version::D, &update_key).unwrap()).unwrap();
        assert_eq!(opened.header().find(BlockId::IK).unwrap().content(), "A5".repeat(8));
        let opened = opened.for_use(Usage::InitialKey, Algorithm::Aes, Mode::Derive).unwrap();
        assert_eq!(opened.key().bytes().expose(), aes::initial_key(&test_key(to), new_id).expose());
        assert!(block.unwrap_key(&protection).is_err());
    }
    let weak_update = slot.export_update((&aes[0], &old), (&aes[2], &new));
    assert!(matches!(weak_update, Err(HsmError::KeyBlock(WrapError::WeakProtection))));
    let of_tdes = slot.export_update((&tdes, &Ksn::Tdes(TdesKsn::new([0x5A; 10]))), (&aes[0], &new));
    assert!(matches!(of_tdes, Err(HsmError::SuiteMismatch(_))));

    let weak = BdkId::parse("weak-facility").unwrap();
    provision::import_kbpk(&slot, &weak, &key(0x61, KeyLen::K128)).unwrap();
    let weak = KbpkSpec { proof: slot.identify_kbpk(&weak, KeyLen::K128).unwrap().0, id: weak, len: KeyLen::K128 };
    let ksn = Ksn::Aes(AesKsn::new([0x5A; 12]).with_counter(0));
    let refused = slot.export_initial_key(&aes[2], &ksn, &weak);
    assert!(matches!(refused, Err(HsmError::KeyBlock(WrapError::WeakProtection))));
    let other = KbpkSpec { proof: KeyProof([0; 16]), ..facility };
    assert!(matches!(slot.export_initial_key(&aes[0], &ksn, &other), Err(HsmError::KeyReplaced { .. })));
}
