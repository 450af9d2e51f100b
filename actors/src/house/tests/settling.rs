//! Payments that more than one wants to settle: what is stored and what the acquirer did agree in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use warifu_core::merchant::ModuleId;
use warifu_core::payment::State;
use warifu_core::refusal::Refusal;

use super::money::settled;
use super::support::{CARD, Keypad, Mood, Question, Scene, Scripted, Stage, authorize, caller, eventually, play};
use crate::cashier::{Left, Settler};
use crate::house::Caller;
use crate::store::job::{PaymentId, StoredPayment};
use crate::supervisor::run;

/// A time limit as short as a scene can bear.
const LIMIT: Duration = Duration::from_millis(300);

/// Asks for a payment from a module of its own, and waits until the acquirer is about to hear of it.
async fn ask(scene: &Scene, acquirer: &Scripted, keypad: &Keypad, name: &str, module: u32) -> Asked {
    let heard = acquirer.heard();
    let counter = name.strip_prefix('r').unwrap().parse().unwrap();
    let (house, asked) = (scene.house.clone(), authorize(name, 1200, keypad.seal(counter, CARD)));
    let caller = Caller { module: ModuleId::parse(&format!("pos-{module}")).unwrap(), ..caller(1) };
    let answer = tokio::spawn(async move { house.authorize(&caller, asked).await });
    eventually("the question", async || (acquirer.heard() > heard).then_some(())).await;
    Asked { id: scene.stored(name).await.id, answer }
}

struct Asked {
    id: PaymentId,
    answer: JoinHandle<Result<StoredPayment, Refusal>>,
}

impl Asked {
    async fn state(self) -> State {
        self.answer.await.unwrap().unwrap().state
    }
}

/// One more settler of a house.
fn settler(scene: &Scene) -> mpsc::Sender<Left> {
    let (strays, left) = mpsc::channel(8);
    let (log, link) = (scene.house.0.log.clone(), scene.house.0.gates.acquirer.clone());
    tokio::spawn(Settler::new(scene.store.clone(), log, link, left, Duration::ZERO).run());
    strays
}

/// A second server over the store of a stage.
async fn second(stage: &mut Stage, acquirer: &Arc<Scripted>) -> Scene {
    stage.settings.instance = "test-2".to_owned();
    stage.start(acquirer.clone()).await.unwrap()
}

/// Plays a scene in which the first of two servers and its keypad are there already.
fn play_first<F: Future<Output = ()>>(scene: impl FnOnce(Stage, Scene, Arc<Scripted>, Keypad) -> F) {
    run(async {
        let stage = Stage::new();
        let acquirer = Arc::new(Scripted::default());
        let one = stage.start(acquirer.clone()).await.unwrap();
        one.people().await;
        let keypad = one.keypad(1, "keypad-1", "shop-1").await;
        scene(stage, one, acquirer, keypad).await;
    });
}

#[test]
fn an_authorization_that_comes_after_another_servers_inquiry_moves_no_money() {
    play_first(|mut stage, one, acquirer, keypad| async move {
        acquirer.hold(Question::Authorization);
        let asked = ask(&one, &acquirer, &keypad, "r1", 1).await;
        // For all the other knows, the first has been gone for long.
        one.sabotage("UPDATE payment SET updated_at_ms = 0").await;
        (stage.settings.acquirer_timeout, stage.settings.queue_wait) = (LIMIT, LIMIT);
        let two = second(&mut stage, &acquirer).await;
        assert_eq!(settled(&two, "r1").await.state, State::Reversed);
        acquirer.let_go();
        let id = asked.id;
        assert_eq!(asked.state().await, State::Reversed);
        assert!(!acquirer.did(id).moved_money());
    });
}

#[test]
fn an_approval_of_what_was_thought_never_sent_is_taken_back() {
    play(|scene, acquirer, keypad| async move {
        acquirer.hold(Question::Authorization);
        let asked = ask(&scene, &acquirer, &keypad, "r1", 1).await;
        scene.sabotage("UPDATE payment SET state = 'reversed', updated_at_ms = updated_at_ms + 1").await;
        acquirer.let_go();
        let id = asked.id;
        assert_eq!(asked.state().await, State::Unknown);
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
        assert!(acquirer.did(id).reversed);
    });
}

#[test]
fn an_approval_of_a_payment_in_other_hands_is_taken_back() {
    play(|scene, acquirer, keypad| async move {
        acquirer.hold(Question::Authorization);
        let asked = ask(&scene, &acquirer, &keypad, "r1", 1).await;
        // Another server may have taken it back meanwhile, and a retry may have sent it again.
        scene.sabotage("UPDATE payment SET instance = 'test-2', updated_at_ms = updated_at_ms + 1").await;
        acquirer.let_go();
        let id = asked.id;
        assert_eq!(asked.state().await, State::Unknown);
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
        assert!(acquirer.did(id).reversed);
    });
}

