//! Money: silence, crashes, and asking again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use warifu_core::payment::State;

use super::support::{CARD, Keypad, Mood, Scene, Scripted, Stage, authorize, caller, eventually, play, play_on};
use crate::acquirer::simulator::{Answered, Simulator};
use crate::cashier::{Left, Settler};
use crate::clock::RuntimeClock;
use crate::record::Kind;
use crate::store::job::{PaymentId, StoredPayment};
use crate::supervisor::run;

/// A time limit as short as a scene can bear.
const LIMIT: Duration = Duration::from_millis(500);

pub(super) async fn settled(scene: &Scene, name: &str) -> StoredPayment {
    eventually("the payment's end", async || {
        let payment = scene.stored(name).await;
        payment.state.is_settled().then_some(payment)
    })
    .await
}

#[test]
fn silence_leaves_a_payment_unknown_until_it_is_taken_back() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingSilently);
        let frame = keypad.seal(1, CARD);
        let payment = scene.authorize("r1", 1200, frame.clone()).await.unwrap();
        assert_eq!(payment.state, State::Unknown);
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
        let did = acquirer.did(payment.id);
        assert_eq!((did.authorizations, did.reversed), (1, true));

        // What was taken back stays so, however often it is asked for.
        acquirer.become_mood(Mood::Approving);
        let again = scene.authorize("r1", 1200, frame).await.unwrap();
        assert_eq!((again.id, again.state), (payment.id, State::Reversed));
        assert_eq!(acquirer.did(payment.id).authorizations, 1);
    });
}

#[test]
fn an_acquirer_that_is_away_is_asked_until_it_is_back() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::Away);
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        assert_eq!(payment.state, State::Unknown);
        let other = scene.authorize("r2", 1200, keypad.seal(2, CARD)).await.unwrap();
        assert_eq!(other.state, State::Unknown);
        acquirer.become_mood(Mood::Approving);
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
        assert_eq!(settled(&scene, "r2").await.state, State::Reversed);
        assert_eq!(acquirer.authorizations(), 0);
    });
}

#[test]
fn the_simulators_late_answer_ends_in_a_reversal() {
    let mut stage = Stage::new();
    stage.settings.acquirer_timeout = Duration::from_millis(100);
    let journal = stage.file("acquirer.jsonl");
    run(async {
        let clock = Arc::new(RuntimeClock::starting_at(super::support::TODAY_MS));
        let scene = stage.start(Arc::new(Simulator::open(&journal, clock).unwrap())).await.unwrap();
        scene.people().await;
        let keypad = scene.keypad(1, "keypad-1", "shop-1").await;
        let payment = scene.authorize("late", 1268, keypad.seal(1, CARD)).await.unwrap();
        assert_eq!(payment.state, State::Unknown);
        assert_eq!(settled(&scene, "late").await.state, State::Reversed);
    });
    let answers: Vec<_> = Simulator::journal(&journal).unwrap().into_iter().map(|entry| entry.answer).collect();
    assert!(matches!(answers.as_slice(), [Answered::Approved(_), Answered::Reversed]), "{answers:?}");
}

/// Asks in one life of the server, which ends without a word while the acquirer has the question, and gives back what
/// `next` sees in the next life, in which the acquirer is well.
fn crash<T>(mood: Mood, next: impl AsyncFnOnce(&Scene, &Scripted, Bytes) -> T) -> T {
    crash_and_return(mood, "test-1", next)
}

/// As [`crash`], where the server of the next life is called `instance`.
fn crash_and_return<T>(mood: Mood, instance: &str, next: impl AsyncFnOnce(&Scene, &Scripted, Bytes) -> T) -> T {
    let mut stage = Stage::new();
    let acquirer = Arc::new(Scripted::default());
    let frame = Keypad::new(1).seal(1, CARD);
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        scene.people().await;
        scene.keypad(1, "keypad-1", "shop-1").await;
        acquirer.become_mood(mood);
        let (house, asked) = (scene.house.clone(), authorize("r1", 1200, frame.clone()));
        tokio::spawn(async move { house.authorize(&caller(1), asked).await });
        eventually("the question", async || (acquirer.heard() == 1).then_some(())).await;
        assert_eq!(scene.stored("r1").await.state, State::Sent);
        if instance != "test-1" {
            scene.sabotage("UPDATE payment SET updated_at_ms = 0").await;
        }
    });
    acquirer.become_mood(Mood::Approving);
    stage.settings.instance = instance.to_owned();
    stage.settings.acquirer_timeout = LIMIT;
    stage.settings.queue_wait = LIMIT;
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        next(&scene, &acquirer, frame).await
    })
}

