//! Fingerprints, and card numbers sealed and unsealed.

use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::pkcs11::provision::{self, VaultKeys};
use warifu_hsm::pkcs11::vault_root_label;
use warifu_hsm::{Hsm as _, HsmError, SealedPan, VaultGeneration, VaultSpec, WrappedVaultKey};

use crate::MODULE;
use crate::subject::{self, Backend};

fn merchant(id: &str) -> MerchantId {
    MerchantId::parse(id).unwrap()
}

fn pan(digits: &str) -> Pan {
    Pan::parse(digits.as_bytes()).unwrap()
}

fn token(seed: u8) -> Token {
    (0..=u8::MAX).find_map(|draw| Token::draw([0, seed, draw, 1, 2, 3, 4, 5], None)).unwrap()
}

#[test]
fn a_card_has_one_fingerprint_at_a_merchant_and_another_elsewhere() {
    for subject in subject::backends() {
        let (mut one, mut two) = (subject.session(), subject.session());
        let first = one.fingerprint(VaultGeneration::FIRST, &merchant("shop-1"), &pan("4012888888881881")).unwrap();
        let again = two.fingerprint(VaultGeneration::FIRST, &merchant("shop-1"), &pan("4012888888881881")).unwrap();
        assert!(first == again, "{}", subject.name);
        for (shop, card) in
            [("shop-2", "4012888888881881"), ("shop-1", "4012888888881889"), ("shop-14", "012888888881881")]
        {
            let other = one.fingerprint(VaultGeneration::FIRST, &merchant(shop), &pan(card)).unwrap();
            assert!(other != first, "{} {shop}", subject.name);
        }
    }
}

#[test]
fn a_sealed_card_number_unseals_for_its_merchant_and_token_in_any_session() {
    for subject in subject::backends() {
        let (mut one, mut two) = (subject.session(), subject.session());
        let key = one.create_vault_key(VaultGeneration::FIRST).unwrap();
        for digits in ["401288888888", "4012888888881881", "4012888888881881018"] {
            let sealed = one.seal(&key, &merchant("shop-1"), &token(1), &pan(digits)).unwrap();
            assert_eq!(sealed.ciphertext.len(), digits.len() + 16);
            let open = two.unseal(&key, &merchant("shop-1"), &token(1), &sealed).unwrap();
            assert_eq!(open.expose(), digits.as_bytes(), "{}", subject.name);
        }
    }
}

#[test]
fn a_seal_is_never_the_same_twice() {
    for subject in subject::backends() {
        let mut hsm = subject.session();
        let key = hsm.create_vault_key(VaultGeneration::FIRST).unwrap();
        let mut seal = || hsm.seal(&key, &merchant("shop-1"), &token(1), &pan("4012888888881881")).unwrap();
        let (one, two) = (seal(), seal());
        assert!(one.nonce != two.nonce && one.ciphertext != two.ciphertext, "{}", subject.name);
    }
}

#[test]
fn a_seal_is_refused_for_another_merchant_token_or_key_and_with_any_byte_changed() {
    for subject in subject::backends() {
        let mut hsm = subject.session();
        let (key, other_key) = (
            hsm.create_vault_key(VaultGeneration::FIRST).unwrap(),
            hsm.create_vault_key(VaultGeneration::FIRST).unwrap(),
        );
        let shop = merchant("shop-1");
        let sealed = hsm.seal(&key, &shop, &token(1), &pan("4012888888881881")).unwrap();
        let mut refuse = |key: &WrappedVaultKey, shop: &MerchantId, token: &Token, sealed: &SealedPan, what: &str| {
            let refused = hsm.unseal(key, shop, token, sealed);
            assert!(matches!(refused, Err(HsmError::Sealed)), "{}: {what}: {:?}", subject.name, refused.err());
        };
        refuse(&key, &merchant("shop-2"), &token(1), &sealed, "another merchant");
        refuse(&key, &shop, &token(2), &sealed, "another token");
        refuse(&other_key, &shop, &token(1), &sealed, "another key");
        for at in 0..sealed.ciphertext.len() {
            let mut bad = sealed.clone();
            bad.ciphertext[at] ^= 0x20;
            refuse(&key, &shop, &token(1), &bad, "a changed byte");
        }
        for at in 0..sealed.nonce.len() {
            let mut bad = sealed.clone();
            bad.nonce[at] ^= 0x20;
            refuse(&key, &shop, &token(1), &bad, "a changed nonce");
        }
        for len in [0, 1, 15, 16, 17, sealed.ciphertext.len() - 1] {
            let mut bad = sealed.clone();
            bad.ciphertext.truncate(len);
            refuse(&key, &shop, &token(1), &bad, "a cut ciphertext");
        }
        for at in 0..key.blob.len() {
            let mut bad = key.clone();
            bad.blob[at] ^= 0x20;
            refuse(&bad, &shop, &token(1), &sealed, "a changed vault key");
        }
        for len in [0, 1, 8, key.blob.len() - 1, key.blob.len() + 8] {
            let mut bad = key.clone();
            bad.blob.resize(len, 0);
            refuse(&bad, &shop, &token(1), &sealed, "a vault key of another length");
        }
        assert!(hsm.unseal(&key, &shop, &token(1), &sealed).is_ok(), "{}", subject.name);
    }
}

