//! What is refused: what the caller is told, what the log knows, and what the HSM never sees.

use std::time::Duration;

use bytes::Bytes;
use warifu_core::custody;
use warifu_core::device::{Format, State};
use warifu_core::merchant::{BdkId, DeviceId};
use warifu_core::refusal::Refusal;

use super::support::{
    CARD, Fault, Keypad, Mood, Scene, Stage, augusta, augusta_ksn, caller, eventually, play, play_on, tokenize,
};
use crate::house::Vital;
use crate::record::Kind;
use crate::store::{CardCheck, KeyReason, LEASE};

/// Asks for a token and expects a refusal, a record of its cause, and no opening.
async fn refused_cheaply(scene: &Scene, name: &str, output: Bytes, refusal: Refusal, cause: &str) {
    let opened = scene.hsm.opened();
    assert_eq!(scene.tokenize(name, output).await.err(), Some(refusal), "{name}");
    assert_eq!(scene.record_of(name, Kind::RequestRefused).await.cause.as_deref(), Some(cause), "{name}");
    assert_eq!(scene.hsm.opened(), opened, "{name} reached the HSM");
}

#[test]
fn what_can_be_refused_cheaply_never_reaches_the_hsm() {
    play(|scene, _, keypad| async move {
        use Refusal::{CounterIllegal, DeviceNotActive, DeviceUnknown, FrameMalformed};
        let frame = |counter| keypad.seal(counter, CARD);
        let cut = frame(1).slice(..40);
        refused_cheaply(&scene, "cut", cut, FrameMalformed, "the frame ends too early").await;
        let garbage = Bytes::from_static(b"no frame at all");
        refused_cheaply(&scene, "garbage", garbage, FrameMalformed, "the frame does not start as this format does")
            .await;
        let long = Bytes::from(vec![b'W'; 5000]);
        refused_cheaply(&scene, "long", long, FrameMalformed, "the device output is too long").await;

        let zero = "counter 0 belongs to the initial key, not to a transaction";
        refused_cheaply(&scene, "zero", frame(0), CounterIllegal, zero).await;

        let stranger = Keypad::new(77).seal(1, CARD);
        refused_cheaply(&scene, "stranger", stranger, DeviceUnknown, "no device has this key serial number").await;
        let foreign = scene.keypad(2, "keypad-2", "shop-2").await.seal(1, CARD);
        refused_cheaply(&scene, "foreign", foreign, DeviceUnknown, "another merchant's device").await;

        let keyboard = (Format::IdTechKeyboard, CardCheck::Any);
        scene.device("augusta", "shop-1", augusta_ksn(), "tdes-1", keyboard.0, keyboard.1).await;
        let cause = "the device is registered with another format";
        refused_cheaply(&scene, "format", augusta(2), FrameMalformed, cause).await;

        let id = DeviceId::parse("keypad-1").unwrap();
        scene.set_device(&id, State::Suspended).await;
        refused_cheaply(&scene, "suspended", frame(1), DeviceNotActive, "the device is suspended").await;
        scene.set_device(&id, State::Active).await;
        scene.tokenize("good", frame(1)).await.unwrap();
        scene.set_device(&id, State::Retired).await;
        refused_cheaply(&scene, "retired", frame(2), DeviceNotActive, "the device is retired").await;
    });
}

#[test]
fn frames_under_a_key_that_is_not_in_use_never_reach_the_hsm() {
    play(|scene, _, keypad| async move {
        let frame = |counter| keypad.seal(counter, CARD);
        let id = BdkId::parse("aes-1").unwrap();
        let become_state = async |to| {
            scene.registry().set_bdk_state(&id, to, KeyReason::Planned, 1).await.unwrap();
        };
        scene.tokenize("good", frame(1)).await.unwrap();
        become_state(custody::State::Suspended).await;
        let suspended = "the device's base derivation key is suspended";
        refused_cheaply(&scene, "suspended", frame(2), Refusal::KeyNotActive, suspended).await;
        become_state(custody::State::Active).await;
        // The refused frame has used nothing up.
        scene.tokenize("back", frame(2)).await.unwrap();

        let cases = [
            ("UPDATE bdk SET state = 'pre-active'", "the device's base derivation key is not in use yet"),
            ("UPDATE bdk SET state = 'deactivated'", "the device's base derivation key is out of use for good"),
            (
                "UPDATE bdk SET state = 'active', merchant_id = 'shop-2'",
                "the device's base derivation key is another merchant's",
            ),
            ("UPDATE bdk SET merchant_id = NULL, purpose = 'kbpk'", "the device's key is no base derivation key"),
            ("DELETE FROM bdk", "the device's base derivation key is not in the registry"),
        ];
        for (number, (sql, cause)) in cases.into_iter().enumerate() {
            scene.sabotage(sql).await;
            // Whoever changes the registry behind its back does not count the change.
            scene.sabotage("UPDATE registry SET generation = generation + 1").await;
            tokio::time::sleep(LEASE).await;
            refused_cheaply(&scene, &format!("case-{number}"), frame(3), Refusal::KeyNotActive, cause).await;
        }
    });
}

