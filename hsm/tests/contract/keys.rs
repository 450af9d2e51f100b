//! Keys in a slot that must not be used, and keys that are not there.

use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::{Slot, bdk_label, masked_bdk_label, provision};
use warifu_hsm::{BdkSpec, DecryptionMode, HsmError};

use crate::MODULE;
use crate::support::slot::{SHARED, spec, test_key};

fn named(name: &str, scheme: Scheme, mode: DecryptionMode) -> BdkSpec {
    BdkSpec { id: BdkId::parse(name).unwrap(), scheme, len: KeyLen::K128, mode, proof: None }
}

/// A session beside the slot's own, in the same login, to put keys of any kind into it.
fn bystander(slot: &Slot) -> Session {
    let pkcs11 = Pkcs11::new(MODULE.path()).unwrap();
    let found = pkcs11.get_slots_with_token().unwrap();
    let wanted =
        |slot_id: &cryptoki::slot::Slot| pkcs11.get_token_info(*slot_id).unwrap().label() == slot.token_label();
    pkcs11.open_rw_session(found.into_iter().find(wanted).unwrap()).unwrap()
}

/// A derive-only AES key, with some attributes of one's own.
fn put(session: &Session, label: &str, key_type: KeyType, len: usize, changes: &[Attribute]) {
    let defaults = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(true),
    ];
    let mut template = vec![Attribute::Label(label.into()), Attribute::Value(vec![0x45; len])];
    template.extend(defaults.into_iter().map(|default| {
        let same_kind = |change: &&Attribute| change.attribute_type() == default.attribute_type();
        changes.iter().find(same_kind).cloned().unwrap_or(default)
    }));
    session.create_object(&template).unwrap();
}

#[test]
fn a_base_derivation_key_that_can_do_more_than_derive_is_refused() {
    let slot = MODULE.shared();
    let session = bystander(&slot);
    let unfit: [(&str, &[Attribute]); 9] = [
        ("readable", &[Attribute::Sensitive(false)]),
        ("extractable", &[Attribute::Extractable(true)]),
        ("encrypts", &[Attribute::Encrypt(true)]),
        ("decrypts", &[Attribute::Decrypt(true)]),
        ("signs", &[Attribute::Sign(true)]),
        ("verifies", &[Attribute::Verify(true)]),
        ("wraps", &[Attribute::Wrap(true)]),
        ("unwraps", &[Attribute::Unwrap(true)]),
        ("does-not-derive", &[Attribute::Derive(false)]),
    ];
    for (name, changes) in unfit {
        let spec = named(&format!("unfit-{name}"), Scheme::Aes, DecryptionMode::Hardware);
        put(&session, &bdk_label(&spec.id), KeyType::AES, 16, changes);
        let refused = slot.session(&[spec]).err().unwrap();
        assert!(matches!(refused, HsmError::KeyUnfit { .. }), "{name}: {refused}");
        assert!(refused.is_outage());
    }
    // The same key with none of these changes is taken: each refusal above had its own reason.
    let fit = named("fit", Scheme::Aes, DecryptionMode::Hardware);
    put(&session, &bdk_label(&fit.id), KeyType::AES, 16, &[]);
    slot.session(&[fit]).unwrap();
}

#[test]
fn a_key_of_another_kind_or_length_is_refused() {
    let slot = MODULE.shared();
    let session = bystander(&slot);
    let other_len = named("other-length", Scheme::Aes, DecryptionMode::Hardware);
    put(&session, &bdk_label(&other_len.id), KeyType::AES, 32, &[]);
    let other_kind = named("other-kind", Scheme::Aes, DecryptionMode::Hardware);
    put(&session, &bdk_label(&other_kind.id), KeyType::GENERIC_SECRET, 16, &[]);
    for spec in [other_len, other_kind] {
        assert!(matches!(slot.session(&[spec]), Err(HsmError::KeyUnfit { .. })));
    }
}

#[test]
fn both_objects_of_a_tdes_key_are_held_to_encryption_only() {
    let slot = MODULE.shared();
    let session = bystander(&slot);
    let encrypts = [Attribute::Encrypt(true), Attribute::Derive(false)];
    let half = named("tdes-half", Scheme::Tdes, DecryptionMode::HostDerived);
    put(&session, &bdk_label(&half.id), KeyType::DES3, 24, &encrypts);
    assert!(matches!(slot.session(std::slice::from_ref(&half)), Err(HsmError::KeyMissing { .. })));
    put(&session, &masked_bdk_label(&half.id), KeyType::DES3, 24, &[Attribute::Encrypt(true)]);
    assert!(matches!(slot.session(&[half]), Err(HsmError::KeyUnfit { .. })));
}

