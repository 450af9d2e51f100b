//! Callers that race.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use warifu_core::merchant::ModuleId;
use warifu_core::payment::State;
use warifu_core::refusal::Refusal;

use super::support::{CARD, Mood, Scene, Scripted, Stage, authorize, caller, eventually, play, play_on, untimed};
use crate::house::{Caller, House};
use crate::record::Kind;
use crate::store::job::StoredPayment;
use crate::supervisor::run;

const CALLERS: usize = 64;

/// Authorizes one frame from many tasks at once, under names given by the task's number.
async fn race(
    house: &House,
    frame: &Bytes,
    name: impl Fn(usize) -> (Caller, String),
) -> Vec<Result<StoredPayment, Refusal>> {
    let start = Arc::new(tokio::sync::Barrier::new(CALLERS));
    let racers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (house, frame, start, (caller, name)) = (house.clone(), frame.clone(), start.clone(), name(number));
            tokio::spawn(async move {
                start.wait().await;
                house.authorize(&caller, authorize(&name, 1200, frame)).await.map(untimed)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racers {
        answers.push(racer.await.unwrap());
    }
    answers
}

#[test]
fn many_callers_of_one_request_get_one_answer_and_one_effect() {
    play(|scene, acquirer, keypad| async move {
        let answers = race(&scene.house, &keypad.seal(1, CARD), |_| (caller(1), "r1".to_owned())).await;
        let first = answers.first().unwrap().as_ref().unwrap();
        assert!(matches!(first.state, State::Authorized(_)));
        assert!(answers.iter().all(|answer| answer.as_ref() == Ok(first)));
        assert_eq!((acquirer.authorizations(), scene.hsm.opened()), (1, 1));
        assert_eq!(scene.store.payments(&caller(1).merchant, None, 100).await.unwrap().len(), 1);
    });
}

#[test]
fn of_many_requests_with_one_frame_exactly_one_succeeds() {
    play(|scene, acquirer, keypad| async move {
        let answers = race(&scene.house, &keypad.seal(1, CARD), |number| (caller(1), format!("r{number}"))).await;
        let good = answers.iter().filter(|answer| answer.is_ok()).count();
        let replayed = answers.iter().filter(|answer| **answer == Err(Refusal::FrameReplayed)).count();
        assert_eq!((good, replayed), (1, CALLERS - 1));
        assert_eq!(acquirer.authorizations(), 1);
        let refused = scene.records().await.into_iter().filter(|record| record.kind == Kind::RequestRefused).count();
        assert_eq!(refused, CALLERS - 1);
    });
}

#[test]
fn modules_of_one_merchant_that_race_with_one_request_get_one_answer() {
    play(|scene, acquirer, keypad| async move {
        let module =
            |number: usize| Caller { module: ModuleId::parse(&format!("pos-{}", number % 8)).unwrap(), ..caller(1) };
        let answers = race(&scene.house, &keypad.seal(1, CARD), |number| (module(number), "r1".to_owned())).await;
        let first = answers.first().unwrap().as_ref().unwrap();
        assert!(answers.iter().all(|answer| answer.as_ref() == Ok(first)), "{answers:?}");
        assert_eq!(acquirer.authorizations(), 1);
    });
}

#[test]
fn whoever_asks_again_meanwhile_waits_for_the_first() {
    let mut stage = Stage::new();
    stage.settings.acquirer_timeout = Duration::from_millis(300);
    play_on(&stage, |scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::Deaf);
        let frame = keypad.seal(1, CARD);
        let spawn = |caller: Caller| {
            let (house, asked) = (scene.house.clone(), authorize("r1", 1200, frame.clone()));
            tokio::spawn(async move { house.authorize(&caller, asked).await.map(untimed) })
        };
        let first = spawn(caller(1));
        eventually("the question", async || (acquirer.heard() == 1).then_some(())).await;
        let again = spawn(caller(1));
        acquirer.become_mood(Mood::Approving);
        let (first, again) = (first.await.unwrap().unwrap(), again.await.unwrap().unwrap());
        assert_eq!(first, again);
        assert_eq!(first.state, State::Unknown, "the acquirer was deaf to the end");
        assert_eq!(scene.hsm.opened(), 1);
    });
}

