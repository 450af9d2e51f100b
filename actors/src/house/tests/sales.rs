//! What goes well.

use std::sync::Arc;

use warifu_core::card::{Brand, luhn};
use warifu_core::device::Format;
use warifu_core::frame::Entry;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::OrderNumber;
use warifu_core::payment::{Channel, State};
use warifu_core::refusal::Refusal;
use warifu_hsm::DecryptionMode;

use super::support::{
    CARD, Mood, Stage, augusta, augusta_ksn, authorize, caller, certificate, eventually, play, untimed, yen,
};
use crate::acquirer::simulator::{Answered, Simulator};
use crate::clock::RuntimeClock;
use crate::house::Vital;
use crate::record::Kind;
use crate::store::CardCheck;
use crate::supervisor::run;

#[test]
fn a_keyed_card_becomes_a_token_and_an_approved_payment() {
    play(|scene, acquirer, keypad| async move {
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        assert!(matches!(payment.state, State::Authorized(code) if code.as_str() == "A1B2C3"));
        assert_eq!((payment.amount, payment.channel), (yen(1200), Channel::Telephone));
        let token = payment.card.token.as_str();
        assert!(token.starts_with('9') && token.ends_with("1111") && !luhn(token.as_bytes()));
        assert_eq!((payment.card.masked.as_str(), payment.card.brand), ("411111******1111", Brand::Visa));
        let origin = &payment.card.origin;
        assert_eq!((origin.device.as_str(), origin.entry), ("keypad-1", Entry::Keyed));
        assert_eq!((origin.scheme, origin.mode), (Scheme::Aes, DecryptionMode::Hardware));
        assert_eq!(scene.stored("r1").await, payment);
        let did = acquirer.did(payment.id);
        assert_eq!((did.authorizations, did.reversals, did.had_code), (1, 0, true));

        let opened = scene.record_of("r1", Kind::FrameOpened).await;
        assert_eq!((opened.device.as_deref(), opened.mode.as_deref()), (Some("keypad-1"), Some("hardware")));
        assert_eq!(opened.module.as_deref(), Some("pos-1"));
        assert_eq!(opened.calls.get("open"), Some(&1));
        let sent = scene.record_of("r1", Kind::PaymentSent).await;
        assert_eq!(sent.payment, Some(payment.id.to_string()));
    });
}

#[test]
fn the_same_card_gets_the_same_token_at_one_merchant_and_another_at_another() {
    play(|scene, _, keypad| async move {
        let first = scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        let second = scene.tokenize("r2", keypad.seal(2, b"4111111111111111=3001=")).await.unwrap();
        assert_eq!(first.token, second.token);
        let other_card = scene.tokenize("r3", keypad.seal(3, b"5500000000000004=2812=")).await.unwrap();
        assert_ne!(first.token, other_card.token);

        let other_keypad = scene.keypad(2, "keypad-2", "shop-2").await;
        let asked = super::support::tokenize("r1", other_keypad.seal(1, CARD));
        let elsewhere = scene.house.tokenize(&caller(2), asked).await.unwrap();
        assert_ne!(first.token, elsewhere.token);
    });
}

#[test]
fn a_card_is_sealed_once() {
    play(|scene, _, keypad| async move {
        scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        scene.tokenize("r2", keypad.seal(2, CARD)).await.unwrap();
        assert_eq!(scene.hsm.calls().get("seal"), Some(&1));
    });
}

#[test]
fn a_token_that_another_card_has_is_drawn_again() {
    play(|scene, _, keypad| async move {
        scene.hsm.draw_next(&[0x00, 0x00, 0x02]);
        let first = scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        // The same last four digits, so that the same draw is the same token.
        let second = scene.tokenize("r2", keypad.seal(2, b"5105105105161111=2812=")).await;
        let second = second.expect("a card of the same last four digits");
        assert_ne!(first.token, second.token);
        assert_eq!(scene.hsm.calls().get("seal"), Some(&3));
    });
}

#[test]
fn tokens_that_are_used_up_are_an_error() {
    play(|scene, _, keypad| async move {
        scene.hsm.draw_next(&[0x00]);
        scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        scene.hsm.draw_next(&[0x00; 9]);
        let refused = scene.tokenize("r2", keypad.seal(2, b"5105105105161111=2812=")).await;
        assert_eq!(refused.err(), Some(Refusal::TokensExhausted));
        scene.hsm.draw_next(&[0x02]);
        scene.tokenize("r3", keypad.seal(3, b"5105105105161111=2812=")).await.unwrap();
    });
}

#[test]
fn a_decline_is_an_answer() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::Declining);
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        assert!(matches!(payment.state, State::Declined(code) if code.as_str() == "51"));
        assert_eq!(scene.stored("r1").await, payment);
    });
}

#[test]
fn sales_are_found_by_the_merchants_own_order_number() {
    play(|scene, _, keypad| async move {
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        let order = OrderNumber::parse("order r1").unwrap();
        let found = scene.house.find_sale(&caller(1), order.clone()).await.unwrap();
        assert_eq!(found.into_iter().map(untimed).collect::<Vec<_>>(), [payment]);
        assert_eq!(scene.house.find_sale(&caller(2), order).await.unwrap(), []);
        let unknown = OrderNumber::parse("order 2").unwrap();
        assert_eq!(scene.house.find_sale(&caller(1), unknown).await.unwrap(), []);
    });
}