#[test]
fn after_a_crash_the_acquirers_word_is_found_out() {
    crash(Mood::ApprovingEndlessly, async |scene, acquirer, frame| {
        let again = scene.authorize("r1", 1200, frame).await.unwrap();
        assert!(matches!(again.state, State::Authorized(_)), "{:?}", again.state);
        let did = acquirer.did(again.id);
        assert_eq!((did.authorizations, did.reversals), (1, 0));
        assert_eq!(scene.hsm.opened(), 1);
    });
}

#[test]
fn after_a_crash_a_request_that_never_arrived_is_sent_again_when_it_is_asked_for() {
    crash(Mood::Deaf, async |scene, acquirer, frame| {
        assert_eq!(settled(scene, "r1").await.state, State::Reversed);
        let again = scene.authorize("r1", 1200, frame.clone()).await.unwrap();
        assert!(matches!(again.state, State::Authorized(_)), "{:?}", again.state);
        let did = acquirer.did(again.id);
        assert_eq!((did.authorizations, did.reversals, did.had_code), (1, 0, true));
        assert_eq!(scene.authorize("r1", 1200, frame).await.unwrap(), again);
        assert_eq!(acquirer.authorizations(), 1);
        scene.caused(Kind::PaymentSent, "taken up to be sent again").await;
    });
}

#[test]
fn a_request_sent_again_by_many_is_sent_again_once() {
    crash(Mood::Deaf, async |scene, acquirer, frame| {
        let payment = settled(scene, "r1").await;
        let before = acquirer.did(payment.id);
        let racers: Vec<_> = (0..16)
            .map(|number| {
                let (house, asked) = (scene.house.clone(), authorize("r1", 1200, frame.clone()));
                let module = warifu_core::merchant::ModuleId::parse(&format!("pos-{number}")).unwrap();
                let caller = crate::house::Caller { module, ..caller(1) };
                tokio::spawn(async move { house.authorize(&caller, asked).await.unwrap() })
            })
            .collect();
        for racer in racers {
            assert!(matches!(racer.await.unwrap().state, State::Authorized(_)));
        }
        // Only who had claimed the payment said anything to the acquirer.
        let after = acquirer.did(payment.id);
        assert_eq!((after.authorizations, after.inquiries - before.inquiries, after.reversals), (1, 1, 0));
    });
}

#[test]
fn a_payment_that_had_an_effect_after_all_is_taken_back_and_not_sent_again() {
    crash(Mood::Deaf, async |scene, acquirer, frame| {
        let payment = settled(scene, "r1").await;
        acquirer.approve_late(payment.id);
        let again = scene.authorize("r1", 1200, frame).await.unwrap();
        assert_eq!((again.id, again.state), (payment.id, State::Reversed));
        let did = acquirer.did(payment.id);
        assert_eq!((did.authorizations, did.reversals), (0, 1));
    });
}

#[test]
fn an_inquiry_without_answer_leaves_a_claimed_payment_to_the_settler() {
    crash(Mood::Deaf, async |scene, acquirer, frame| {
        let payment = settled(scene, "r1").await;
        acquirer.become_mood(Mood::Away);
        let again = scene.authorize("r1", 1200, frame).await.unwrap();
        assert_eq!((again.id, again.state), (payment.id, State::Unknown));
        acquirer.become_mood(Mood::Approving);
        assert_eq!(settled(scene, "r1").await.state, State::Reversed);
        assert_eq!(acquirer.did(payment.id).authorizations, 0);
    });
}

