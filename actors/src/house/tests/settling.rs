//! Payments that more than one wants to settle: what is stored and what the acquirer did agree in the end.

use tokio::task::JoinHandle;
use warifu_core::merchant::ModuleId;
use warifu_core::payment::State;
use warifu_core::refusal::Refusal;

use super::money::settled;
use super::support::{CARD, Keypad, Question, Scene, Scripted, authorize, caller, eventually, play};
use crate::house::Caller;
use crate::store::job::{PaymentId, StoredPayment};

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
fn an_approval_counts_though_the_payment_was_taken_over() {
    play(|scene, acquirer, keypad| async move {
        acquirer.hold(Question::Authorization);
        let asked = ask(&scene, &acquirer, &keypad, "r1", 1).await;
        scene.sabotage("UPDATE payment SET instance = 'test-2', updated_at_ms = updated_at_ms + 1").await;
        acquirer.let_go();
        assert!(matches!(asked.state().await, State::Authorized(_)));
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
