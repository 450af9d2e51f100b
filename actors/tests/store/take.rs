//! What a taken card leaves behind, on both databases.

use futures_util::future::join_all;
use warifu_actors::record::Kind;
use warifu_actors::store::Writer;
use warifu_actors::store::job::{Intent, Job, Outcome, PaymentId, Rejection, StoredPayment};
use warifu_core::device;
use warifu_core::merchant::{DeviceId, MerchantId, OrderNumber, RequestId};
use warifu_core::payment::{ApprovalCode, ResponseCode, State};
use warifu_core::replay::KsnGuard;

use crate::support::{
    AT_MS, EACH, candidate, count, device_id, digest, done, everywhere, fingerprint, job, log, note, paying, record,
    take, taken,
};

fn shop() -> MerchantId {
    MerchantId::parse("shop").unwrap()
}

/// A move of a payment from where it was seen.
fn moving(seen: &StoredPayment, to: State) -> Job {
    let intent = Intent::Move { payment: seen.id, from: seen.state, since_ms: seen.updated_at_ms, to };
    Job { intent, records: vec![record(Kind::PaymentMoved)] }
}

/// The payment as it stands after the move.
async fn moved(writer: &Writer, job: Job) -> Result<StoredPayment, Rejection> {
    match done(writer, job).await? {
        Outcome::Moved(payment) => Ok(payment),
        other => panic!("not moved: {other:?}"),
    }
}

fn fault(limit: Option<u32>) -> Job {
    let device = device_id(0);
    Job { intent: Intent::Fault { device, limit }, records: vec![record(Kind::FrameRefused)] }
}

#[tokio::test]
async fn a_taken_card_is_found_by_request_fingerprint_and_token() {
    everywhere(|stage| async move {
        let first = taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert_eq!(first.card.token, candidate(1).token);
        assert_eq!(first.payment, None);
        let request = RequestId::parse("r1").unwrap();
        let stored = stage.store.request(&shop(), &request).await.unwrap();
        assert_eq!(stored, Some((digest("r1"), first.clone())));
        let token = stage.store.token_by_fingerprint(&shop(), &fingerprint(1)).await.unwrap().unwrap();
        assert_eq!(token.token, first.card.token);
        assert!(token.sealed == candidate(1).sealed);
        assert_eq!((token.masked, token.brand), (candidate(1).masked, candidate(1).brand));
        assert!(stage.store.token(&shop(), &first.card.token).await.unwrap().is_some());
        // A foreign token is as good as none.
        let other = MerchantId::parse("other").unwrap();
        assert!(stage.store.token(&other, &first.card.token).await.unwrap().is_none());
        assert!(stage.store.request(&other, &request).await.unwrap().is_none());
        let device = stage.store.device(&device_id(0)).await.unwrap().unwrap();
        assert_eq!(device.guard, KsnGuard { high_water: 1, used_below: 0 });
    })
    .await;
}

#[tokio::test]
async fn the_same_request_has_one_effect_and_another_with_its_name_none() {
    everywhere(|stage| async move {
        let (first, id) = paying(take("r1", 0, 1, 1, 1), "order 1");
        let was = taken(done(&stage.writer, job(first.clone())).await);
        let again = done(&stage.writer, job(first.clone())).await;
        assert_eq!(again, Ok(Outcome::Repeated(was)));
        let mut other = first;
        other.digest = [9; 32];
        assert_eq!(done(&stage.writer, job(other)).await, Err(Rejection::RequestReused));
        assert_eq!(stage.store.payments(&shop(), None, 10).await.unwrap().len(), 1);
        assert!(stage.store.payment(id).await.unwrap().is_some());
        let told = stage.check_log("one").await;
        assert_eq!(told.iter().filter(|record| record.kind == Kind::FrameOpened).count(), 3);
        let refused: Vec<_> = told.iter().filter(|record| record.kind == Kind::RequestRefused).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].request.as_deref(), Some("r1"));
        assert_eq!(refused[0].cause, Some(Rejection::RequestReused.to_string()));
    })
    .await;
}

