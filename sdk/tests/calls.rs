//! What the SDK promises of a call: one effect, the same bytes each time, bounded time, typed errors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::error::Error;
use std::time::{Duration, Instant};

use support::certificates::Certificates;
use support::{FakeServer, Reply, Script, Seen, TOKEN, config, free_port};
use tonic::Code;
use warifu_sdk::wire::v1;
use warifu_sdk::{Collected, CommModule, Config, Fixer, Order, Outcome, Refusal, RequestId, Retry, SdkError};

/// The TCP port multiplexer (RFC 1078), which no machine runs.
const NOBODY: &str = "127.0.0.1:1";

fn output() -> Collected {
    Collected::from_bytes(&b"sealed bytes"[..])
}

fn order() -> Order {
    Order::new("1001", 1200, "JPY").telephone()
}

#[tokio::test]
async fn a_card_becomes_a_token_and_an_approved_sale() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    assert_eq!(module.merchant().as_deref(), Some("shop-1"));

    let request_id = RequestId::new();
    let card = module.tokenize(&request_id, &output()).await.unwrap();
    assert_eq!((card.token.as_str(), card.masked_pan.as_str()), (TOKEN, "411111******1111"));
    let Seen::Tokenize(sent) = witness.call().await else { panic!("no tokenize") };
    assert_eq!(sent.request_id, request_id.as_str());
    assert_eq!(&sent.output.unwrap().frame[..], b"sealed bytes");

    let order = order();
    let payment = module.authorize(&order, &output()).await.unwrap();
    assert_eq!(payment.outcome, Outcome::Authorized { approval_code: "A00001".to_owned() });
    let Seen::Authorize(sent) = witness.call().await else { panic!("no authorize") };
    assert_eq!(sent.request_id, order.request_id().as_str());
    assert_eq!((sent.order.as_str(), sent.channel()), ("1001", v1::Channel::Telephone));
    assert_eq!(sent.amount, Some(v1::Money { minor: 1200, currency: "JPY".to_owned() }));

    assert_eq!(module.find_sale("1001").await.unwrap(), [payment]);
}

#[tokio::test]
async fn a_busy_or_restarting_server_is_asked_again_with_the_same_bytes() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([
        Reply::Refuse(Refusal::Busy),
        Reply::Refuse(Refusal::Draining),
        Reply::Plain(Code::Unavailable),
        Reply::Refuse(Refusal::HsmUnavailable),
    ]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let payment = module.authorize(order(), &output()).await.unwrap();
    assert!(matches!(payment.outcome, Outcome::Authorized { .. }));
    let asked = witness.calls();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|call| *call == asked[0]), "{asked:?}");
}

