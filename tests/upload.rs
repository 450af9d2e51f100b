//! Cards stored while there was no connection, uploaded together: the whole way, by the SDK and a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::HashMap;

use stage::desk::keypad;
use stage::sealer::{Sealer, pan};
use stage::shop::{Shop, TILL_KSN};
use warifu_sdk::{Collected, CommModule, Config, Refusal, RequestId, SdkError};

const CARDS: usize = 400;
const SECOND_KSN: &str = "123456789012A00200000000";

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_some_hundred_cards_gives_each_its_token_once() {
    let shop = Shop::open().await;
    shop.server.add_device(&keypad("second", SECOND_KSN));
    let mut devices = [Sealer::aes(TILL_KSN), Sealer::aes(SECOND_KSN)];
    let mut cards: Vec<_> =
        (0..CARDS).map(|at| (RequestId::new(), Collected::from_bytes(devices[at % 2].keyed(&pan(at % 30))))).collect();
    // One that was sent before, and one that was changed on the way.
    let replayed = cards[10].1.clone();
    cards.push((RequestId::new(), replayed));
    let mut changed = devices[0].keyed(&pan(1));
    changed[60] ^= 0x20;
    cards.push((RequestId::new(), Collected::from_bytes(changed)));

    let server = &shop.server;
    let files = [server.file("ca"), server.file("module_cert"), server.file("module_key")];
    let [ca, certificate, key] = files;
    let module = CommModule::connect(Config::from_files(server.url(), ca, certificate, key).unwrap()).await.unwrap();
    let answers = module.tokenize_many(&cards).await;
    assert_eq!(answers.len(), CARDS + 2);

    let mut tokens = HashMap::new();
    for (at, answer) in answers.iter().take(CARDS).enumerate() {
        let card = answer.as_ref().unwrap_or_else(|error| panic!("card {at}: {error}"));
        assert_eq!(*tokens.entry(at % 30).or_insert(card.token), card.token, "one card, one token");
    }
    assert_eq!(tokens.len(), 30);
    let refused = |answer: &Result<_, SdkError>| match answer {
        Err(SdkError::Refused { refusal, .. }) => *refusal,
        other => panic!("{:?}", other.as_ref().map(|_| ())),
    };
    assert_eq!(refused(&answers[CARDS]), Some(Refusal::FrameReplayed));
    assert_eq!(refused(&answers[CARDS + 1]), Some(Refusal::FrameRefused));

    // The same cards again have the same answers.
    let again = module.tokenize_many(&cards[..CARDS]).await;
    for (first, second) in answers.iter().zip(&again) {
        assert_eq!(first.as_ref().unwrap().token, second.as_ref().unwrap().token);
    }
}