#[tokio::test]
async fn a_used_counter_a_foreign_and_a_stopped_device_are_refused() {
    everywhere(|stage| async move {
        taken(done(&stage.writer, job(take("r1", 0, 5, 1, 1))).await);
        assert_eq!(done(&stage.writer, job(take("r2", 0, 5, 1, 2))).await, Err(Rejection::Replayed));
        assert_eq!(done(&stage.writer, job(take("r3", 0, 4, 1, 2))).await, Err(Rejection::Replayed));
        let mut foreign = take("r4", 0, 6, 1, 2);
        foreign.merchant = MerchantId::parse("other").unwrap();
        assert_eq!(done(&stage.writer, job(foreign)).await, Err(Rejection::DeviceUnknown));
        let mut nobodys = take("r5", 0, 6, 1, 2);
        nobodys.device = DeviceId::parse("nobody").unwrap();
        assert_eq!(done(&stage.writer, job(nobodys)).await, Err(Rejection::DeviceUnknown));
        let registry = stage.store.registry(log("cli"));
        registry.set_device_state(&device_id(0), device::State::Suspended, AT_MS).await.unwrap();
        assert_eq!(done(&stage.writer, job(take("r6", 0, 6, 1, 2))).await, Err(Rejection::DeviceNotActive));
        registry.set_device_state(&device_id(0), device::State::Active, AT_MS).await.unwrap();
        taken(done(&stage.writer, job(take("r7", 0, 6, 1, 2))).await);
    })
    .await;
}

#[tokio::test]
async fn a_card_keeps_its_token_and_no_token_has_two_cards() {
    everywhere(|stage| async move {
        let mut no_candidate = take("r0", 0, 1, 1, 1);
        no_candidate.candidate = None;
        assert_eq!(done(&stage.writer, job(no_candidate.clone())).await, Err(Rejection::TokenWanted));
        // Asking for a token does not use the counter up.
        let first = taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert_eq!(done(&stage.writer, job(take("r2", 0, 2, 2, 1))).await, Err(Rejection::TokenCollision));
        let second = taken(done(&stage.writer, job(take("r2", 0, 2, 2, 2))).await);
        assert_ne!(first.card.token, second.card.token);
        let same_card = taken(done(&stage.writer, job(take("r3", 1, 1, 1, 3))).await);
        assert_eq!(same_card.card.token, first.card.token);
        let mut known = no_candidate;
        known.counter = take("x", 0, 3, 1, 1).counter;
        let known = taken(done(&stage.writer, job(known)).await);
        assert_eq!(known.card.token, first.card.token);
    })
    .await;
}

#[tokio::test]
async fn a_payment_moves_as_payments_may_and_no_other_way() {
    everywhere(|stage| async move {
        let (new, id) = paying(take("r1", 0, 1, 1, 1), "order 1");
        let sent = taken(done(&stage.writer, job(new.clone())).await).payment.unwrap();
        assert_eq!(sent.state, State::Sent);
        assert_eq!(stage.store.open_payments(&log("one")).await.unwrap(), std::slice::from_ref(&sent));
        let approved = State::Authorized(ApprovalCode::parse("A00001").unwrap());
        let declined = State::Declined(ResponseCode::parse("51").unwrap());
        let try_to = async |seen: &StoredPayment, to| moved(&stage.writer, moving(seen, to)).await;
        let elsewhere = StoredPayment { state: State::Unknown, ..sent.clone() };
        assert_eq!(try_to(&elsewhere, approved).await, Err(Rejection::WrongState));
        assert_eq!(try_to(&sent, State::Reversed).await, Err(Rejection::WrongState));
        let unknown = try_to(&sent, State::Unknown).await.unwrap();
        assert_eq!(stage.store.payment(id).await.unwrap().as_ref(), Some(&unknown));
        let open = std::slice::from_ref(&unknown);
        assert_eq!(stage.store.open_payments(&log("one")).await.unwrap(), open);
        assert_eq!(stage.store.unknown_payments(&log("one"), 9).await.unwrap(), open);
        assert_eq!(stage.store.open_payments(&log("two")).await.unwrap(), []);
        let authorized = try_to(&unknown, approved).await.unwrap();
        assert_eq!(try_to(&unknown, declined).await, Err(Rejection::WrongState));
        assert_eq!(try_to(&authorized, declined).await, Err(Rejection::WrongState));
        assert_eq!(stage.store.payment(id).await.unwrap().unwrap().state, approved);
        assert_eq!(stage.store.open_payments(&log("one")).await.unwrap(), []);
        // A repeated request tells where the payment is now.
        let Ok(Outcome::Repeated(again)) = done(&stage.writer, job(new)).await else { panic!("repeated") };
        assert_eq!(again.payment.unwrap(), authorized);
        let nobodys = StoredPayment { id: PaymentId(uuid::Uuid::now_v7()), ..sent };
        assert_eq!(try_to(&nobodys, approved).await, Err(Rejection::WrongState));
    })
    .await;
}

