//! Many cards together: what each would come to alone, and the counters of a device in their order.

use warifu_core::device::State;
use warifu_core::merchant::DeviceId;
use warifu_core::refusal::Refusal;

use super::support::{CARD, Fault, Keypad, Stage, caller, eventually, play, play_on, tokenize};
use crate::record::Kind;
use crate::turn::Turn;

/// Another good card.
const OTHER: &[u8] = b"5555555555554444=2812=123";
/// Good cards.
const PANS: [&str; 6] = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "6011111111111117",
    "3530111333300000",
    "30569309025904",
];
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
        let told = scene.house.tokenize_many(&caller(1), asked, Turn::first()).await.unwrap();
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
        let told = scene.house.tokenize_many(&caller(1), asked(), Turn::first()).await.unwrap();
        assert_eq!(told, [const { Err(Refusal::HsmUnavailable) }; 2]);
        let told = scene.house.tokenize_many(&caller(1), asked(), Turn::first()).await.unwrap();
        assert!(told.iter().all(Result::is_ok), "{told:?}");
    });
}

#[test]
fn where_the_writer_has_no_room_for_all_none_is_taken() {
    let mut stage = Stage::new();
    stage.settings.writer.queue = 3;
    play_on(&stage, |scene, _, keypad| async move {
        let card = |number| tokenize(&format!("r{number}"), keypad.seal(number, CARD));
        scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        let told = scene.house.tokenize_many(&caller(1), (2..8).map(card).collect(), Turn::first()).await.unwrap();
        assert_eq!(told, [const { Err(Refusal::Busy) }; 6]);
        // Each counter is still unused.
        for number in 2..8 {
            // The refusals themselves are still being written down, and that takes room too.
            let told = eventually("room in the queue", async || {
                Some(scene.house.tokenize(&caller(1), card(number)).await).filter(|told| *told != Err(Refusal::Busy))
            });
            told.await.unwrap();
        }
    });
}

#[test]
fn an_upload_tried_again_does_not_overtake_its_first_try() {
    play(|scene, _, keypad| async move {
        let new = |number: u32| format!("{}=2812=123", PANS[usize::try_from(number).unwrap() % PANS.len()]);
        let cards = |up_to: u32| -> Vec<_> {
            // New cards first: they need a visit more than the known ones behind them.
            let typed = |number| if number <= 20 { new(number) } else { new(0) };
            (1..=up_to)
                .map(|number| tokenize(&format!("r{number}"), keypad.seal(number, typed(number).as_bytes())))
                .collect()
        };
        let caller = caller(1);
        let (first, again) = tokio::join!(
            scene.house.tokenize_many(&caller, cards(20), Turn::first()),
            scene.house.tokenize_many(&caller, cards(100), Turn::first())
        );
        let (first, again) = (first.unwrap(), again.unwrap());
        assert!(first.iter().chain(&again).all(Result::is_ok), "{first:?} {again:?}");
        assert_eq!(first, again[..20]);
    });
}

#[test]
fn a_part_of_an_upload_is_taken_after_the_one_before_or_not_at_all() {
    play(|scene, _, keypad| async move {
        let cards = |counters: std::ops::Range<u32>| -> Vec<_> {
            counters.map(|counter| tokenize(&format!("r{counter}"), keypad.seal(counter, CARD))).collect()
        };
        let caller = caller(1);
        // The later part comes first, and waits.
        let (next, turn) = Turn::after();
        let later = scene.house.tokenize_many(&caller, cards(20..40), turn);
        let earlier = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let told = scene.house.tokenize_many(&caller, cards(1..20), Turn::first()).await.unwrap();
            next.goes();
            told
        };
        let (later, earlier) = tokio::join!(later, earlier);
        assert!(earlier.iter().chain(&later.unwrap()).all(Result::is_ok), "no counter was passed over");

        let (next, turn) = Turn::after();
        drop(next);
        let told = scene.house.tokenize_many(&caller, cards(40..50), turn).await.unwrap();
        assert!(told.iter().all(|told| *told == Err(Refusal::Busy)), "{told:?}");
        // None of it was taken: it can be sent again, after what was before it.
        let told = scene.house.tokenize_many(&caller, cards(40..50), Turn::first()).await.unwrap();
        assert!(told.iter().all(Result::is_ok), "{told:?}");
    });
}
