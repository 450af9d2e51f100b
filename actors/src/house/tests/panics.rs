//! A panic in any actor hurts one request.

use std::time::{Duration, Instant};

use warifu_core::payment::State;
use warifu_core::refusal::Refusal;
use warifu_hsm::{Hsm, HsmError};

use super::support::{CARD, Fault, Keypad, Scene, Stage, caller, certificate, eventually, play, play_on};
use crate::house::Actor;
use crate::key_deriver::{KeyDeriver, Visit, VisitError};
use crate::record::{Kind, Record};
use crate::store::LogId;

/// Longest time an actor may be away.
const BACK: Duration = Duration::from_millis(100);

async fn sale(scene: &Scene, keypad: &Keypad, counter: u32) -> Result<State, Refusal> {
    let caller = scene.house.identify(certificate(1)).await?;
    let asked = super::support::authorize(&format!("r{counter}"), 1200, keypad.seal(counter, CARD));
    scene.house.authorize(&caller, asked).await.map(|payment| payment.state)
}

fn is_hurt(answer: &Result<State, Refusal>) -> bool {
    // Nobody knows what an acquirer heard that was being spoken to; anything else is a defect told as such.
    matches!(answer, Err(Refusal::Internal) | Ok(State::Unknown | State::Reversed))
}

fn one_panic_one_request(actor: Actor) {
    let mut stage = Stage::new();
    if actor == Actor::Auditor {
        // Without a window the auditor is asked each time.
        stage.settings.audit_window = Duration::ZERO;
    }
    let own = LogId::parse(&stage.settings.instance).unwrap();
    play_on(&stage, |scene, acquirer, keypad| async move {
        assert!(matches!(sale(&scene, &keypad, 1).await, Ok(State::Authorized(_))), "before");
        let mut away = Vec::new();
        for round in 1..=3 {
            // The panic is for the sale, not for whoever still finds out what came of the one before.
            eventually("the settlement", async || {
                scene.store.open_payments(&own).await.unwrap().is_empty().then_some(())
            })
            .await;
            scene.house.panic_next(actor, &caller(1)).await;
            let hurt = sale(&scene, &keypad, round * 2).await;
            assert!(is_hurt(&hurt), "{actor:?}: {hurt:?}");
            let after = Instant::now();
            let next = sale(&scene, &keypad, round * 2 + 1).await;
            assert!(matches!(next, Ok(State::Authorized(_))), "{actor:?}: {next:?}");
            away.push(after.elapsed());
        }
        // The machine may be busy with something else once.
        away.sort_unstable();
        assert!(away[1] < BACK, "{actor:?} was away for {away:?}");
        // Each sale reached the acquirer once at most.
        assert!(acquirer.authorizations() <= 7);
        every_call_is_accounted_for(&scene).await;
    });
}

async fn every_call_is_accounted_for(scene: &Scene) {
    super::audit::calls_are_accounted_for(scene).await;
}

#[test]
fn a_panic_of_the_comm_module_hurts_one_request() {
    one_panic_one_request(Actor::CommModule);
}

#[test]
fn a_panic_of_the_directory_hurts_one_request() {
    one_panic_one_request(Actor::Directory);
}

#[test]
fn a_panic_of_the_key_manager_hurts_one_request() {
    one_panic_one_request(Actor::KeyManager);
}

#[test]
fn a_panic_of_a_key_deriver_hurts_one_request() {
    one_panic_one_request(Actor::KeyDeriver);
}

#[test]
fn a_panic_of_the_tokenizer_hurts_one_request() {
    one_panic_one_request(Actor::Tokenizer);
}

#[test]
fn a_panic_of_the_cashier_hurts_one_request() {
    one_panic_one_request(Actor::Cashier);
}

#[test]
fn a_panic_of_the_acquirer_link_hurts_one_request() {
    one_panic_one_request(Actor::AcquirerLink);
}

#[test]
fn a_panic_of_the_auditor_hurts_one_request() {
    one_panic_one_request(Actor::Auditor);
}

