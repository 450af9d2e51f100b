//! Many cards together: what each would come to alone, and the counters of a device in their order.

use warifu_core::device::State;
use warifu_core::merchant::DeviceId;
use warifu_core::refusal::Refusal;

use super::support::{CARD, Fault, Keypad, caller, play, tokenize};
use crate::record::Kind;

/// Another good card.
const OTHER: &[u8] = b"5555555555554444=2812=123";
/// One whose check digit is wrong.
const WRONG: &[u8] = b"4111111111111112=2812=123";

#[test]
fn each_of_many_cards_comes_to_what_it_would_alone() {
    play(|scene, _, keypad| async move {
        let second = scene.keypad(2, "keypad-2", "shop-1").await;
        let lost = scene.keypad(3, "keypad-3", "shop-1").await;
        scene.set_device(&DeviceId::parse("keypad-3").unwrap(), State::Suspended).await;
        let mut changed = second.seal(2, CARD).to_vec();
        *changed.last_mut().unwrap() ^= 1;
        let asked = vec![
            tokenize("a", keypad.seal(1, CARD)),
            tokenize("b", second.seal(1, OTHER)),
            tokenize("c", keypad.seal(2, CARD)),
            tokenize("changed", changed.into()),
            tokenize("replayed", keypad.seal(2, CARD)),
            tokenize("c", keypad.seal(2, CARD)),
            tokenize("c", keypad.seal(3, CARD)),
            tokenize("wrong", second.seal(3, WRONG)),
            tokenize("lost", lost.seal(1, CARD)),
            tokenize("stranger", Keypad::new(77).seal(1, CARD)),
            tokenize("d", second.seal(4, CARD)),
        ];
        let names: Vec<_> = asked.iter().map(|asked| asked.request.clone()).collect();
        let told = scene.house.tokenize_many(&caller(1), asked).await.unwrap();
        assert_eq!(told.len(), names.len());
        let token = |at: usize| told[at].as_ref().unwrap().token;
        assert_eq!([token(0), token(2), token(5), token(10)], [token(0); 4], "one card, one token");
        assert_ne!(token(0), token(1));
        let refusals: Vec<_> = [3, 4, 6, 7, 8, 9].map(|at| told[at].clone().err().unwrap()).into();
        use Refusal::{CardInvalid, DeviceNotActive, DeviceUnknown, FrameRefused, FrameReplayed, RequestIdReused};
        let expected = [FrameRefused, FrameReplayed, RequestIdReused, CardInvalid, DeviceNotActive, DeviceUnknown];
        assert_eq!(refusals, expected);
        // Asked again, each has the same answer.
        assert_eq!(scene.tokenize("a", keypad.seal(1, CARD)).await, told[0]);
        assert_eq!(
            scene.record_of("wrong", Kind::RequestRefused).await.cause.unwrap(),
            "the card number's check digit is wrong"
        );
        assert_eq!(scene.record_of("a", Kind::TokenIssued).await.device.as_deref(), Some("keypad-1"));
    });
}

#[test]
fn no_card_is_taken_before_an_earlier_one_of_its_device_that_is_to_be_asked_again() {
    play(|scene, _, keypad| async move {
        scene.tokenize("known", keypad.seal(1, CARD)).await.unwrap();
        let asked = || vec![tokenize("new", keypad.seal(2, OTHER)), tokenize("later", keypad.seal(3, CARD))];
        // The new card's number cannot be sealed; the later card needs no seal.
        scene.hsm.fail_next("seal", Fault::Outage);
        let told = scene.house.tokenize_many(&caller(1), asked()).await.unwrap();
        assert_eq!(told, [const { Err(Refusal::HsmUnavailable) }; 2]);
        let told = scene.house.tokenize_many(&caller(1), asked()).await.unwrap();
        assert!(told.iter().all(Result::is_ok), "{told:?}");
    });
}
