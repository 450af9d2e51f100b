//! What a merchant does all day: sales over the whole chain, each part its own process where that matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::time::Duration;

use stage::desk::{NewDevice, keypad, old_reader};
use stage::sealer::Sealer;
use stage::shop::{Shop, TILL_KSN, approvals, folder};
use stage::till::{Sale, Till, phone};
use stage::{AES_BDK, Device, Options, OrderApp, Server, TDES_BDK, until};
use tonic::Code;
use warifu_sdk::wire::v1::{self, Outcome};

const VISA: &str = "4111111111111111";
const MASTERCARD: &str = "5555555555554444";

#[tokio::test(flavor = "multi_thread")]
async fn keyed_swiped_and_dipped_cards_are_authorized_by_processes_that_share_nothing_but_wires() {
    let dir = folder();
    let server = Server::dev(&dir.path().join("server"), &Options::default());
    server.add_device(&keypad("counter", "12345678900B000100000000"));
    server.add_device(&old_reader("stripe", "FFFF9876543B00000000", "idtech-binary"));
    let started = |name, scheme, ksn, bdk, format| {
        Device::start(&["--name", name, "--scheme", scheme, "--ksn", ksn, "--bdk", bdk, "--format", format])
    };
    let mut counter = started("counter", "aes", "12345678900B000100000000", AES_BDK, "native");
    let mut stripe = started("stripe", "tdes", "FFFF9876543B00000000", TDES_BDK, "idtech-binary");
    let mut app = OrderApp::start(&server);
    app.attach("counter", &counter, "native");
    app.attach("stripe", &stripe, "idtech-binary");

    counter.say(&format!("key {VISA} 3012 123"));
    app.collect("counter", "first");
    let keyed = app.authorize("first", "1001", 1200, "telephone");
    counter.say(&format!("dip {MASTERCARD} 2911 A/CARD"));
    app.collect("counter", "second");
    let dipped = app.authorize("second", "1002", 3400, "in-person");
    stripe.say(&format!("swipe {VISA} 3012 A/CARD"));
    app.collect("stripe", "third");
    let swiped = app.authorize("third", "1003", 5600, "in-person");

    for (answer, entry, mode) in
        [(&keyed, "keyed", "hardware"), (&dipped, "dipped", "hardware"), (&swiped, "swiped", "host-derived")]
    {
        let payment = &answer["payment"];
        assert_eq!(payment["outcome"], "authorized", "{answer}");
        assert_eq!((&payment["card"]["entry"], &payment["card"]["decryption_mode"]), (&entry.into(), &mode.into()));
        let token = payment["card"]["token"].as_str().unwrap();
        assert!(token.len() == 16 && token.starts_with('9'), "{token}");
    }
    assert_eq!(keyed["payment"]["card"]["token"], swiped["payment"]["card"]["token"], "one card, one token");
    assert_ne!(keyed["payment"]["card"]["token"], dipped["payment"]["card"]["token"]);
    assert_eq!(keyed["payment"]["card"]["masked_pan"], "411111******1111");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_merchant_gets_another_token_and_sees_nothing_of_the_first() {
    let shop = Shop::open().await;
    let files = shop.server.add_merchant("bakery", "bakery-till");
    let bakery = Till::as_module(&shop.server, &files.certificate, &files.key).await;
    let device = NewDevice { merchant: "bakery", ..keypad("bakery-1", "12345678900A0B0100000000") };
    shop.server.add_device(&device);
    let (mut own, mut theirs) = (Sealer::aes(TILL_KSN), Sealer::aes("12345678900A0B0100000000"));

    let here = shop.till.authorize("r1", &own.keyed(VISA), phone("1001", 1200)).await.unwrap();
    let there = bakery.authorize("r1", &theirs.keyed(VISA), phone("1001", 900)).await.unwrap();
    let (here, there) = (here.card.unwrap(), there.card.unwrap());
    assert_ne!(here.token, there.token, "one card at two merchants is two tokens");

    let found = bakery.find_sale("1001").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].amount.as_ref().unwrap().minor, 900, "the bakery's own sale of that number");
    shop.till.authorize("r2", &own.keyed(VISA), phone("only-here", 1200)).await.unwrap();
    assert_eq!(bakery.find_sale("only-here").await.unwrap(), Vec::new());

    let foreign = bakery.authorize("r3", &own.keyed(VISA), phone("1002", 1200)).await.unwrap_err();
    let mut stranger = Sealer::aes("12345678900A0C0100000000");
    let unknown = bakery.authorize("r3", &stranger.keyed(VISA), phone("1002", 1200)).await.unwrap_err();
    assert_eq!(foreign.reason, "DEVICE_UNKNOWN");
    assert_eq!(foreign, unknown, "a foreign device and none at all cannot be told apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_acquirer_declines_by_amount_and_an_expired_card_is_declined_and_not_refused() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    for (order, minor, expected) in [("short", 1251, "51"), ("issuer", 1291, "91"), ("funds", 700, "00")] {
        let payment = shop.till.authorize(order, &device.keyed(VISA), phone(order, minor)).await.unwrap();
        assert_eq!(payment.response_code, expected);
        let outcome = if expected == "00" { Outcome::Authorized } else { Outcome::Declined };
        assert_eq!(payment.outcome(), outcome);
        assert_eq!(payment.approval_code.len(), if expected == "00" { 6 } else { 0 });
    }
    let expired = device.keyed_until(VISA, "2001");
    let payment = shop.till.authorize("old", &expired, phone("old", 700)).await.unwrap();
    assert_eq!((payment.outcome(), payment.response_code.as_str()), (Outcome::Declined, "54"));
    assert!(payment.card.unwrap().token.starts_with('9'), "a declined card has its token all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_found_by_its_order_number_with_all_its_attempts() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    let sale = Sale { order: "A 17/2", minor: 1251, currency: "JPY", channel: v1::Channel::Mail };
    let declined = shop.till.authorize("try-1", &device.keyed(VISA), sale).await.unwrap();
    let approved = shop.till.authorize("try-2", &device.keyed(MASTERCARD), Sale { minor: 1200, ..sale }).await.unwrap();
    assert_eq!(
        shop.till.find_sale("A 17/2").await.unwrap(),
        [declined, approved],
        "oldest first, as they were answered"
    );
    assert_eq!(shop.till.find_sale("A 17/3").await.unwrap(), Vec::new());
    let book =
        shop.server.operated(&["sales", "list", "--order", "A 17/2", "--merchant", &shop.server.merchant(), "--json"]);
    assert!(book.contains("try-1") || book.contains("A 17/2"), "{book}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gives_the_same_payment_and_a_changed_one_is_refused() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    let frame = device.keyed(VISA);
    let sale = phone("1001", 1200);
    let first = shop.till.authorize("r1", &frame, sale).await.unwrap();
    let again = shop.till.authorize("r1", &frame, sale).await.unwrap();
    assert_eq!(first, again);

    let other_frame = device.keyed(VISA);
    let changes = [
        shop.till.authorize("r1", &frame, Sale { minor: 1300, ..sale }).await,
        shop.till.authorize("r1", &frame, Sale { order: "1002", ..sale }).await,
        shop.till.authorize("r1", &frame, Sale { currency: "USD", ..sale }).await,
        shop.till.authorize("r1", &frame, Sale { channel: v1::Channel::Mail, ..sale }).await,
        shop.till.authorize("r1", &other_frame, sale).await,
        shop.till.tokenize("r1", &frame).await.map(|_| v1::Payment::default()),
    ];
    for change in changes {
        let no = change.unwrap_err();
        assert_eq!(
            (no.reason.as_str(), no.code, no.who.as_str()),
            ("REQUEST_ID_REUSED", Code::AlreadyExists, "developer")
        );
        assert_eq!(no.request.as_deref(), Some("r1"));
    }
    assert_eq!(approvals(&shop.journal()), 1, "one payment, whatever was asked");
    // The frame of the refused change was not used up.
    shop.till.authorize("r2", &other_frame, phone("1003", 100)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenized_card_has_the_token_it_pays_with_and_its_retry_too() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    let frame = device.dipped(VISA);
    let card = shop.till.tokenize("t1", &frame).await.unwrap();
    assert_eq!(shop.till.tokenize("t1", &frame).await.unwrap(), card);
    assert_eq!((card.entry.as_str(), card.brand.as_str(), card.device.as_str()), ("dipped", "visa", "till-1"));
    let paid = shop.till.authorize("p1", &device.keyed(VISA), phone("1001", 1200)).await.unwrap();
    assert_eq!(paid.card.unwrap().token, card.token);
    assert_eq!(shop.journal().len(), 1, "a token moves no money");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_window_may_be_overtaken_and_uses_each_counter_once() {
    let shop = Shop::open().await;
    shop.server.add_device(&NewDevice { window: "4", ..keypad("overtaken", "12345678900A0D0100000000") });
    let mut device = Sealer::aes("12345678900A0D0100000000");
    let frames: Vec<_> = (1..=8).map(|_| device.keyed(VISA)).collect();
    let send = async |counter: usize| shop.till.tokenize(&format!("c{counter}"), &frames[counter - 1]).await;
    for counter in [4, 2, 1, 8, 5] {
        send(counter).await.unwrap_or_else(|no| panic!("counter {counter}: {no:?}"));
    }
    for (counter, why) in [(4, "used"), (8, "the mark itself, used"), (3, "below the window")] {
        let replay = shop.till.tokenize(&format!("again-{counter}"), &frames[counter - 1]).await.unwrap_err();
        assert_eq!(replay.reason, "FRAME_REPLAYED", "counter {counter}: {why}");
    }
    for counter in [7, 6] {
        send(counter).await.unwrap_or_else(|no| panic!("counter {counter}: {no:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_nobody_answered_is_unknown_and_then_taken_back() {
    let environment = vec![("WARIFU__ACQUIRER__TIMEOUT_MS".to_owned(), "300".to_owned())];
    let shop = Shop::with(Options { environment, ..Options::default() }).await;
    let mut device = Sealer::aes(TILL_KSN);
    let payment = shop.till.authorize("late", &device.keyed(VISA), phone("late", 1268)).await.unwrap();
    assert!(matches!(payment.outcome(), Outcome::Unknown | Outcome::Reversed), "{payment:?}");
    assert_eq!((payment.approval_code.as_str(), payment.response_code.as_str()), ("", ""));
    until(Duration::from_secs(10), "the payment is reversed", async || {
        let found = shop.till.find_sale("late").await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(!matches!(found[0].outcome(), Outcome::Authorized | Outcome::Declined), "{found:?}");
        found[0].outcome() == Outcome::Reversed
    })
    .await;
    let journal = shop.journal();
    assert_eq!(journal.len(), 2, "{journal:?}");
    assert!(journal[0]["answer"].get("approved").is_some(), "the acquirer had approved it: {journal:?}");
    assert_eq!(journal[1]["answer"], "reversed");
    assert_eq!(journal[0]["payment"], journal[1]["payment"]);
}