#[test]
fn a_request_that_was_hurt_can_be_asked_again() {
    play(|scene, acquirer, keypad| async move {
        for (counter, actor) in (1..).zip([Actor::CommModule, Actor::Cashier, Actor::Tokenizer, Actor::KeyManager]) {
            scene.house.panic_next(actor, &caller(1)).await;
            assert_eq!(sale(&scene, &keypad, counter).await, Err(Refusal::Internal), "{actor:?}");
            assert!(matches!(sale(&scene, &keypad, counter).await, Ok(State::Authorized(_))), "{actor:?}");
        }
        assert_eq!(acquirer.authorizations(), 4);
    });
}

#[test]
fn a_panic_inside_the_hsms_library_costs_one_session_and_one_request() {
    play(|scene, _, keypad| async move {
        for call in ["open", "fingerprint", "seal"] {
            scene.hsm.fail_next(call, Fault::Panic);
        }
        // One by one: opening, then the fingerprint, then sealing, then nothing is left to go wrong. The first new
        // session is there at once, the next ones after a pause.
        assert_eq!(scene.tokenize("r1", keypad.seal(1, CARD)).await.err(), Some(Refusal::Internal));
        eventually("the token", async || match scene.tokenize("r1", keypad.seal(1, CARD)).await {
            Ok(card) => Some(card),
            Err(Refusal::Internal | Refusal::HsmUnavailable) => None,
            Err(other) => panic!("{other:?}"),
        })
        .await;
        assert_eq!(scene.hsm.calls().get("close"), Some(&3));
        scene.caused(Kind::HsmFailed, "the key deriver panicked").await;
        every_call_is_accounted_for(&scene).await;
    });
}

/// Stays in the HSM until it is told to come out, and draws random bytes then.
struct Stay(std::sync::mpsc::Receiver<()>);

impl Visit for Stay {
    type Reply = ();

    fn run(self, hsm: &mut dyn Hsm, _: &mut Record) -> Result<(), HsmError> {
        let _ = self.0.recv();
        hsm.random(&mut [0; 8])
    }
}

#[test]
fn an_hsm_that_hangs_lets_everybody_go_and_nobody_in_until_it_is_back() {
    play(|scene, _, _| async move {
        let (log, patience) = (scene.house.0.log.clone(), Duration::from_millis(300));
        let start = {
            let (hsm, log) = (scene.hsm.clone(), log.clone());
            move || KeyDeriver::start(9, hsm, log, 8, patience)
        };
        let deriver = tokio::task::spawn_blocking(start).await.unwrap().ok().unwrap();
        let visit = |deriver: KeyDeriver| {
            let (come_out, stay) = std::sync::mpsc::channel();
            let record = log.record(Kind::HsmFailed);
            (come_out, tokio::spawn(async move { deriver.visit(Stay(stay), record).await.result.map_err(drop) }))
        };
        let before = Instant::now();
        let (first, hung) = visit(deriver.clone());
        let (second, behind) = visit(deriver.clone());
        assert_eq!((hung.await.unwrap(), behind.await.unwrap()), (Err(()), Err(())));
        assert!(before.elapsed() >= patience && !deriver.is_up());
        let refused = deriver.visit(Stay(std::sync::mpsc::channel().1), log.record(Kind::HsmFailed)).await;
        assert!(matches!(refused.result, Err(VisitError::Hangs)) && refused.due.is_none());
        assert_eq!(scene.hsm.calls().get("random"), None);

        // It comes back: what it did late has its record, and who was let go is not served any more.
        drop((first, second));
        eventually("the way in", async || deriver.is_up().then_some(())).await;
        let (third, served) = visit(deriver.clone());
        drop(third);
        assert_eq!(served.await.unwrap(), Ok(()));
        assert_eq!(scene.hsm.calls().get("random"), Some(&2));
        every_call_is_accounted_for(&scene).await;
    });
}

#[test]
fn a_payment_whose_work_dies_on_the_way_is_settled_all_the_same() {
    play(|scene, acquirer, keypad| async move {
        scene.house.panic_next(Actor::AcquirerLink, &caller(1)).await;
        let payment = scene.authorize("r1", 1200, keypad.seal(1, CARD)).await.unwrap();
        assert_eq!(payment.state, State::Unknown);
        let settled = eventually("the payment's end", async || {
            let payment = scene.stored("r1").await;
            payment.state.is_settled().then_some(payment)
        });
        assert_eq!(settled.await.state, State::Reversed);
        assert_eq!((acquirer.did(payment.id).authorizations, acquirer.did(payment.id).reversals), (0, 1));
    });
}
