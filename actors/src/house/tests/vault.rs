//! A merchant's vault moves to its next keys while cards come in.

use warifu_core::merchant::DeviceId;
use warifu_core::refusal::Refusal;
use warifu_core::token::Token;
use warifu_hsm::{Hsm as _, VaultGeneration, WrappedVaultKey};

use super::support::{CARD, Scene, caller, eventually, play, tokenize, yen};
use crate::record::{Kind, Record};
use crate::store::{LogId, Registry, Resealed, Store};
use crate::turn::Turn;

/// Other good cards.
const SECOND: &[u8] = b"5555555555554444=2812=123";
const THIRD: &[u8] = b"378282246310005=2812=1234";
const FOURTH: &[u8] = b"6011111111111117=2812=123";

/// The operator's command, which is another process.
struct Operator {
    store: Store,
    registry: Registry,
}

impl Operator {
    async fn of(scene: &Scene) -> Self {
        let store = Store::connect(scene.url()).await.unwrap();
        let registry = store.registry(LogId::parse("test-cli").unwrap());
        Self { store, registry }
    }

    /// At once closed for the key before: the house had no time to learn of it.
    async fn begin(&self, scene: &Scene) -> (WrappedVaultKey, WrappedVaultKey) {
        let shop = caller(1).merchant;
        let from = self.store.merchant(&shop).await.unwrap().unwrap().vault.key.clone();
        let to = scene.hsm.vault_key(from.generation.next());
        self.registry.begin_vault_move(&shop, &from, &to, 1).await.unwrap();
        self.registry.close_vault_move(&shop, to.generation, 1).await.unwrap();
        (from, to)
    }

    /// Seals what is left anew, and ends the move.
    async fn finish(&self, scene: &Scene, (from, to): &(WrappedVaultKey, WrappedVaultKey)) {
        let shop = caller(1).merchant;
        let mut hsm = scene.hsm.unseen();
        let left = self.store.tokens_of(&shop, from.generation, None, 100).await.unwrap();
        let reseal = |token: &crate::store::TokenRecord| {
            let (sealed, fingerprint) = hsm.reseal(from, to, &shop, &token.token, &token.sealed).unwrap();
            Resealed { token: token.token, sealed, fingerprint }
        };
        let resealed: Vec<_> = left.iter().map(reseal).collect();
        let record = Record::new(1, Kind::CardsResealed);
        self.registry.reseal(&shop, to.generation, &resealed, &record).await.unwrap();
        self.registry.end_vault_move(&shop, to.generation, 1).await.unwrap();
        while self.store.forget_fingerprints(&shop, from.generation, 10).await.unwrap() > 0 {}
    }

    async fn generation(&self, token: &Token) -> u32 {
        self.store.token(&caller(1).merchant, token).await.unwrap().unwrap().generation.number()
    }
}

#[test]
fn a_card_keeps_its_token_while_its_vault_moves_and_afterwards() {
    play(|scene, _, keypad| async move {
        let operator = Operator::of(&scene).await;
        let first = scene.tokenize("one", keypad.seal(1, CARD)).await.unwrap().token;
        let mut counter = 1;
        let mut known = vec![(CARD, first)];
        for (round, new) in [SECOND, THIRD].into_iter().enumerate() {
            // The house is not told: it learns it when it writes the new card down.
            let keys = operator.begin(&scene).await;
            counter += 1;
            let token = scene.tokenize(&format!("new-{round}"), keypad.seal(counter, new)).await.unwrap().token;
            assert_eq!(operator.generation(&token).await, keys.1.generation.number());
            known.push((new, token));
            let mut all_known = async |what: &str| {
                for (at, (card, token)) in known.iter().enumerate() {
                    counter += 1;
                    let name = format!("{what}-{round}-{at}");
                    let paid = scene.authorize(&name, 100, keypad.seal(counter, card)).await.unwrap();
                    assert_eq!((paid.card.token, paid.amount), (*token, yen(100)), "{what}");
                }
            };
            all_known("moving").await;
            operator.finish(&scene, &keys).await;
            all_known("at-rest").await;
            for (_, token) in &known {
                assert_eq!(operator.generation(token).await, keys.1.generation.number());
            }
        }
        // Every number is what it was.
        let mut hsm = scene.hsm.unseen();
        let shop = caller(1).merchant;
        let key = operator.store.merchant(&shop).await.unwrap().unwrap().vault.key.clone();
        for (card, token) in known {
            let sealed = operator.store.token(&shop, &token).await.unwrap().unwrap().sealed;
            let pan = hsm.unseal(&key, &shop, &token, &sealed).unwrap();
            assert!(card.starts_with(pan.expose()));
        }
        let moved = scene.records().await.into_iter().filter(|record| record.kind == Kind::RequestRefused);
        let causes: Vec<_> = moved.filter_map(|record| record.cause).collect();
        assert_eq!(causes, ["the merchant's vault moved to another key meanwhile"; 2], "each move was met once");
        operator.store.close().await;
    });
}

/// An upload's cards cannot be taken anew one by one: they are asked for again.
#[test]
fn a_card_of_an_upload_that_meets_a_move_is_sent_again() {
    play(|scene, _, keypad| async move {
        let operator = Operator::of(&scene).await;
        scene.tokenize("one", keypad.seal(1, CARD)).await.unwrap();
        let keys = operator.begin(&scene).await;
        let upload = || vec![tokenize("a", keypad.seal(2, CARD)), tokenize("b", keypad.seal(3, FOURTH))];
        let told = scene.house.tokenize_many(&caller(1), upload(), Turn::first()).await.unwrap();
        assert!(told[0].is_ok());
        assert_eq!(told[1], Err(Refusal::Busy));
        let again = scene.house.tokenize_many(&caller(1), upload(), Turn::first()).await.unwrap();
        assert_eq!(again[0], told[0]);
        assert_eq!(operator.generation(&again[1].as_ref().unwrap().token).await, 2);
        operator.finish(&scene, &keys).await;
        operator.store.close().await;
    });
}

/// A vault that moved away and a fingerprint key that is away are two things.
#[test]
fn the_next_keys_missing_in_the_hsm_is_an_outage_and_nothing_is_lost() {
    play(|scene, _, keypad| async move {
        let operator = Operator::of(&scene).await;
        scene.tokenize("one", keypad.seal(1, CARD)).await.unwrap();
        let keys = operator.begin(&scene).await;
        scene.hsm.fail_next("fingerprint", super::support::Fault::Outage);
        // The house may not know of the move yet: then the old key is the one that is away.
        let refused = scene.tokenize("two", keypad.seal(2, SECOND)).await;
        assert_eq!(refused, Err(Refusal::HsmUnavailable));
        let token =
            eventually("service", async || scene.tokenize("two", keypad.seal(2, SECOND)).await.ok()).await.token;
        assert_eq!(operator.generation(&token).await, VaultGeneration::FIRST.next().number());
        let device = DeviceId::parse("keypad-1").unwrap();
        assert_eq!(operator.store.device(&device).await.unwrap().unwrap().guard.high_water, 2);
        operator.finish(&scene, &keys).await;
        operator.store.close().await;
    });
}
