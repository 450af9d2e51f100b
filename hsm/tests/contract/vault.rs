//! Fingerprints, and card numbers sealed and unsealed.

use warifu_core::card::Pan;
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::{HsmError, SealedPan, WrappedVaultKey};

use crate::subject;

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
        let first = one.fingerprint(&merchant("shop-1"), &pan("4012888888881881")).unwrap();
        let again = two.fingerprint(&merchant("shop-1"), &pan("4012888888881881")).unwrap();
        assert!(first == again, "{}", subject.name);
        for (shop, card) in
            [("shop-2", "4012888888881881"), ("shop-1", "4012888888881889"), ("shop-14", "012888888881881")]
        {
            let other = one.fingerprint(&merchant(shop), &pan(card)).unwrap();
            assert!(other != first, "{} {shop}", subject.name);
        }
    }
}

#[test]
fn a_sealed_card_number_unseals_for_its_merchant_and_token_in_any_session() {
    for subject in subject::backends() {
        let (mut one, mut two) = (subject.session(), subject.session());
        let key = one.create_vault_key().unwrap();
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
        let key = hsm.create_vault_key().unwrap();
        let mut seal = || hsm.seal(&key, &merchant("shop-1"), &token(1), &pan("4012888888881881")).unwrap();
        let (one, two) = (seal(), seal());
        assert!(one.nonce != two.nonce && one.ciphertext != two.ciphertext, "{}", subject.name);
    }
}

#[test]
fn a_seal_is_refused_for_another_merchant_token_or_key_and_with_any_byte_changed() {
    for subject in subject::backends() {
        let mut hsm = subject.session();
        let (key, other_key) = (hsm.create_vault_key().unwrap(), hsm.create_vault_key().unwrap());
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
        for at in 0..key.0.len() {
            let mut bad = key.clone();
            bad.0[at] ^= 0x20;
            refuse(&bad, &shop, &token(1), &sealed, "a changed vault key");
        }
        for len in [0, 1, 8, key.0.len() - 1, key.0.len() + 8] {
            let mut bad = key.clone();
            bad.0.resize(len, 0);
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
                let key = hsm.create_vault_key().unwrap();
                let sealed = hsm.seal(&key, &shop, &token(1), &pan("4012888888881881")).unwrap();
                (shop, key, sealed)
            })
            .collect();
        for (shop, key, sealed) in &shops {
            assert!(hsm.unseal(key, shop, &token(1), sealed).is_ok(), "{} {shop}", subject.name);
        }
    }
}
