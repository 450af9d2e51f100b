//! Many callers and several server processes want the same thing at once.

use std::collections::HashSet;

use futures_util::future::join_all;
use warifu_actors::store::job::{Outcome, Rejection};
use warifu_actors::store::{Answer, StoreError, Writer, WriterSettings};

use crate::support::{EACH, count, done, everywhere, job, log, note, on_postgres, take, taken};

/// Hands in 64 jobs, in turn to each writer, without waiting.
async fn crowd(writers: [&Writer; 2], of: impl Fn(u64) -> warifu_actors::store::job::Take) -> Vec<Answer> {
    let answers = (0..64).zip([0, 1].into_iter().cycle());
    join_all(answers.map(|(number, which): (u64, usize)| writers[which].submit(job(of(number)))).collect::<Vec<_>>())
        .await
}

fn is_taken(answer: &Result<Outcome, Rejection>) -> bool {
    matches!(answer, Ok(Outcome::Taken(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_with_one_counter_have_exactly_one_effect() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for round in 1..=20 {
            let answers = crowd([&stage.writer, &second], |number| {
                take(&format!("r{round}-{number}"), 0, round, number, 1000 * u64::from(round) + number)
            })
            .await;
            assert_eq!(count(&answers, is_taken), 1);
            assert_eq!(count(&answers, |answer| *answer == Err(Rejection::Replayed)), 63);
        }
        assert_eq!(stage.check_log("one").await.len() + stage.check_log("two").await.len(), 20 * (64 + 63 + 1));
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_with_one_request_have_one_effect_and_one_answer() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for round in 1..=20 {
            let request = format!("r{round}");
            let answers = crowd([&stage.writer, &second], |_| take(&request, 0, round, 1, 1)).await;
            assert_eq!(count(&answers, is_taken), 1);
            let told: HashSet<_> = answers
                .into_iter()
                .map(|answer| match answer.unwrap() {
                    Ok(Outcome::Taken(taken) | Outcome::Repeated(taken)) => taken.card.token,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(told.len(), 1);
        }
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_card_gets_one_token_though_each_device_draws_its_own() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for round in 0..20_u64 {
            // Every device has a lock of its own, so only the unique keys stand between the writers.
            let counter = |number: u64| u32::try_from(1 + round * 16 + number / 4).unwrap();
            let answers = crowd([&stage.writer, &second], |number| {
                let device = u8::try_from(number % 4).unwrap();
                take(&format!("r{round}-{number}"), device, counter(number), round, 100 * round + number)
            })
            .await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            let tokens: HashSet<_> = answers
                .into_iter()
                .filter_map(|answer| match answer.unwrap() {
                    Ok(Outcome::Taken(taken)) => Some(taken.card.token),
                    // Two writers may take one device's counters in another order.
                    Err(Rejection::Replayed) => None,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(tokens.len(), 1);
        }
        stage.check_log("one").await;
        stage.check_log("two").await;
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_drawn_token_goes_to_one_card() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for round in 0..10_u64 {
            let counter = u32::try_from(1 + round).unwrap();
            let [zero, one, two, three] = [0, 1, 2, 3].map(|device: u8| {
                let writer = if device.is_multiple_of(2) { &stage.writer } else { &second };
                writer.submit(job(take(
                    &format!("r{round}-{device}"),
                    device,
                    counter,
                    10 * round + u64::from(device),
                    round,
                )))
            });
            let (zero, one, two, three) = tokio::join!(zero, one, two, three);
            let answers = [zero, one, two, three];
            assert_eq!(count(&answers, is_taken), 1);
            assert_eq!(count(&answers, |answer| *answer == Err(Rejection::TokenCollision)), 3);
        }
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_log_has_one_writer_and_the_newest_wins() {
    everywhere(|stage| async move {
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        let (other, second) = stage.second("one").await;
        taken(done(&second, job(take("r2", 0, 2, 1, 1))).await);
        let late = stage.writer.submit(job(take("r3", 0, 3, 1, 1))).await;
        assert!(matches!(late, Err(StoreError::LogTaken)), "{late:?}");
        assert!(matches!(stage.writer.submit(note()).await, Err(StoreError::LogTaken)));
        taken(done(&second, job(take("r3", 0, 3, 1, 1))).await);
        assert_eq!(stage.check_log("one").await.len(), 3 * EACH);
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_is_told_at_once() {
    on_postgres(|stage| async move {
        let settings = WriterSettings { max_batch: 1, queue: 2, ..WriterSettings::default() };
        let small = stage.store.start_writer(log("small"), settings).await.unwrap();
        // The task does not run before this one waits, so the queue fills.
        let [a, b, c] = [small.submit(note()), small.submit(note()), small.submit(note())];
        assert!(matches!(c.await, Err(StoreError::Busy)));
        assert_eq!(a.await.unwrap(), Ok(Outcome::Noted));
        assert_eq!(b.await.unwrap(), Ok(Outcome::Noted));
        assert_eq!(done(&small, note()).await, Ok(Outcome::Noted));
    })
    .await;
}
