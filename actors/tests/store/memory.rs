//! What a writer remembers of rows that others have changed since: it must find out, and decide over what is there.

use futures_util::future::join_all;
use warifu_actors::record::Kind;
use warifu_actors::store::job::{Intent, Job, Outcome, Rejection};
use warifu_core::device;
use warifu_core::payment::State;

use crate::support::{AT_MS, Stage, candidate, device_id, done, everywhere, job, log, paying, record, take, taken};

/// The writer `one` has taken a card of the first device, and remembers it.
async fn remembering(stage: &Stage) {
    taken(done(&stage.writer, job(take("before", 0, 1, 1, 1))).await);
}

#[tokio::test]
async fn a_counter_that_another_server_took_is_used() {
    everywhere(|stage| async move {
        remembering(&stage).await;
        let (other, second) = stage.second("two").await;
        taken(done(&second, job(take("theirs", 0, 5, 1, 1))).await);
        assert_eq!(done(&stage.writer, job(take("r1", 0, 3, 1, 1))).await, Err(Rejection::Replayed));
        assert_eq!(done(&stage.writer, job(take("r2", 0, 5, 1, 1))).await, Err(Rejection::Replayed));
        taken(done(&stage.writer, job(take("r3", 0, 6, 1, 1))).await);
        assert_eq!(done(&second, job(take("r4", 0, 6, 1, 1))).await, Err(Rejection::Replayed));
        stage.check_log("one").await;
        stage.check_log("two").await;
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_was_suspended_meanwhile_takes_nothing() {
    everywhere(|stage| async move {
        remembering(&stage).await;
        let (other, _second) = stage.second("two").await;
        other.registry(log("cli")).set_device_state(&device_id(0), device::State::Suspended, AT_MS).await.unwrap();
        assert_eq!(done(&stage.writer, job(take("r1", 0, 2, 1, 1))).await, Err(Rejection::DeviceNotActive));
        other.registry(log("cli")).set_device_state(&device_id(0), device::State::Active, AT_MS).await.unwrap();
        taken(done(&stage.writer, job(take("r2", 0, 2, 1, 1))).await);
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_card_that_got_its_token_elsewhere_keeps_it() {
    everywhere(|stage| async move {
        remembering(&stage).await;
        let (other, second) = stage.second("two").await;
        taken(done(&second, job(take("theirs", 1, 1, 7, 7))).await);
        let ours = taken(done(&stage.writer, job(take("ours", 0, 2, 7, 8))).await);
        assert_eq!(ours.card.token, candidate(7).token);
        // Digits that are another card's by now.
        taken(done(&second, job(take("more", 1, 2, 9, 9))).await);
        assert_eq!(done(&stage.writer, job(take("r1", 0, 3, 10, 9))).await, Err(Rejection::TokenCollision));
        taken(done(&stage.writer, job(take("r1", 0, 3, 10, 10))).await);
        stage.check_log("one").await;
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_request_that_was_taken_elsewhere_is_repeated() {
    everywhere(|stage| async move {
        remembering(&stage).await;
        let (other, second) = stage.second("two").await;
        let theirs = taken(done(&second, job(take("r1", 1, 1, 2, 2))).await);
        assert_eq!(done(&stage.writer, job(take("r1", 0, 2, 2, 2))).await, Ok(Outcome::Repeated(theirs)));
        let mut mistaken = take("r1", 0, 2, 2, 2);
        mistaken.digest = [9; 32];
        assert_eq!(done(&stage.writer, job(mistaken)).await, Err(Rejection::RequestReused));
        // Its counter was not used up by either.
        taken(done(&stage.writer, job(take("r2", 0, 2, 2, 2))).await);
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_was_moved_elsewhere_is_not_moved_from_where_it_was() {
    everywhere(|stage| async move {
        remembering(&stage).await;
        let (other, second) = stage.second("two").await;
        let (take, id) = paying(take("r1", 0, 2, 1, 1), "order 1");
        let sent = taken(done(&stage.writer, job(take)).await).payment.unwrap();
        let away = |from: State, since_ms, to| Job {
            intent: Intent::Move { payment: id, from, since_ms, to },
            records: vec![record(Kind::PaymentMoved)],
        };
        let Ok(Outcome::Moved(unknown)) = done(&second, away(State::Sent, sent.updated_at_ms, State::Unknown)).await
        else {
            panic!("not moved")
        };
        let late = done(&stage.writer, away(State::Sent, sent.updated_at_ms, State::Unknown)).await;
        assert_eq!(late, Err(Rejection::WrongState));
        // The state is what it was taken for, but it is another stay in it.
        let Ok(Outcome::Moved(again)) =
            done(&second, away(State::Unknown, unknown.updated_at_ms, State::Unknown)).await
        else {
            panic!("not moved")
        };
        let late = done(&stage.writer, away(State::Unknown, unknown.updated_at_ms, State::Reversed)).await;
        assert_eq!(late, Err(Rejection::WrongState));
        let ours = done(&stage.writer, away(State::Unknown, again.updated_at_ms, State::Reversed)).await;
        assert!(matches!(ours, Ok(Outcome::Moved(_))), "{ours:?}");
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn one_wrong_guess_costs_the_others_of_its_batch_nothing() {
    everywhere(|stage| async move {
        for device in 0..4 {
            taken(done(&stage.writer, job(take(&format!("before-{device}"), device, 1, 1, 1))).await);
        }
        let (other, second) = stage.second("two").await;
        taken(done(&second, job(take("theirs", 2, 9, 1, 1))).await);
        let asked = (0..4).map(|device| stage.writer.submit(job(take(&format!("r-{device}"), device, 2, 1, 1))));
        let answers = join_all(asked.collect::<Vec<_>>()).await;
        for (device, answer) in answers.into_iter().enumerate() {
            match (device, answer.unwrap()) {
                (2, Err(Rejection::Replayed)) => {}
                (0 | 1 | 3, Ok(Outcome::Taken(_))) => {}
                (_, other) => panic!("device {device}: {other:?}"),
            }
        }
        stage.check_log("one").await;
        other.close().await;
    })
    .await;
}

/// Whoever shares a row keeps changing it under the other, and nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_in_turn_on_one_device_use_every_counter_once() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for counter in 1..=40 {
            let writer = if counter % 3 == 0 { &second } else { &stage.writer };
            let card = u64::from(counter) % 5;
            taken(done(writer, job(take(&format!("r{counter}"), 0, counter, card, card))).await);
        }
        assert_eq!(stage.store.device(&device_id(0)).await.unwrap().unwrap().guard.high_water, 40);
        stage.check_log("one").await;
        stage.check_log("two").await;
        other.close().await;
    })
    .await;
}