#[test]
fn a_replayed_frame_is_refused_before_the_hsm_is_asked() {
    play(|scene, _, keypad| async move {
        scene.tokenize("r1", keypad.seal(5, CARD)).await.unwrap();
        let cause = "the counter was used before or is older than the window";
        refused_cheaply(&scene, "same", keypad.seal(5, CARD), Refusal::FrameReplayed, cause).await;
        refused_cheaply(&scene, "older", keypad.seal(4, CARD), Refusal::FrameReplayed, cause).await;
        scene.tokenize("next", keypad.seal(6, CARD)).await.unwrap();
    });
}

#[test]
fn a_frame_changed_anywhere_is_refused_and_the_next_good_one_passes() {
    play(|scene, _, keypad| async move {
        let good = keypad.seal(1, CARD);
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1;
            let name = format!("changed-{at}");
            let refused = scene.tokenize(&name, changed.into()).await.expect_err("a changed frame");
            // In the header it is another frame; in the KSN another device or counter; else its MAC is wrong.
            let allowed = match at {
                0..8 => &[Refusal::FrameMalformed, Refusal::FrameRefused][..],
                8..16 => &[Refusal::DeviceUnknown],
                16..20 => &[Refusal::FrameRefused, Refusal::CounterIllegal],
                _ => &[Refusal::FrameRefused],
            };
            assert!(allowed.contains(&refused), "byte {at}: {refused:?}");
            let kind = if refused == Refusal::FrameRefused { Kind::FrameRefused } else { Kind::RequestRefused };
            assert!(scene.record_of(&name, kind).await.cause.is_some());
        }
        let wrong = scene.record_of("changed-30", Kind::FrameRefused).await;
        assert_eq!(wrong.cause.as_deref(), Some("the frame's MAC is wrong"));
        assert_eq!(wrong.calls.get("open"), Some(&1));
        scene.tokenize("good", good).await.unwrap();
    });
}

#[test]
fn a_card_that_fails_luhn_is_refused_and_nothing_is_stored_of_it() {
    play(|scene, _, keypad| async move {
        let refused = scene.authorize("r1", 1200, keypad.seal(1, b"4111111111111112=2812=")).await;
        assert_eq!(refused.err(), Some(Refusal::CardInvalid));
        let record = scene.record_of("r1", Kind::RequestRefused).await;
        assert_eq!(record.cause.as_deref(), Some("the card number's check digit is wrong"));
        let known = scene.store.request(&caller(1).merchant, &super::support::request("r1")).await.unwrap();
        assert!(known.is_none());
        // The frame was genuine, so its counter is used.
        let cause = "the counter was used before or is older than the window";
        refused_cheaply(&scene, "r2", keypad.seal(1, CARD), Refusal::FrameReplayed, cause).await;
    });
}

#[test]
fn a_genuine_frame_without_a_card_is_no_bad_frame() {
    play(|scene, _, keypad| async move {
        let refused = scene.tokenize("r1", keypad.seal(1, b"411111111111=hello=")).await;
        assert_eq!(refused.err(), Some(Refusal::CardInvalid));
        let device = scene.store.device(&DeviceId::parse("keypad-1").unwrap()).await.unwrap().unwrap();
        assert_eq!(device.faults, 0);
    });
}

