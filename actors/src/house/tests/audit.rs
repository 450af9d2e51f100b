//! The audit log: no audit, no service; every use of the HSM has its record, and every record its use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use warifu_core::refusal::Refusal;

use super::support::{CARD, Fault, Mood, Scene, Scripted, Stage, TODAY_MS, eventually, play, play_on};
use crate::auditor::Sign;
use crate::clock::RuntimeClock;
use crate::house::{House, StartError, Vital};
use crate::record::Kind;
use crate::store::LogId;
use crate::supervisor::run;

/// Compares what the HSM saw with what the log says of it, call by call.
pub(super) async fn calls_are_accounted_for(scene: &Scene) {
    eventually("the last record", async || {
        let mut told: BTreeMap<String, u32> = BTreeMap::new();
        for record in scene.records().await {
            for (function, times) in record.calls {
                *told.entry(function).or_default() += times;
            }
        }
        (told == scene.hsm.calls()).then_some(())
    })
    .await;
}

async fn forbid_records(scene: &Scene) {
    let trigger = "CREATE TRIGGER full BEFORE INSERT ON audit_record BEGIN SELECT RAISE(ABORT, 'full'); END";
    scene.sabotage(trigger).await;
}

async fn allow_records(scene: &Scene) {
    scene.sabotage("DROP TRIGGER full").await;
}

#[test]
fn while_the_log_cannot_be_written_no_frame_is_opened() {
    let mut stage = Stage::new();
    stage.settings.audit_window = Duration::ZERO;
    play_on(&stage, |scene, _, keypad| async move {
        scene.tokenize("before", keypad.seal(1, CARD)).await.unwrap();
        let before = scene.hsm.calls();
        forbid_records(&scene).await;
        for attempt in 0..5 {
            let refused = scene.tokenize(&format!("during-{attempt}"), keypad.seal(2, CARD)).await;
            assert_eq!(refused.err(), Some(Refusal::AuditUnavailable));
        }
        assert_eq!(scene.hsm.calls(), before, "the HSM was asked");
        assert_eq!(scene.house.health().audit, Vital::Down);
        allow_records(&scene).await;
        scene.tokenize("after", keypad.seal(2, CARD)).await.unwrap();
        assert_eq!(scene.house.health().audit, Vital::Up);
    });
}

#[test]
fn a_use_of_the_hsm_whose_record_fails_is_recorded_later_and_nothing_is_answered() {
    // Within the window the HSM is asked before the log turns out to be full.
    play(|scene, acquirer, keypad| async move {
        scene.tokenize("before", keypad.seal(1, CARD)).await.unwrap();
        forbid_records(&scene).await;
        let refused = scene.authorize("r1", 1200, keypad.seal(2, CARD)).await;
        assert!(matches!(refused.as_ref().err(), Some(Refusal::StoreUnavailable)), "{refused:?}");
        assert_eq!((scene.hsm.opened(), acquirer.authorizations()), (2, 0));
        let next = scene.tokenize("r2", keypad.seal(3, CARD)).await;
        assert_eq!(next.err(), Some(Refusal::AuditUnavailable));
        assert_eq!(scene.hsm.opened(), 2, "one frame at most is opened on old proof");
        allow_records(&scene).await;
        calls_are_accounted_for(&scene).await;
        let payment = scene.authorize("r1", 1200, keypad.seal(2, CARD)).await.unwrap();
        assert!(payment.state.is_settled());
    });
}

#[test]
fn every_call_has_its_record_whatever_happens() {
    play(|scene, acquirer, keypad| async move {
        let good = |counter| keypad.seal(counter, CARD);
        for counter in 1..=20 {
            let name = format!("r{counter}");
            match counter % 10 {
                3 => scene.hsm.fail_next("open", Fault::Outage),
                4 => scene.hsm.fail_next("fingerprint", Fault::Panic),
                5 => acquirer.become_mood(Mood::ApprovingSilently),
                6 => acquirer.become_mood(Mood::Approving),
                7 => (0..2).for_each(|_| scene.hsm.fail_next("session", Fault::Outage)),
                8 => scene.hsm.fail_next("open", Fault::Outage),
                _ => {}
            }
            let mut frame = good(counter).to_vec();
            if counter % 10 == 9 {
                frame[30] ^= 1;
            }
            let _ = scene.authorize(&name, 1200, frame.into()).await;
        }
        calls_are_accounted_for(&scene).await;
    });
}