#[test]
fn two_servers_over_one_store_have_one_effect_and_one_answer() {
    let mut stage = Stage::new();
    run(async {
        let acquirer = Arc::new(Scripted::default());
        let one = stage.start(acquirer.clone()).await.unwrap();
        one.people().await;
        let keypad = one.keypad(1, "keypad-1", "shop-1").await;
        stage.settings.instance = "test-2".to_owned();
        let two = stage.start(acquirer.clone()).await.unwrap();
        let frame = keypad.seal(1, CARD);
        let ask = |scene: &Scene, request: &str| {
            let (house, asked) = (scene.house.clone(), authorize(request, 1200, frame.clone()));
            tokio::spawn(async move { house.authorize(&caller(1), asked).await.map(untimed) })
        };
        let asked = [ask(&one, "r1"), ask(&two, "r1"), ask(&one, "r2"), ask(&two, "r3")];
        let mut answers = Vec::new();
        for asked in asked {
            answers.push(asked.await.unwrap());
        }
        let good: Vec<_> = answers.iter().flatten().collect();
        assert!(good.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        assert!(matches!(good.first().unwrap().state, State::Authorized(_)));
        assert!(
            answers.iter().flat_map(|answer| answer.as_ref().err()).all(|refused| *refused == Refusal::FrameReplayed)
        );
        assert_eq!(acquirer.authorizations(), 1);
        assert_eq!(one.store.payments(&caller(1).merchant, None, 100).await.unwrap().len(), 1);
    });
}

#[test]
fn two_servers_asked_for_one_request_never_call_its_own_frame_used() {
    let mut stage = Stage::new();
    run(async {
        let acquirer = Arc::new(Scripted::default());
        let one = stage.start(acquirer.clone()).await.unwrap();
        one.people().await;
        let keypad = one.keypad(1, "keypad-1", "shop-1").await;
        stage.settings.instance = "test-2".to_owned();
        let two = stage.start(acquirer.clone()).await.unwrap();
        for counter in 1..=20 {
            let (frame, name) = (keypad.seal(counter, CARD), format!("r{counter}"));
            let ask = |scene: &Scene, module: usize| {
                let caller = Caller { module: ModuleId::parse(&format!("pos-{module}")).unwrap(), ..caller(1) };
                let (house, asked) = (scene.house.clone(), authorize(&name, 1200, frame.clone()));
                tokio::spawn(async move { house.authorize(&caller, asked).await.map(untimed) })
            };
            let asked: Vec<_> = (0..8).flat_map(|module| [ask(&one, module), ask(&two, module)]).collect();
            for asked in asked {
                let answer = asked.await.unwrap();
                assert!(matches!(&answer, Ok(payment) if matches!(payment.state, State::Authorized(_))), "{answer:?}");
            }
        }
        assert_eq!(acquirer.authorizations(), 20);
    });
}

#[test]
fn a_module_has_its_share_and_leaves_room_for_the_others() {
    let mut stage = Stage::new();
    stage.settings.admission = 8;
    play_on(&stage, |scene, acquirer, keypad| async move {
        let other = scene.keypad(2, "keypad-2", "shop-2").await;
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let ask = |name: &str, counter| {
            let (house, asked) = (scene.house.clone(), authorize(name, 1200, keypad.seal(counter, CARD)));
            tokio::spawn(async move { house.authorize(&caller(1), asked).await })
        };
        let free = || scene.house.0.admission.available_permits();
        let _first = ask("r1", 1);
        eventually("the question", async || (acquirer.heard() == 1).then_some(())).await;
        let _again = ask("r1", 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(free(), 7, "whoever waits for the same request takes no room");
        assert_eq!(ask("r2", 2).await.unwrap().err(), Some(Refusal::Busy));
        let asked = super::support::tokenize("r1", other.seal(1, CARD));
        scene.house.tokenize(&caller(2), asked).await.unwrap();
    });
}

#[test]
fn a_full_house_writes_down_no_bad_requests_either() {
    play(|scene, _, _| async move {
        let note = async || scene.house.note_refusal(&caller(1), None, Refusal::AmountInvalid).await;
        assert_eq!(note().await, Refusal::AmountInvalid);
        let all = u32::try_from(scene.house.settings().admission).unwrap();
        let full = scene.house.0.admission.acquire_many(all).await.unwrap();
        assert_eq!(note().await, Refusal::Busy);
        drop(full);
        assert_eq!(note().await, Refusal::AmountInvalid);
    });
}
