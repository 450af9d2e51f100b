//! The link: it is told of devices, brings news, and comes back when it was lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::time::{Duration, Instant};

use support::certificates::Certificates;
use support::{FakeServer, SOON, Say, Script, Seen};
use tokio::net::TcpListener;
use tokio::time::timeout;
use warifu_sdk::wire::v1::{self, link_response::News};
use warifu_sdk::{Collected, CommModule, Connection, DeviceError, DeviceState, Event, Events, Format, RequestId};

async fn next(events: &mut Events) -> Event {
    timeout(SOON, events.next()).await.expect("no event").expect("the module lives")
}

#[tokio::test]
async fn a_lost_link_is_reported_and_comes_back_and_calls_work_meanwhile() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let address = server.address();
    let module = CommModule::start(server.config(&certificates)).unwrap();
    let mut events = module.events();
    let Event::LinkUp(identity) = next(&mut events).await else { panic!("not up") };
    assert_eq!((identity.merchant.as_str(), identity.module.as_str(), identity.dev), ("shop-1", "till-1", true));
    assert!(matches!(witness.next().await, Seen::Linked(software) if software.starts_with("warifu-sdk/")));

    script.say(Say::Close);
    assert!(matches!(next(&mut events).await, Event::LinkLost { .. }));
    assert!(matches!(next(&mut events).await, Event::LinkUp(_)));

    drop(server);
    assert!(matches!(next(&mut events).await, Event::LinkLost { .. }));
    assert!(!module.is_linked());
    assert_eq!(module.merchant().as_deref(), Some("shop-1"), "who we are is not forgotten");

    let _server = FakeServer::start_at(address, &certificates, &script);
    module.tokenize(&RequestId::new(), &Collected::from_bytes(&b"sealed"[..])).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::LinkUp(_)));
}

#[tokio::test]
async fn news_arrives_in_order_and_draining_is_obeyed() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    let mut events = module.events();
    assert!(matches!(witness.next().await, Seen::Linked(_)));
    let changed = |state: &str| {
        let device = "kp1".to_owned();
        Say::News(News::DeviceChanged(v1::DeviceChanged { device, state: state.to_owned() }))
    };
    script.say(changed("suspended"));
    script.say(changed("a state of the future"));
    script.say(changed("active"));
    script.say(Say::News(News::Draining(v1::Draining { retry_after_ms: 300 })));
    // The first link-up may or may not have come before we listened.
    let mut event = next(&mut events).await;
    if matches!(event, Event::LinkUp(_)) {
        event = next(&mut events).await;
    }
    let device = || "kp1".to_owned();
    assert_eq!(event, Event::DeviceChanged { device: device(), state: DeviceState::Suspended });
    assert_eq!(next(&mut events).await, Event::DeviceChanged { device: device(), state: DeviceState::Active });
    let drained = Instant::now();
    assert_eq!(next(&mut events).await, Event::Draining { retry_after: Duration::from_millis(300) });
    assert!(matches!(next(&mut events).await, Event::LinkLost { .. }));
    assert_eq!(witness.next().await, Seen::LinkClosed, "the module closes its end, so the server can stop");
    assert!(matches!(next(&mut events).await, Event::LinkUp(_)));
    assert!(drained.elapsed() >= Duration::from_millis(250), "dialed again too early: {:?}", drained.elapsed());
}

#[tokio::test]
async fn the_server_is_told_of_devices_and_told_again_on_a_new_link() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    assert!(matches!(witness.next().await, Seen::Linked(_)));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connection = Connection::parse(&format!("tcp:{}", listener.local_addr().unwrap())).unwrap();
    let name = connection.to_string();
    let device = module.attach(connection.clone(), Format::Native).await.unwrap();
    assert_eq!(witness.next().await, Seen::Attached(name.clone()));

    let twice = module.attach(connection.clone(), Format::Native).await;
    assert!(matches!(twice, Err(DeviceError::AlreadyAttached { .. })));

    script.say(Say::Close);
    assert_eq!(witness.next().await, Seen::LinkClosed);
    assert!(matches!(witness.next().await, Seen::Linked(_)));
    assert_eq!(witness.next().await, Seen::Attached(name.clone()));

    // The device goes away by itself, and comes back.
    drop(listener.accept().await.unwrap());
    assert_eq!(witness.next().await, Seen::Detached(name.clone()));
    assert_eq!(witness.next().await, Seen::Attached(name.clone()));

    drop(device);
    assert_eq!(witness.next().await, Seen::Detached(name.clone()));
    module.attach(connection, Format::Native).await.expect("the wire is free again");
}

#[tokio::test]
async fn dropping_the_last_clone_closes_the_link() {
    let certificates = Certificates::new();
    let (script, mut witness) = Script::new([]);
    let server = FakeServer::start(&certificates, &script);
    let module = CommModule::connect(server.config(&certificates)).await.unwrap();
    assert!(matches!(witness.next().await, Seen::Linked(_)));
    let mut events = module.events();
    let clone = module.clone();
    drop(module);
    clone.find_sale("1001").await.unwrap();
    drop(clone);
    assert!(matches!(witness.next().await, Seen::FindSale(_)));
    assert_eq!(witness.next().await, Seen::LinkClosed);
    // At most the first link-up is still waiting.
    let last = timeout(SOON, async { while events.next().await.is_some() {} });
    last.await.expect("the listener ends");
}