#[test]
fn every_call_of_a_whole_life_has_its_record() {
    play(|scene, _, keypad| async move {
        scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        scene.house.drain(Duration::from_secs(5)).await;
        scene.house.stopped(&warifu_hsm::CallTally::default()).await;
        calls_are_accounted_for(&scene).await;
        let kinds: Vec<_> = scene.records().await.into_iter().map(|record| record.kind).collect();
        assert_eq!(kinds.first(), Some(&Kind::ServerStarted));
        assert_eq!(kinds.last(), Some(&Kind::ServerStopped));
        assert!(kinds.contains(&Kind::AuditSigned));
    });
}

#[test]
fn a_start_that_fails_has_written_down_its_calls_when_it_is_told() {
    let stage = Stage::new();
    stage.hsm.fail_next("session", Fault::Outage);
    run(async {
        let refused = stage.start(Arc::new(Scripted::default())).await.err();
        assert!(matches!(refused, Some(StartError::Hsm(_))), "{refused:?}");
        let store = stage.store().await;
        let log = LogId::parse("test-1").unwrap();
        let told = async || {
            let records = store.records(&log, 0, 100).await.unwrap();
            let calls = records
                .into_iter()
                .flat_map(|record| serde_json::from_str::<crate::record::Record>(&record.line).unwrap().calls);
            calls.collect::<BTreeMap<String, u32>>()
        };
        assert_eq!(told().await, stage.hsm.calls());
        assert_eq!(told().await.get("session"), Some(&1));

        // What the slot itself was asked before there was a house.
        let mut calls = warifu_hsm::CallTally::default();
        calls.count("C_Login");
        let clock = RuntimeClock::starting_at(TODAY_MS);
        House::not_started("test-1", &store, &clock, &calls, "the HSM could not be opened").await.unwrap();
        assert_eq!(told().await.get("C_Login"), Some(&1));
    });
}

#[test]
fn what_was_found_of_the_hsm_is_written_down_before_it_is_used() {
    let mut stage = Stage::new();
    stage.settings.hsm_found = vec![("modes", "hardware hybrid".to_owned()), ("firmware", "7.8".to_owned())];
    play_on(&stage, |scene, _, _| async move {
        let records = scene.records().await;
        let kinds: Vec<Kind> = records.iter().take(3).map(|record| record.kind).collect();
        assert_eq!(kinds, [Kind::ServerStarted, Kind::HsmExamined, Kind::HsmSessionOpened]);
        assert_eq!(records[1].found["modes"], "hardware hybrid");
        assert_eq!(records[1].found["firmware"], "7.8");
    });
}

#[test]
fn the_window_is_opened_once_and_not_for_each_request() {
    play(|scene, _, keypad| async move {
        for counter in 1..=10 {
            scene.tokenize(&format!("r{counter}"), keypad.seal(counter, CARD)).await.unwrap();
        }
        let records = scene.records().await;
        let opened = records.iter().filter(|record| record.kind == Kind::HsmWindowOpened).count();
        assert_eq!(opened, 0, "the records of the start and of each request prove it");
    });
}

#[test]
fn the_head_is_signed_again_and_again_while_there_is_something_new() {
    let mut stage = Stage::new();
    stage.settings.sign_every = Duration::from_millis(20);
    play_on(&stage, |scene, _, keypad| async move {
        let log = LogId::parse("test-1").unwrap();
        let newest = async || scene.store.newest_head(&log).await.unwrap();
        let first = eventually("a head", newest).await;
        scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        let second =
            eventually("a newer head", async || newest().await.filter(|newer| newer.head.size > first.head.size));
        let second = second.await;
        assert_eq!(second.public_key, first.public_key);

        // The head is that of the records it covers.
        let mut tree = warifu_core::audit::Tree::default();
        for record in scene.store.records(&log, 0, second.head.size).await.unwrap() {
            tree.append(warifu_core::audit::leaf_hash(record.line.as_bytes()));
        }
        assert_eq!((tree.size(), tree.root()), (second.head.size, second.head.root));
    });
}

#[test]
fn a_log_with_nothing_new_is_not_signed_again() {
    play(|scene, _, keypad| async move {
        let sign = async || {
            scene.house.0.gates.auditor.ask(Sign).await.unwrap();
            scene.hsm.calls().get("sign").copied()
        };
        assert_eq!((sign().await, sign().await), (Some(1), Some(1)));
        scene.tokenize("r1", keypad.seal(1, CARD)).await.unwrap();
        assert_eq!((sign().await, sign().await), (Some(2), Some(2)));
    });
}

#[test]
fn the_store_is_felt_for() {
    play(|scene, _, _| async move {
        assert_eq!(scene.house.health().store, Vital::Up);
        scene.store.close().await;
        eventually("the news", async || (scene.house.health().store == Vital::Down).then_some(())).await;
    });
}