#[test]
fn what_the_acquirer_never_had_is_believed_when_nothing_can_be_on_its_way_any_more() {
    let begun = std::time::Instant::now();
    crash(Mood::Deaf, async |scene, acquirer, _| {
        let payment = scene.stored("r1").await;
        eventually("an inquiry", async || (acquirer.did(payment.id).inquiries > 0).then_some(())).await;
        assert_eq!(scene.stored("r1").await.state, State::Sent);
        assert_eq!(settled(scene, "r1").await.state, State::Reversed);
        assert!(begun.elapsed() > LIMIT * 2, "believed at once");
        assert_eq!(acquirer.did(payment.id).reversals, 0);
    });
}

#[test]
fn a_payment_of_a_server_that_never_comes_back_is_settled_by_another() {
    for (mood, authorized) in [(Mood::ApprovingEndlessly, true), (Mood::Deaf, false)] {
        crash_and_return(mood, "test-2", async |scene, acquirer, _| {
            let payment = settled(scene, "r1").await;
            assert_eq!(matches!(payment.state, State::Authorized(_)), authorized, "{:?}", payment.state);
            // What never arrived may still: nobody knows that the other server is gone.
            assert_eq!(acquirer.did(payment.id).reversed, !authorized);
        });
    }
}

#[test]
fn a_payment_whose_writing_down_was_not_heard_of_is_found_out() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let (house, asked) = (scene.house.clone(), authorize("r1", 1200, keypad.seal(1, CARD)));
        tokio::spawn(async move { house.authorize(&caller(1), asked).await });
        eventually("the question", async || (acquirer.heard() == 1).then_some(())).await;
        let payment = scene.stored("r1").await;
        assert_eq!(payment.state, State::Sent);

        let (strays, left) = tokio::sync::mpsc::channel(2);
        let (log, link) = (scene.house.0.log.clone(), scene.house.0.gates.acquirer.clone());
        let settler = Settler::new(scene.store.clone(), log, link, left, Duration::from_secs(3600));
        // One that is there, and one that is not.
        strays.send(Left::Unheard(payment.id)).await.unwrap();
        strays.send(Left::Unheard(PaymentId(uuid::Uuid::now_v7()))).await.unwrap();
        let settling = tokio::spawn(settler.run());
        assert!(matches!(settled(&scene, "r1").await.state, State::Authorized(_)));
        let did = acquirer.did(payment.id);
        assert_eq!((did.authorizations, did.reversals), (1, 0));
        drop(strays);
        settling.await.unwrap();
    });
}

#[test]
fn a_payment_that_was_unknown_before_a_crash_is_taken_back_after_it() {
    let stage = Stage::new();
    let acquirer = Arc::new(Scripted::default());
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        scene.people().await;
        let keypad = scene.keypad(1, "keypad-1", "shop-1").await;
        acquirer.become_mood(Mood::Away);
        assert_eq!(scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap().state, State::Unknown);
    });
    acquirer.become_mood(Mood::Approving);
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
    });
}

#[test]
fn every_move_of_a_payment_is_in_the_log() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingSilently);
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        settled(&scene, "r1").await;
        let id = payment.id.to_string();
        let records = scene.records().await;
        let moves = records.iter().filter(|record| record.kind == Kind::PaymentMoved);
        let moves: Vec<_> = moves.filter(|record| record.payment.as_ref() == Some(&id)).collect();
        let to: Vec<_> = moves.iter().filter_map(|record| record.cause.as_deref()).collect();
        assert_eq!(to, ["unknown", "about to be taken back", "reversed"]);
    });
}

#[test]
fn a_slow_acquirer_holds_up_its_own_callers_only() {
    let mut stage = Stage::new();
    stage.settings.request_timeout = Duration::from_millis(300);
    play_on(&stage, |scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let refused = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await;
        assert_eq!(refused.err(), Some(warifu_core::refusal::Refusal::TimedOut));
        scene.caused(Kind::RequestRefused, "the comm module did not answer in time").await;
        scene.tokenize("r2", keypad.seal(2, CARD)).await.unwrap();
    });
}