#[tokio::test]
async fn what_the_server_refuses_for_good_is_asked_once() {
    for refusal in Refusal::ALL.into_iter().filter(|refusal| refusal.retry() != Retry::SameRequest) {
        let certificates = Certificates::new();
        let (script, mut witness) = Script::new([Reply::Refuse(refusal)]);
        let server = FakeServer::start(&certificates, &script);
        let module = CommModule::connect(server.config(&certificates)).await.unwrap();
        let request_id = RequestId::new();
        let error = module.tokenize(&request_id, &output()).await.unwrap_err();
        assert_eq!(error.request_id(), Some(&request_id));
        let SdkError::Refused { refusal: known, retry, who, message, .. } = error else { panic!("{error:?}") };
        assert_eq!((known, retry, who), (Some(refusal), refusal.retry(), refusal.fixer()));
        assert_eq!(message, refusal.message());
        assert_eq!(witness.calls().len(), 1, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_status_that_is_no_refusal_keeps_its_code() {
    let certificates = Certificates::new();
    let (script, _witness) = Script::new([Reply::Plain(Code::Unimplemented)]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let error = module.find_sale("1001").await.unwrap_err();
    let SdkError::Refused { refusal: None, reason, who: Fixer::Operator, retry: Retry::No, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, "GRPC_UNIMPLEMENTED");
}

#[tokio::test]
async fn a_decline_is_an_answer() {
    let certificates = Certificates::new();
    let (script, _witness) = Script::new([Reply::Well(v1::Outcome::Declined)]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let payment = module.authorize(order(), &output()).await.unwrap();
    assert_eq!(payment.outcome, Outcome::Declined { response_code: "51".to_owned() });
}

#[tokio::test]
async fn an_unknown_outcome_is_waited_for() {
    let certificates = Certificates::new();
    let unknown = Reply::Well(v1::Outcome::Unknown);
    let (script, _witness) = Script::new([unknown.clone(), unknown, Reply::Well(v1::Outcome::Reversed)]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let payment = module.authorize(order(), &output()).await.unwrap();
    assert_eq!(payment.outcome, Outcome::Unknown);
    let no_time = module.wait_for_outcome(&payment, Duration::ZERO).await.unwrap();
    assert_eq!(no_time.outcome, Outcome::Unknown);
    let settled = module.wait_for_outcome(&payment, support::SOON).await.unwrap();
    assert_eq!((settled.outcome, settled.payment_id), (Outcome::Reversed, payment.payment_id));
}

#[tokio::test]
async fn a_server_that_never_answers_costs_a_bounded_time() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new(std::iter::repeat_n(Reply::Silence, 100));
    let server = FakeServer::start(&certificates, &script);
    let config = server.config(&certificates);
    let config = config.attempt_timeout(Duration::from_millis(200)).give_up_after(Duration::from_secs(1));
    let module = CommModule::connect(config).await.unwrap();
    let order = order();
    let start = Instant::now();
    let error = module.authorize(&order, &output()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(matches!(error, SdkError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains(order.request_id().as_str()), "{error}");
    let asked = witness.calls();
    assert!(asked.len() > 1);
    assert!(asked.iter().all(|call| *call == asked[0]));
}

#[tokio::test]
async fn a_server_killed_in_mid_call_gets_the_same_request_when_it_is_back() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([Reply::Silence]);
    let server = FakeServer::start(&certificates, &script);
    let address = server.address();
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let call = tokio::spawn({
        let module = module.clone();
        async move { module.authorize(order(), &output()).await }
    });
    let first = witness.call().await;
    drop(server);
    let _server = FakeServer::start_at(address, &certificates, &script);
    let payment = call.await.unwrap().unwrap();
    assert!(matches!(payment.outcome, Outcome::Authorized { .. }));
    assert_eq!(witness.call().await, first);
}

#[tokio::test]
async fn an_absent_server_is_named_as_such() {
    let certificates = Certificates::new();
    let config = config(NOBODY.parse().unwrap(), &certificates).give_up_after(Duration::from_millis(200));
    let error = CommModule::connect(config).await.err().unwrap();
    assert!(matches!(error, SdkError::Transport { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_stranger_s_certificate_is_refused_at_once_on_both_sides() {
    let (certificates, strangers) = (Certificates::new(), Certificates::new());
    let (script, _witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let not_our_server = Config::new(format!("https://{}", server.address()))
        .ca(&strangers.ca)
        .identity(&certificates.client.certificate, &certificates.client.key);
    let not_our_module = Config::new(format!("https://{}", server.address()))
        .ca(&certificates.ca)
        .identity(&strangers.client.certificate, &strangers.client.key);
    for config in [not_our_server, not_our_module] {
        let start = Instant::now();
        let error = CommModule::connect(config).await.err().unwrap();
        assert!(error.to_string().contains("TLS failed"), "{error:?}");
        assert!(error.source().is_some());
        assert!(start.elapsed() < Duration::from_secs(5), "asked again in vain");
    }
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused_before_dialing() {
    let certificates = Certificates::new();
    let config = Config::new("https://127.0.0.1:1").ca(&certificates.ca).identity(&certificates.client.certificate, "");
    assert!(matches!(CommModule::connect(config).await.err().unwrap(), SdkError::Config(_)));
}

#[tokio::test]
async fn a_module_started_while_the_server_is_away_works_once_it_is_there() {
    let certificates = Certificates::new();
    let address = free_port();
    let module = CommModule::start(config(address, &certificates)).unwrap();
    assert_eq!(module.merchant(), None);
    let mut events = module.events();
    let (script, _witness) = Script::new([]);
    let _server = FakeServer::start_at(address, &certificates, &script);
    let payment = module.authorize(order(), &output()).await.unwrap();
    assert!(matches!(payment.outcome, Outcome::Authorized { .. }));
    tokio::time::timeout(support::SOON, events.next()).await.unwrap().unwrap();
    assert_eq!(module.merchant().as_deref(), Some("shop-1"));
}

#[tokio::test]
async fn an_upload_asks_again_only_for_what_has_no_answer() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([
        Reply::Well(v1::Outcome::Authorized),
        Reply::Refuse(Refusal::Busy),
        Reply::Refuse(Refusal::FrameReplayed),
        Reply::Plain(Code::Unavailable),
    ]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let cards: Vec<_> = (0..5).map(|_| (RequestId::new(), output())).collect();
    let answers = module.tokenize_many(&cards).await;
    for (at, answer) in answers.iter().enumerate() {
        match (at, answer) {
            (2, Err(SdkError::Refused { refusal, retry, request_id, .. })) => {
                assert_eq!((*refusal, *retry), (Some(Refusal::FrameReplayed), Retry::NewCard));
                assert_eq!(request_id.as_ref(), Some(&cards[2].0));
            }
            (2, other) => panic!("{other:?}"),
            (_, answer) => assert_eq!(answer.as_ref().unwrap().token.as_str(), TOKEN),
        }
    }
    let mut asked = Vec::new();
    while asked.len() < 7 {
        let Seen::Tokenize(sent) = witness.call().await else { panic!("no tokenize") };
        asked.push(cards.iter().position(|(id, _)| id.as_str() == sent.request_id).unwrap());
    }
    assert_eq!(asked, [0, 1, 2, 3, 1, 3, 4]);
}

#[tokio::test]
async fn an_upload_to_nobody_gives_each_card_the_same_error_in_time() {
    let certificates = Certificates::new();
    let config = config(free_port(), &certificates).give_up_after(Duration::from_millis(200));
    let module = CommModule::start(config).unwrap();
    let cards: Vec<_> = (0..3).map(|_| (RequestId::new(), output())).collect();
    let answers = module.tokenize_many(&cards).await;
    for (answer, (id, _)) in answers.iter().zip(&cards) {
        let Err(error @ SdkError::Transport { .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(error.request_id(), Some(id));
    }
    assert_eq!(answers.len(), 3);
}