/// More merchants than a session keeps keys for.
#[test]
fn vault_keys_come_back_after_others_took_their_place() {
    for subject in subject::backends() {
        let mut hsm = subject.session();
        let shops: Vec<_> = (0..150)
            .map(|number| {
                let shop = merchant(&format!("shop-{number}"));
                let key = hsm.create_vault_key(VaultGeneration::FIRST).unwrap();
                let sealed = hsm.seal(&key, &shop, &token(1), &pan("4012888888881881")).unwrap();
                (shop, key, sealed)
            })
            .collect();
        for (shop, key, sealed) in &shops {
            assert!(hsm.unseal(key, shop, &token(1), sealed).is_ok(), "{} {shop}", subject.name);
        }
    }
}

#[test]
fn generations_of_vault_keys_are_keys_of_their_own() {
    let second = VaultGeneration::FIRST.next();
    for subject in subject::backends() {
        let slot = (subject.backend == Backend::Module).then(|| MODULE.shared());
        if let Some(slot) = &slot {
            VaultKeys::create(slot, second).unwrap();
        }
        let (mut one, mut two) = (subject.session(), subject.session());
        let (shop, card) = (merchant("shop-1"), pan("4012888888881881"));
        let (old, new) = (one.create_vault_key(VaultGeneration::FIRST).unwrap(), one.create_vault_key(second).unwrap());
        let proofs = [VaultGeneration::FIRST, second].map(|generation| one.fingerprint_proof(generation).unwrap());
        assert_ne!(proofs[0], proofs[1], "{}", subject.name);
        let sealed = one.seal(&old, &shop, &token(1), &card).unwrap();

        let (resealed, fingerprint) = two.reseal(&old, &new, &shop, &token(1), &sealed).unwrap();
        assert!(fingerprint == one.fingerprint(second, &shop, &card).unwrap(), "{}", subject.name);
        assert!(fingerprint != one.fingerprint(VaultGeneration::FIRST, &shop, &card).unwrap(), "{}", subject.name);
        assert_eq!(one.unseal(&new, &shop, &token(1), &resealed).unwrap().expose(), card.expose());
        for (key, sealed) in [(&old, &resealed), (&new, &sealed)] {
            assert!(matches!(one.unseal(key, &shop, &token(1), sealed), Err(HsmError::Sealed)), "{}", subject.name);
        }
        // A blob is of the generation it was wrapped for, and no other.
        let mistaken = WrappedVaultKey { generation: VaultGeneration::FIRST, ..new.clone() };
        assert!(matches!(one.unseal(&mistaken, &shop, &token(1), &resealed), Err(HsmError::Sealed)));
        let foreign = two.reseal(&old, &new, &shop, &token(2), &sealed);
        assert!(matches!(foreign, Err(HsmError::Sealed)), "{}", subject.name);

        let Some(slot) = &slot else { continue };
        assert!(matches!(VaultKeys::create(slot, second), Err(HsmError::KeyExists { .. })));
        provision::destroy_vault_keys(slot, second).unwrap();
        assert!(slot.is_vault_vacant(second).unwrap() && !slot.is_vault_vacant(VaultGeneration::FIRST).unwrap());
        let gone = subject.session().fingerprint(second, &shop, &card).err().unwrap();
        assert!(matches!(&gone, HsmError::KeyMissing { label } if *label == vault_root_label(second)), "{gone}");
        assert!(gone.is_outage());
        assert!(subject.session().fingerprint(VaultGeneration::FIRST, &shop, &card).is_ok());
    }
}

#[test]
fn who_slept_destroys_no_vault_keys_that_were_made_meanwhile() {
    let slot = MODULE.shared();
    let generation = VaultGeneration::from_number(7).unwrap();
    drop(VaultKeys::create(&slot, generation).unwrap());
    let slept = VaultKeys::left(&slot, generation).unwrap();
    VaultKeys::left(&slot, generation).unwrap().destroy().unwrap();
    assert!(slot.is_vault_vacant(generation).unwrap());
    let new = VaultKeys::create(&slot, generation).unwrap();
    let proof = slot.session(&[]).unwrap().fingerprint_proof(generation).unwrap();
    assert!(slept.destroy().is_err(), "they are gone");
    assert_eq!(slot.session(&[]).unwrap().fingerprint_proof(generation).unwrap(), proof);
    slot.session(&[]).unwrap().create_vault_key(generation).unwrap();
    new.destroy().unwrap();
    assert!(slot.is_vault_vacant(generation).unwrap());
}

#[test]
fn another_fingerprint_key_than_the_registered_one_is_not_used() {
    let slot = MODULE.shared();
    let mut session = slot.session(&[]).unwrap();
    let generation = VaultGeneration::FIRST;
    let proof = session.fingerprint_proof(generation).unwrap();
    let right = VaultSpec { generation, proof: Some(proof) };
    assert!(slot.session_with(&[], &[right]).unwrap().has_vault(generation).is_ok());
    let wrong = VaultSpec { generation, proof: Some(KeyProof([7; 16])) };
    let mut held = slot.session_with(&[], &[wrong]).unwrap();
    let card = pan("4012888888881881");
    let refused = [
        held.has_vault(generation).err(),
        held.fingerprint(generation, &merchant("shop-1"), &card).err(),
        held.create_vault_key(generation).err(),
    ];
    for refused in refused {
        let refused = refused.unwrap();
        let HsmError::KeyReplaced { label, found, .. } = &refused else { panic!("{refused}") };
        assert_eq!((label.as_str(), *found), ("warifu/fingerprint", proof));
    }
}