#[test]
fn asking_again_gives_the_first_answer() {
    play(|scene, acquirer, keypad| async move {
        let frame = keypad.seal(1, CARD);
        let payment = scene.authorize("r1", 1200, frame.clone()).await.unwrap();
        acquirer.become_mood(Mood::Declining);
        assert_eq!(scene.authorize("r1", 1200, frame).await.unwrap(), payment);
        assert_eq!((acquirer.authorizations(), scene.hsm.opened()), (1, 1));

        let frame = keypad.seal(2, CARD);
        let card = scene.tokenize("r2", frame.clone()).await.unwrap();
        assert_eq!(scene.tokenize("r2", frame).await.unwrap(), card);
    });
}

#[test]
fn a_real_readers_output_becomes_a_token() {
    play(|scene, _, _| async move {
        let (format, any) = (Format::IdTechBinary, CardCheck::Any);
        scene.device("augusta", "shop-1", augusta_ksn(), "tdes-1", format, any).await;
        let card = scene.tokenize("r1", augusta(2)).await.unwrap();
        assert_eq!((card.masked.as_str(), card.brand), ("541333******4111", Brand::Mastercard));
        let origin = card.origin;
        assert_eq!((origin.entry, origin.scheme), (Entry::Swiped, Scheme::Tdes));
        assert_eq!(origin.mode, DecryptionMode::HostDerived);
    });
}

#[test]
fn the_simulator_decides_by_amount_and_date() {
    let stage = Stage::new();
    let journal = stage.file("acquirer.jsonl");
    run(async {
        let clock = Arc::new(RuntimeClock::starting_at(super::support::TODAY_MS));
        let acquirer = Arc::new(Simulator::open(&journal, clock).unwrap());
        let scene = stage.start(acquirer).await.unwrap();
        scene.people().await;
        let keypad = scene.keypad(1, "keypad-1", "shop-1").await;
        for (counter, (name, minor, typed, expected)) in (1..).zip([
            ("approved", 1200, CARD, "00"),
            ("no-funds", 1251, CARD, "51"),
            ("issuer-down", 1291, CARD, "91"),
            ("expired", 1200, b"4111111111111111=2610=", "54"),
            ("good-through-its-month", 1200, b"4111111111111111=2611=", "00"),
        ]) {
            let payment = scene.authorize(name, minor, keypad.seal(counter, typed)).await.unwrap();
            let code = match payment.state {
                State::Authorized(_) => "00".to_owned(),
                State::Declined(code) => code.to_string(),
                state => panic!("{name} is {state:?}"),
            };
            assert_eq!(code, expected, "{name}");
        }
    });
    let journal = Simulator::journal(&journal).unwrap();
    assert_eq!(journal.len(), 5);
    assert_eq!(journal[1].answer, Answered::Declined("51".to_owned()));
}

#[test]
fn a_module_is_known_by_its_certificate_until_it_is_blocked() {
    play(|scene, _, _| async move {
        assert_eq!(scene.house.identify(certificate(1)).await, Ok(caller(1)));
        assert_eq!(scene.house.identify(certificate(9)).await, Err(Refusal::ModuleUnknown));
        scene.registry().block_module(&caller(1).module, 2).await.unwrap();
        assert_eq!(scene.house.identify(certificate(1)).await, Err(Refusal::ModuleUnknown));
        let stranger = scene.caused(Kind::CallerRefused, "no module has this certificate").await;
        assert_eq!(stranger.module, Some(format!("sha256:{}", "09".repeat(32))));
        scene.caused(Kind::CallerRefused, "the module is blocked").await;
    });
}

#[test]
fn health_tells_what_works() {
    play(|scene, acquirer, keypad| async move {
        let health = scene.house.health();
        assert!(health.is_ready());
        assert_eq!(health.modes, [DecryptionMode::Hardware, DecryptionMode::HostDerived]);
        assert!(health.accept_non_p2pe && !health.draining);
        acquirer.become_mood(Mood::Away);
        scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        assert_eq!(scene.house.health().acquirer, Vital::Down);
        acquirer.become_mood(Mood::Approving);
        eventually("the payment's end", async || scene.stored("r1").await.state.is_settled().then_some(())).await;
        assert_eq!(scene.house.health().acquirer, Vital::Up);
    });
}

#[test]
fn a_drained_house_refuses_work_has_signed_its_log_and_closed_the_hsm() {
    play(|scene, _, keypad| async move {
        scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        scene.house.drain(std::time::Duration::from_secs(5)).await;
        assert_eq!(scene.authorize("r2", 1200, keypad.seal(2, CARD)).await.err(), Some(Refusal::Draining));
        assert_eq!(scene.house.health().hsm, Vital::Down);
        let calls = scene.hsm.calls();
        assert_eq!(calls.get("session"), calls.get("close"));
        scene.house.stopped(&warifu_hsm::CallTally::default()).await;
        assert_eq!(scene.records().await.last().unwrap().kind, Kind::ServerStopped);
        let log = crate::store::LogId::parse("test-1").unwrap();
        let head = scene.store.newest_head(&log).await.unwrap().expect("a signed head");
        assert!(head.head.size >= 4);
    });
}

#[test]
fn nobody_who_leaves_early_changes_what_happens() {
    play(|scene, acquirer, keypad| async move {
        let caller = caller(1);
        let asking = scene.house.authorize(&caller, authorize("r1", 1200, keypad.seal(1, CARD)));
        tokio::select! {
            biased;
            () = eventually("the opening", async || (scene.hsm.opened() > 0).then_some(())) => {}
            _ = asking => {}
        }
        let settled = eventually("the sale", async || {
            let (_, taken) = scene.store.request(&caller.merchant, &super::support::request("r1")).await.unwrap()?;
            taken.payment.filter(|payment| payment.state.is_settled())
        });
        assert!(matches!(settled.await.state, State::Authorized(_)));
        assert_eq!(acquirer.authorizations(), 1);
    });
}