#[test]
fn a_request_id_belongs_to_its_content() {
    play(|scene, acquirer, keypad| async move {
        let frame = keypad.seal(1, CARD);
        scene.authorize("r1", 1200, frame.clone()).await.unwrap();
        for (refused, name) in [
            (scene.authorize("r1", 1300, frame.clone()).await.err(), "another amount"),
            (scene.authorize("r1", 1200, keypad.seal(2, CARD)).await.err(), "another frame"),
            (scene.tokenize("r1", frame).await.err(), "another wish"),
        ] {
            assert_eq!(refused, Some(Refusal::RequestIdReused), "{name}");
        }
        assert_eq!(acquirer.authorizations(), 1);
    });
}

#[test]
fn a_request_id_in_flight_belongs_to_its_content_too() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let house = scene.house.clone();
        let asked = super::support::authorize("r1", 1200, keypad.seal(1, CARD));
        tokio::spawn(async move { house.authorize(&caller(1), asked).await });
        eventually("the authorization", async || (acquirer.authorizations() == 1).then_some(())).await;
        let refused = scene.authorize("r1", 1300, keypad.seal(2, CARD)).await;
        assert_eq!(refused.err(), Some(Refusal::RequestIdReused));
        assert_eq!(scene.hsm.opened(), 1);
    });
}

#[test]
fn a_device_without_macs_is_suspended_after_too_many_bad_frames() {
    play(|scene, _, _| async move {
        let (format, any) = (Format::IdTechBinary, CardCheck::Any);
        scene.device("augusta", "shop-1", augusta_ksn(), "tdes-1", format, any).await;
        for (counter, name) in [(3, "bad-1"), (4, "bad-2")] {
            assert_eq!(scene.tokenize(name, augusta(counter)).await.err(), Some(Refusal::FrameRefused));
            scene.record_of(name, Kind::FrameRefused).await;
        }
        scene.tokenize("good", augusta(2)).await.expect("a good frame clears the faults");
        for (counter, name) in [(5, "bad-3"), (6, "bad-4"), (7, "bad-5")] {
            assert_eq!(scene.tokenize(name, augusta(counter)).await.err(), Some(Refusal::FrameRefused));
        }
        assert_eq!(scene.tokenize("r9", augusta(8)).await.err(), Some(Refusal::DeviceNotActive));
        scene.caused(Kind::DeviceQuarantined, "too many frames were not genuine").await;
    });
}

#[test]
fn a_device_with_macs_is_not_suspended_by_what_others_send_in_its_name() {
    play(|scene, _, keypad| async move {
        for attempt in 0..10 {
            let mut forged = keypad.seal(1, CARD).to_vec();
            forged[30] ^= 1;
            let refused = scene.tokenize(&format!("forged-{attempt}"), forged.into()).await;
            assert_eq!(refused.err(), Some(Refusal::FrameRefused));
        }
        scene.tokenize("good", keypad.seal(1, CARD)).await.unwrap();
    });
}

#[test]
fn host_derived_decryption_must_be_allowed() {
    let mut stage = Stage::new();
    stage.settings.accept_non_p2pe = false;
    play_on(&stage, |scene, _, _| async move {
        let (format, any) = (Format::IdTechBinary, CardCheck::Any);
        scene.device("augusta", "shop-1", augusta_ksn(), "tdes-1", format, any).await;
        let cause = "host-derived decryption is not accepted on this server";
        refused_cheaply(&scene, "r1", augusta(2), Refusal::ModeNotAllowed, cause).await;
    });
}

#[test]
fn a_device_whose_keys_are_not_configured_is_refused() {
    let mut stage = Stage::new();
    stage.settings.bdks.retain(|bdk| bdk.id.as_str() != "aes-1");
    play_on(&stage, |scene, _, keypad| async move {
        let cause = "the device's base derivation key is not configured on this server";
        refused_cheaply(&scene, "r1", keypad.seal(1, CARD), Refusal::ModeNotAllowed, cause).await;
    });
}

#[test]
fn a_full_house_says_so_at_once() {
    let mut stage = Stage::new();
    stage.settings.admission = 1;
    play_on(&stage, |scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let house = scene.house.clone();
        let asked = super::support::authorize("r1", 1200, keypad.seal(1, CARD));
        tokio::spawn(async move { house.authorize(&caller(1), asked).await });
        eventually("the authorization", async || (acquirer.authorizations() == 1).then_some(())).await;
        assert_eq!(scene.tokenize("r2", keypad.seal(2, CARD)).await.err(), Some(Refusal::Busy));
        scene.caused(Kind::RequestRefused, "too many requests are in flight").await;
    });
}