#[tokio::test]
async fn of_many_who_saw_a_payment_one_moves_it_and_has_it_then() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        for round in 1..=10 {
            let (new, _) = paying(take(&format!("r{round}"), 0, round, 1, 1), "order");
            let sent = taken(done(&stage.writer, job(new)).await).payment.unwrap();
            let unknown = moved(&stage.writer, moving(&sent, State::Unknown)).await.unwrap();
            // Staying where it is counts as a move: of two settlers that take it over one has it.
            let tries = (0..16).map(|number| {
                let writer = if number % 2 == 0 { &stage.writer } else { &second };
                moved(writer, moving(&unknown, State::Unknown))
            });
            let tries = join_all(tries.collect::<Vec<_>>()).await;
            let mut had: Vec<_> = tries.into_iter().flatten().collect();
            let taken_over = had.pop().unwrap();
            assert_eq!(had, []);
            let mut open = stage.store.unknown_payments(&log("one"), 9).await.unwrap();
            open.extend(stage.store.unknown_payments(&log("two"), 9).await.unwrap());
            assert_eq!(open, std::slice::from_ref(&taken_over));
            let second_has_it = stage.store.unknown_payments(&log("two"), 9).await.unwrap().len() == 1;
            let owner = if second_has_it { &second } else { &stage.writer };
            moved(owner, moving(&taken_over, State::Reversed)).await.unwrap();
        }
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_is_back_where_it_was_seen_is_not_taken_for_the_same() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        let (new, _) = paying(take("r1", 0, 1, 1, 1), "order");
        let sent = taken(done(&stage.writer, job(new)).await).payment.unwrap();
        let mut again = sent.clone();
        for to in [State::Unknown, State::Reversed, State::Sent] {
            // All at one time by the clock, which may even step back.
            again = moved(&second, moving(&again, to)).await.unwrap();
        }
        assert_eq!(again.state, sent.state);
        assert!(again.updated_at_ms > sent.updated_at_ms);
        assert_eq!(moved(&stage.writer, moving(&sent, State::Unknown)).await, Err(Rejection::WrongState));
        assert_eq!(stage.store.open_payments(&log("two")).await.unwrap(), [again]);
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn open_payments_nobody_touches_are_found_whoever_took_them() {
    everywhere(|stage| async move {
        let (other, second) = stage.second("two").await;
        let mut sent = Vec::new();
        // The later a payment was taken, the longer nobody has touched it; those of "two" and of "one" by turns.
        for number in 1..=6_u8 {
            let (new, _) = paying(take(&format!("r{number}"), number % 2, number.into(), 1, 1), "order");
            let mut job = job(new);
            job.records[0].at_ms = 1000 - u64::from(number) * 10;
            let writer = if number % 2 == 0 { &stage.writer } else { &second };
            sent.push(taken(done(writer, job).await).payment.unwrap());
        }
        let mut settled = moving(&sent[5], State::Declined(ResponseCode::parse("51").unwrap()));
        settled.records[0].at_ms = 900;
        moved(&stage.writer, settled).await.unwrap();
        let mut touched = moving(&sent[4], State::Unknown);
        touched.records[0].at_ms = 975;
        moved(&second, touched).await.unwrap();
        let found = stage.store.open_payments_before(980, 10).await.unwrap();
        let told: Vec<_> = found.iter().map(|payment| (payment.id, payment.state, payment.updated_at_ms)).collect();
        let wanted =
            [(sent[3].id, State::Sent, 960), (sent[2].id, State::Sent, 970), (sent[4].id, State::Unknown, 975)];
        assert_eq!(told, wanted);
        let first = stage.store.open_payments_before(980, 1).await.unwrap();
        assert_eq!(first.iter().map(|payment| payment.id).collect::<Vec<_>>(), [sent[3].id]);
        assert_eq!(stage.store.open_payments_before(960, 10).await.unwrap(), []);
        let mine = stage.store.open_payments(&log("two")).await.unwrap();
        assert_eq!(mine.iter().map(|payment| payment.updated_at_ms).collect::<Vec<_>>(), [990, 970, 975]);
        assert_eq!(mine[2].created_at_ms, 950);
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_paid_far_too_often_tells_its_newest_payments() {
    everywhere(|stage| async move {
        let jobs = (0..130_u32).map(|number| {
            let (new, id) = paying(take(&format!("r{number}"), 0, 1 + number, 1, 1), "order");
            (stage.writer.submit(job(new)), id)
        });
        let (answers, ids): (Vec<_>, Vec<_>) = jobs.unzip();
        futures_util::future::join_all(answers).await.into_iter().for_each(|answer| drop(taken(answer.unwrap())));
        let order = OrderNumber::parse("order").unwrap();
        let found = stage.store.payments_by_order(&shop(), &order).await.unwrap();
        assert_eq!(found.iter().map(|payment| payment.id).collect::<Vec<_>>(), ids[30..]);
    })
    .await;
}

#[tokio::test]
async fn payments_are_listed_by_order_and_by_page() {
    everywhere(|stage| async move {
        let mut ids = Vec::new();
        for number in 1..=7 {
            let (new, id) = paying(take(&format!("r{number}"), 0, number, 1, 1), &format!("order {}", number % 2));
            taken(done(&stage.writer, job(new)).await);
            ids.push(id);
        }
        let order = OrderNumber::parse("order 1").unwrap();
        let found = stage.store.payments_by_order(&shop(), &order).await.unwrap();
        assert_eq!(found.iter().map(|payment| payment.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[4], ids[6]]);
        let page = stage.store.payments(&shop(), None, 5).await.unwrap();
        let rest = stage.store.payments(&shop(), page.last().map(|payment| payment.id), 5).await.unwrap();
        let listed: Vec<_> = page.iter().chain(&rest).map(|payment| payment.id).collect();
        assert_eq!(listed, ids);
        let other = MerchantId::parse("other").unwrap();
        assert_eq!(stage.store.payments(&other, None, 5).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn bad_frames_suspend_a_device_and_a_good_one_forgives_them() {
    everywhere(|stage| async move {
        let counted = Ok(Outcome::Faulted { suspended: false });
        assert_eq!(done(&stage.writer, fault(Some(2))).await, counted);
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        assert_eq!(done(&stage.writer, fault(Some(2))).await, counted);
        assert_eq!(done(&stage.writer, fault(Some(2))).await, Ok(Outcome::Faulted { suspended: true }));
        assert_eq!(done(&stage.writer, job(take("r2", 0, 2, 1, 1))).await, Err(Rejection::DeviceNotActive));
        let told = stage.check_log("one").await;
        assert_eq!(told.iter().filter(|record| record.kind == Kind::DeviceQuarantined).count(), 1);
        for _ in 0..5 {
            assert_eq!(done(&stage.writer, fault(None)).await, counted);
        }
    })
    .await;
}

#[tokio::test]
async fn a_crowd_is_served_in_batches_and_each_gets_its_own_answer() {
    everywhere(|stage| async move {
        let jobs = 1000_u32;
        let answers = (0..jobs).map(|number| {
            let device = u8::try_from(number % 4).unwrap();
            let (new, _) =
                paying(take(&format!("r{number}"), device, 1 + number, (number % 50).into(), number.into()), "o");
            stage.writer.submit(job(new))
        });
        let answers = futures_util::future::join_all(answers.collect::<Vec<_>>()).await;
        // Counters beyond sixteen one-bits do not occur below 1000.
        assert_eq!(count(&answers, |answer| matches!(answer, Ok(Outcome::Taken(_)))), jobs as usize);
        for (number, answer) in answers.into_iter().enumerate() {
            let request = RequestId::parse(&format!("r{number}")).unwrap();
            let stored = stage.store.request(&shop(), &request).await.unwrap().unwrap().1;
            assert_eq!(stored, taken(answer.unwrap()));
        }
        assert_eq!(stage.check_log("one").await.len(), jobs as usize * EACH);
        let state = stage.writer.tree().borrow().clone();
        assert_eq!(state.tree.size(), u64::from(jobs) * EACH as u64);
        assert_eq!(state.tree, stage.store.tree(&log("one")).await.unwrap());
        assert!(state.last_durable_at.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_lone_note_is_durable_when_it_is_answered() {
    everywhere(|stage| async move {
        assert_eq!(stage.writer.tree().borrow().last_durable_at, None);
        assert_eq!(done(&stage.writer, note()).await, Ok(Outcome::Noted));
        assert_eq!(stage.store.records(&log("one"), 0, 10).await.unwrap().len(), 1);
        assert_eq!(stage.writer.tree().borrow().tree.size(), 1);
        // A job without records changes nothing and is answered all the same.
        let nothing = Job { intent: Intent::Note, records: Vec::new() };
        assert_eq!(done(&stage.writer, nothing).await, Ok(Outcome::Noted));
        assert_eq!(stage.check_log("one").await.len(), 1);
    })
    .await;
}