#[test]
fn an_approval_does_not_stop_a_reversal_under_way() {
    play(|scene, acquirer, keypad| async move {
        acquirer.hold(Question::Authorization);
        let asked = ask(&scene, &acquirer, &keypad, "r1", 1).await;
        scene
            .sabotage("UPDATE payment SET state = 'unknown', instance = 'test-2', updated_at_ms = updated_at_ms + 1")
            .await;
        acquirer.let_go();
        let id = asked.id;
        assert_eq!(asked.state().await, State::Unknown);
        assert_eq!(settled(&scene, "r1").await.state, State::Reversed);
        assert!(acquirer.did(id).reversed);
    });
}

#[test]
fn settlers_of_opposite_aims_come_to_one_end() {
    play_first(|mut stage, one, acquirer, keypad| async move {
        let two = second(&mut stage, &acquirer).await;
        acquirer.become_mood(Mood::ApprovingEndlessly);
        let first = ask(&one, &acquirer, &keypad, "r1", 1).await.id;
        acquirer.hold(Question::Reversal);
        let (taking_back, finding_out) = (settler(&two), settler(&one));
        taking_back.send(Left::BeingSent(first)).await.unwrap();
        eventually("the reversal", async || (acquirer.held_up() == 1).then_some(())).await;
        // Whoever comes to find out takes it back too, though the acquirer would say that it approved.
        finding_out.send(Left::Unheard(first)).await.unwrap();
        eventually("the other's word", async || {
            (acquirer.held_up() == 2 || one.stored("r1").await.state.is_settled()).then_some(())
        })
        .await;
        acquirer.let_go();
        eventually("the reversal's end", async || acquirer.did(first).reversed.then_some(())).await;
        assert_eq!(settled(&one, "r1").await.state, State::Reversed);
    });
}

#[test]
fn a_payment_claimed_again_is_no_business_of_who_looked_after_it_before() {
    play(|scene, acquirer, keypad| async move {
        acquirer.become_mood(Mood::Deaf);
        let first = ask(&scene, &acquirer, &keypad, "r1", 1).await;
        let next = ask(&scene, &acquirer, &keypad, "r2", 2).await;
        let last = ask(&scene, &acquirer, &keypad, "r3", 3).await;
        let strays = settler(&scene);
        acquirer.hold(Question::Inquiry);
        strays.send(Left::Unheard(first.id)).await.unwrap();
        eventually("the inquiry", async || (acquirer.held_up() == 1).then_some(())).await;
        scene
            .sabotage(
                "UPDATE payment SET state = 'reversed', updated_at_ms = updated_at_ms + 1 WHERE order_number = 'order r1'",
            )
            .await;
        // The inquiry gets no answer, so the settler goes on caring.
        acquirer.become_mood(Mood::Away);
        acquirer.let_go();
        eventually("the inquiry's end", async || (acquirer.missed() == 1).then_some(())).await;
        acquirer.become_mood(Mood::Approving);
        acquirer.hold(Question::Authorization);
        let again = ask(&scene, &acquirer, &keypad, "r1", 4).await;
        assert_eq!(again.id, first.id);
        for (left, name) in [(next.id, "r2"), (last.id, "r3")] {
            strays.send(Left::Unheard(left)).await.unwrap();
            assert_eq!(settled(&scene, name).await.state, State::Reversed);
        }
        acquirer.let_go();
        assert!(matches!(again.state().await, State::Authorized(_)));
        assert_eq!(acquirer.did(first.id).reversals, 0);
    });
}

#[test]
fn a_second_restart_still_finds_out_what_became_of_a_payment() {
    let mut stage = Stage::new();
    let acquirer = Arc::new(Scripted::default());
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        scene.people().await;
        let keypad = scene.keypad(1, "keypad-1", "shop-1").await;
        acquirer.become_mood(Mood::ApprovingEndlessly);
        drop(ask(&scene, &acquirer, &keypad, "r1", 1).await);
    });
    acquirer.hold(Question::Inquiry);
    stage.settings.acquirer_timeout = LIMIT;
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        eventually("the inquiry", async || (acquirer.held_up() > 0).then_some(())).await;
        assert!(!scene.stored("r1").await.state.is_settled());
    });
    acquirer.let_go();
    run(async {
        let scene = stage.start(acquirer.clone()).await.unwrap();
        let payment = settled(&scene, "r1").await;
        assert!(matches!(payment.state, State::Authorized(_)), "{:?}", payment.state);
        assert_eq!(acquirer.did(payment.id).reversals, 0);
    });
}