#[test]
fn a_hsm_outage_is_told_as_such_and_the_session_is_opened_anew() {
    play(|scene, _, keypad| async move {
        scene.hsm.fail_next("open", Fault::Outage);
        let refused = scene.tokenize("r1", keypad.seal(1, CARD)).await;
        assert_eq!(refused.err(), Some(Refusal::HsmUnavailable));
        let record = scene.record_of("r1", Kind::HsmFailed).await;
        let cause = Some("C_Test failed: CKR_DEVICE_ERROR (0x00000030)");
        assert_eq!(record.cause.as_deref(), cause);
        assert_eq!(scene.record_of("r1", Kind::RequestRefused).await.cause.as_deref(), cause);
        scene.tokenize("r1", keypad.seal(1, CARD)).await.expect("the same request again");
        assert_eq!(scene.hsm.calls().get("close"), Some(&1));
    });
}

#[test]
fn without_a_session_callers_hear_so_until_there_is_one_again() {
    let mut stage = Stage::new();
    stage.settings.derivers = 1;
    play_on(&stage, |scene, _, keypad| async move {
        scene.hsm.fail_next("open", Fault::Outage);
        (0..4).for_each(|_| scene.hsm.fail_next("session", Fault::Outage));
        assert_eq!(scene.tokenize("r1", keypad.seal(1, CARD)).await.err(), Some(Refusal::HsmUnavailable));
        eventually("the session", async || scene.tokenize("r2", keypad.seal(1, CARD)).await.ok()).await;
        assert_eq!(scene.hsm.calls().get("session"), Some(&6));
    });
}

#[test]
fn a_pin_the_hsm_refused_is_not_tried_again_and_the_house_says_so() {
    let mut stage = Stage::new();
    stage.settings.derivers = 1;
    play_on(&stage, |scene, _, keypad| async move {
        assert_eq!(scene.house.health().hsm_pin, Vital::Up);
        scene.hsm.fail_next("open", Fault::Outage);
        scene.hsm.fail_next("session", Fault::Outage);
        scene.hsm.fail_next("session", Fault::PinRefused);
        assert_eq!(scene.tokenize("r1", keypad.seal(1, CARD)).await.err(), Some(Refusal::HsmUnavailable));
        eventually("the alarm", async || (scene.house.health().hsm_pin == Vital::Down).then_some(())).await;
        scene.caused(Kind::HsmFailed, "the token refused the PIN: CKR_PIN_INCORRECT (0x000000A0)").await;
        // Long enough for many of the first tries after an outage; the HSM would take the PIN now.
        for number in 2..30 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let refused = scene.tokenize(&format!("r{number}"), keypad.seal(number, CARD)).await;
            assert_eq!(refused.err(), Some(Refusal::HsmUnavailable));
        }
        assert_eq!(scene.hsm.calls().get("session"), Some(&3));
        assert!(!scene.house.health().is_ready());
        // What is stopped then stops as it should.
        scene.house.drain(Duration::from_secs(5)).await;
        scene.house.stopped(&warifu_hsm::CallTally::default()).await;
        super::audit::calls_are_accounted_for(&scene).await;
    });
}

#[test]
fn what_is_refused_at_the_edge_is_written_down_too() {
    play(|scene, _, _| async move {
        let name = super::support::request("r1");
        let told = scene.house.note_refusal(&caller(1), Some(&name), Refusal::AmountInvalid).await;
        assert_eq!(told, Refusal::AmountInvalid);
        let record = scene.record_of("r1", Kind::RequestRefused).await;
        assert_eq!(record.cause.as_deref(), Some(Refusal::AmountInvalid.message()));
    });
}

#[test]
fn strangers_cannot_fill_the_log() {
    play(|scene, _, _| async move {
        for number in 0..200 {
            let stranger = super::support::certificate(number).map(|byte| byte | 0x80);
            assert_eq!(scene.house.identify(stranger).await, Err(Refusal::ModuleUnknown));
        }
        let request = tokenize("after", Bytes::from_static(b"nothing"));
        let _ = scene.house.tokenize(&caller(1), request).await;
        let written = scene.records().await.iter().filter(|record| record.kind == Kind::CallerRefused).count();
        assert!((1..=20).contains(&written), "{written}");
    });
}
