//! Many callers at one moment: whoever wins, there is one effect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::HashSet;

use serde_json::Value;
use stage::desk::{NewDevice, keypad};
use stage::sealer::Sealer;
use stage::shop::{Shop, TILL_KSN, approvals};
use stage::till::{No, Till, phone};
use stage::{Options, Server, database};
use tonic::Code;
use warifu_sdk::wire::v1::{Outcome, Payment};

const CALLERS: usize = 64;
const VISA: &str = "4111111111111111";

/// All at once, each with its own request id or all with the same, spread over the tills.
async fn all_at_once(
    tills: &[Till],
    frame: &[u8],
    order: &str,
    request: impl Fn(usize) -> String,
) -> Vec<Result<Payment, No>> {
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(CALLERS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (till, frame, order) = (tills[caller % tills.len()].clone(), frame.to_vec(), order.to_owned());
            let (request, start) = (request(caller), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                till.authorize(&request, &frame, phone(&order, 1200)).await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    answers
}

/// One of them took the card; for all others its frame is a replay.
fn exactly_one_took_it(answers: Vec<Result<Payment, No>>) -> Payment {
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, CALLERS - 1));
    for no in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!((no.reason.as_str(), no.code), ("FRAME_REPLAYED", Code::AlreadyExists));
    }
    let payment = taken.into_iter().next().unwrap().unwrap();
    assert_eq!(payment.outcome(), Outcome::Authorized);
    payment
}

/// All of them have the one payment.
fn all_have_the_same(answers: Vec<Result<Payment, No>>) -> Payment {
    let payments: Vec<Payment> = answers.into_iter().map(|answer| answer.expect("every caller is answered")).collect();
    let ids: HashSet<&str> = payments.iter().map(|payment| payment.payment_id.as_str()).collect();
    assert_eq!((payments.len(), ids.len()), (CALLERS, 1));
    assert!(payments.iter().all(|payment| *payment == payments[0]), "one payment, one answer");
    assert_eq!(payments[0].outcome(), Outcome::Authorized);
    payments.into_iter().next().unwrap()
}

fn is_the_only_effect(payment: &Payment, journal: &[Value]) {
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(journal[0]["payment"], payment.payment_id.as_str());
    assert_eq!(approvals(journal), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_callers_with_one_frame_one_has_an_effect() {
    let shop = Shop::open().await;
    let tills = [shop.till.clone(), Till::of(&shop.server).await];
    let frame = Sealer::aes(TILL_KSN).keyed(VISA);
    let payment = exactly_one_took_it(all_at_once(&tills, &frame, "1001", |caller| format!("caller-{caller}")).await);
    is_the_only_effect(&payment, &shop.journal());
    assert_eq!(shop.till.find_sale("1001").await.unwrap(), [payment]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_callers_with_one_request_all_have_the_same_payment() {
    let shop = Shop::open().await;
    let tills = [shop.till.clone(), Till::of(&shop.server).await];
    let frame = Sealer::aes(TILL_KSN).keyed(VISA);
    let payment = all_have_the_same(all_at_once(&tills, &frame, "1001", |_| "one".to_owned()).await);
    is_the_only_effect(&payment, &shop.journal());
    assert_eq!(shop.till.find_sale("1001").await.unwrap(), [payment]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_beyond_the_admission_are_told_so_at_once_and_their_retries_succeed() {
    let environment = vec![("WARIFU__SERVER__ADMISSION".to_owned(), "2".to_owned())];
    let shop = Shop::with(Options { environment, ..Options::default() }).await;
    shop.server.add_device(&NewDevice { window: "64", ..keypad("crowded", "12345678900ACC0100000000") });
    let mut device = Sealer::aes("12345678900ACC0100000000");
    let frames: Vec<Vec<u8>> = (0..CALLERS).map(|_| device.keyed(VISA)).collect();
    let (mut busy, mut open) = (0, (0..CALLERS).collect::<Vec<_>>());
    while !open.is_empty() {
        let callers: Vec<_> = open
            .drain(..)
            .map(|caller| {
                let (till, frame) = (shop.till.clone(), frames[caller].clone());
                tokio::spawn(async move {
                    let order = format!("crowded-{caller}");
                    (caller, till.authorize(&order, &frame, phone(&order, 1200)).await)
                })
            })
            .collect();
        let before = busy;
        for caller in callers {
            match caller.await.unwrap() {
                (_, Ok(payment)) => assert_eq!(payment.outcome(), Outcome::Authorized),
                (caller, Err(no)) => {
                    assert_eq!((no.reason.as_str(), no.code), ("BUSY", Code::ResourceExhausted));
                    assert_eq!((no.who.as_str(), no.retry.as_str()), ("operator", "same-request"));
                    open.push(caller);
                    busy += 1;
                }
            }
        }
        assert!(busy - before < CALLERS, "nobody was served");
    }
    assert!(busy > 0, "two at a time were never too few");
    let journal = shop.journal();
    assert_eq!((journal.len(), approvals(&journal)), (CALLERS, CALLERS), "each has one effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_over_one_postgresql_are_as_one() {
    let store_url = Some(database::fresh_postgres().await);
    let shop = Shop::with(Options { store_url, ..Options::default() }).await;
    // Its own name, and an acquirer's journal of its own, so that effects of both are counted.
    let environment = [("WARIFU__SERVER__INSTANCE", "second"), ("WARIFU__ACQUIRER__JOURNAL", "second.jsonl")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let second = Server::serve(shop.server.dir(), &shop.server.about, &Options { environment, ..Options::default() });
    let tills = [shop.till.clone(), Till::of(&second).await];
    let mut device = Sealer::aes(TILL_KSN);
    let effects = || {
        let more = std::fs::read_to_string(second.dir().join("second.jsonl")).unwrap_or_default();
        let more = more.lines().map(|line| serde_json::from_str(line).unwrap());
        shop.journal().into_iter().chain(more).collect::<Vec<Value>>()
    };

    for round in 0..4 {
        for same_request in [false, true] {
            let (before, frame) = (effects().len(), device.keyed(VISA));
            let order = format!("{round}-{same_request}");
            let payment = if same_request {
                all_have_the_same(all_at_once(&tills, &frame, &order, |_| format!("one-{round}")).await)
            } else {
                exactly_one_took_it(all_at_once(&tills, &frame, &order, |caller| format!("{round}-{caller}")).await)
            };
            let after = effects();
            assert_eq!(after.len(), before + 1, "{after:?}");
            let own: Vec<Value> = after.into_iter().filter(|entry| entry["payment"] == *payment.payment_id).collect();
            is_the_only_effect(&payment, &own);
            for till in &tills {
                assert_eq!(till.find_sale(&order).await.unwrap(), std::slice::from_ref(&payment));
            }
        }
    }
}