#[test]
fn a_missing_key_and_a_label_with_two_keys_are_told_apart() {
    let slot = MODULE.shared();
    let spec = named("twice", Scheme::Aes, DecryptionMode::Hardware);
    let missing = slot.session(std::slice::from_ref(&spec)).err().unwrap();
    assert!(matches!(&missing, HsmError::KeyMissing { label } if *label == bdk_label(&spec.id)));
    assert!(missing.is_outage());
    let session = bystander(&slot);
    put(&session, &bdk_label(&spec.id), KeyType::AES, 16, &[]);
    put(&session, &bdk_label(&spec.id), KeyType::AES, 16, &[]);
    assert!(matches!(slot.session(&[spec]), Err(HsmError::KeyAmbiguous { .. })));
}

#[test]
fn a_slot_without_service_keys_gives_no_session() {
    let slot = MODULE.new_slot("bare");
    let missing = slot.session(&[]).err().unwrap();
    assert!(matches!(missing, HsmError::KeyMissing { label } if label.starts_with("warifu/")));
    provision::create_service_keys(&slot).unwrap();
    slot.session(&[]).unwrap();
}

#[test]
fn provisioning_never_replaces() {
    let slot = MODULE.shared();
    let taken = spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware);
    let refused = provision::import_bdk(&slot, &taken, &test_key(&taken));
    assert!(matches!(refused, Err(HsmError::KeyExists { label }) if label == bdk_label(&taken.id)));
    let tdes = spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived);
    assert!(matches!(provision::import_bdk(&slot, &tdes, &test_key(&tdes)), Err(HsmError::KeyExists { .. })));
    assert!(matches!(provision::create_service_keys(&slot), Err(HsmError::KeyExists { .. })));
    // And what was there still works.
    slot.session(&[taken, tdes]).unwrap();
}

#[test]
fn a_key_of_the_wrong_length_is_not_imported() {
    let slot = MODULE.shared();
    let spec = named("short", Scheme::Aes, DecryptionMode::Hardware);
    let long = KeyBytes::filled(KeyLen::K256, |bytes| bytes.fill(3));
    assert!(matches!(provision::import_bdk(&slot, &spec, &long), Err(HsmError::KeyUnfit { .. })));
    assert!(matches!(slot.session(&[spec]), Err(HsmError::KeyMissing { .. })));
}

#[test]
fn a_mode_that_cannot_or_may_not_be_is_refused_by_name() {
    let slot = MODULE.shared();
    for mode in [DecryptionMode::Hardware, DecryptionMode::Hybrid] {
        let mut tdes = spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived);
        tdes.mode = mode;
        assert!(matches!(slot.session(&[tdes]), Err(HsmError::ModeRefused { .. })));
    }
    let mut strict = MODULE.config(SHARED);
    strict.accept_non_p2pe = false;
    let strict = Slot::open(strict).unwrap();
    for scheme in [Scheme::Aes, Scheme::Tdes] {
        let refused = strict.session(&[spec(scheme, KeyLen::K128, DecryptionMode::HostDerived)]).err().unwrap();
        assert!(refused.to_string().contains("host-derived"), "{refused}");
    }
    strict.session(&[spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware)]).unwrap();
}

#[test]
fn the_audit_key_signs_and_does_nothing_else() {
    let slot = MODULE.shared();
    let session = bystander(&slot);
    let uses = |class, asked: &[AttributeType]| {
        let template = [Attribute::Class(class), Attribute::Token(true), Attribute::Label("warifu/audit".into())];
        let [key] = session.find_objects(&template).unwrap()[..] else { panic!("one audit key of each class") };
        session.get_attributes(key, asked).unwrap()
    };
    let private = [
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    let public = [
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ];
    for (class, wanted) in [(ObjectClass::PRIVATE_KEY, private), (ObjectClass::PUBLIC_KEY, public)] {
        let asked = wanted.each_ref().map(Attribute::attribute_type);
        assert_eq!(uses(class, &asked), wanted);
    }
}
