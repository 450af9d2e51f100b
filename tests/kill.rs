//! A power cut under load: whatever was acknowledged is there, whatever was not is finished by asking again, and no
//! money moves twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod stage;

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stage::desk::keypad;
use stage::sealer::{Sealer, pan};
use stage::shop::Shop;
use stage::till::{No, Till, phone};
use stage::{Options, database};
use warifu_sdk::wire::v1::{Card, Outcome, Payment};

/// Devices, each used by one caller at a time.
const CALLERS: usize = 24;
/// Requests of a caller in one round, at most; the server is gone before.
const MOST: usize = 400;

/// One request as its caller wrote it down before asking.
#[derive(Clone)]
struct Asked {
    request: String,
    frame: Vec<u8>,
    /// `None`: only a token is wanted.
    order: Option<String>,
    pan: String,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Card(Card),
    Payment(Payment),
}

impl Answer {
    fn token(&self) -> &str {
        match self {
            Self::Card(card) => &card.token,
            Self::Payment(payment) => &payment.card.as_ref().unwrap().token,
        }
    }
}

impl Asked {
    async fn ask(&self, till: &Till) -> Result<Answer, No> {
        match &self.order {
            None => till.tokenize(&self.request, &self.frame).await.map(Answer::Card),
            Some(order) => till.authorize(&self.request, &self.frame, phone(order, 1200)).await.map(Answer::Payment),
        }
    }
}

/// What one caller saw: everything it asked, and the answers it had.
struct Seen {
    device: Sealer,
    asked: Vec<(Asked, Option<Answer>)>,
}

/// A caller asks until the server is gone.
async fn work(till: Till, mut device: Sealer, round: usize, caller: usize) -> Seen {
    let mut asked = Vec::new();
    for number in 0..MOST {
        let request = format!("{round}-{caller}-{number}");
        // Few cards, so that tokens are found as well as issued.
        let pan = pan((caller * 7 + number) % 40);
        let order = (number % 3 != 0).then(|| request.clone());
        let one = Asked { frame: device.keyed(&pan), request, order, pan };
        let answer = one.ask(&till).await;
        let gone = answer.is_err();
        if let Err(no) = &answer {
            assert!(no.may_be_asked_again(), "{}: {no:?}", one.request);
        }
        asked.push((one, answer.ok()));
        if gone {
            break;
        }
    }
    Seen { device, asked }
}

/// Asks again until there is an answer that says how it ended. A server that has just started may be busy; and what was
/// on its way to the acquirer when the power went is not known until nothing can be on its way any more.
async fn ask_again(till: &Till, asked: &Asked) -> Answer {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let last = asked.ask(till).await;
        match &last {
            Ok(Answer::Payment(payment)) if payment.outcome() == Outcome::Unknown => {}
            Ok(_) => return last.unwrap(),
            Err(no) => assert!(no.may_be_asked_again(), "the retry of {} was refused: {no:?}", asked.request),
        }
        assert!(Instant::now() < end, "the retry of {} does not come to an end: {last:?}", asked.request);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The acquirer's time is shorter than usual, and so is the time in which something may still be on its way to it.
fn options(store_url: Option<String>) -> Options {
    let environment = vec![("WARIFU__ACQUIRER__TIMEOUT_MS".to_owned(), "2000".to_owned())];
    Options { store_url, environment, ..Options::default() }
}

/// A moment that is another in each run, between bounds, told if the test fails.
fn some_moment(round: usize) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let span = [(30, 150), (100, 300), (300, 900), (50, 500)][round % 4];
    Duration::from_millis(span.0 + u64::from(nanos) % (span.1 - span.0))
}

async fn survives(mut shop: Shop, rounds: usize) {
    let ksn = |caller: usize| format!("12345678900AC0{caller:02X}00000000");
    let ids: Vec<String> = (0..CALLERS).map(|caller| format!("kill-{caller}")).collect();
    for (caller, id) in ids.iter().enumerate() {
        shop.server.add_device(&keypad(id, &ksn(caller)));
    }
    let mut devices: Vec<Sealer> = (0..CALLERS).map(|caller| Sealer::aes(&ksn(caller))).collect();
    let mut tokens: HashMap<String, String> = HashMap::new();
    let mut acknowledged: Vec<(Asked, Answer)> = Vec::new();
    let mut left_open = 0;

    for round in 0..rounds {
        let tills = [shop.till.clone(), Till::of(&shop.server).await];
        let callers: Vec<_> = devices
            .drain(..)
            .enumerate()
            .map(|(caller, device)| tokio::spawn(work(tills[caller % 2].clone(), device, round, caller)))
            .collect();
        let moment = some_moment(round);
        println!("round {round}: the power goes after {moment:?}");
        tokio::time::sleep(moment).await;
        shop.power_cut(&options(None)).await;
        let mut open = Vec::new();
        for caller in callers {
            let seen = caller.await.unwrap();
            devices.push(seen.device);
            for (asked, answer) in seen.asked {
                match answer {
                    Some(answer) => acknowledged.push((asked, answer)),
                    None => open.push(asked),
                }
            }
        }
        println!("round {round}: {} acknowledged so far, {} left open", acknowledged.len(), open.len());
        assert!(!open.is_empty(), "the cut must come in the middle of work");
        left_open += open.len();

        // All at once, as modules do that find their server again.
        let retries: Vec<_> = open
            .into_iter()
            .map(|asked| {
                let till = shop.till.clone();
                tokio::spawn(async move {
                    let answer = ask_again(&till, &asked).await;
                    (asked, answer)
                })
            })
            .collect();
        for retry in retries {
            let (asked, answer) = retry.await.unwrap();
            if let Answer::Payment(payment) = &answer {
                assert_eq!(payment.outcome(), Outcome::Authorized, "{}: {payment:?}", asked.request);
            }
            acknowledged.push((asked, answer));
        }
        for (asked, answer) in &acknowledged {
            let token = tokens.entry(asked.pan.clone()).or_insert_with(|| answer.token().to_owned());
            assert_eq!(token, answer.token(), "one card, one token, before and after");
        }
    }
    assert!(acknowledged.len() > CALLERS * rounds && left_open >= rounds);
    everything_is_there(&shop, &acknowledged).await;

    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    shop.serve(&options(None)).await;
    let export = shop.server.export_audit("audit.log");
    shop.server.operated(&["audit", "verify", export.to_str().unwrap()]);
}

/// Each acknowledged answer comes again, its frame is used up, and its payment has moved money once.
async fn everything_is_there(shop: &Shop, acknowledged: &[(Asked, Answer)]) {
    let journal = shop.journal();
    let mut approved: HashMap<&str, usize> = HashMap::new();
    for entry in &journal {
        assert!(entry["answer"].get("approved").is_some(), "no payment here is declined or taken back: {entry}");
        *approved.entry(entry["payment"].as_str().unwrap()).or_default() += 1;
    }
    assert!(approved.values().all(|times| *times == 1), "a payment was approved twice");
    let mut payments = 0;
    for (asked, answer) in acknowledged {
        assert_eq!(asked.ask(&shop.till).await.as_ref(), Ok(answer), "{}", asked.request);
        let stolen = Asked { request: format!("{}-stolen", asked.request), ..asked.clone() };
        assert_eq!(stolen.ask(&shop.till).await.unwrap_err().reason, "FRAME_REPLAYED", "{}", asked.request);
        if let (Some(order), Answer::Payment(payment)) = (&asked.order, answer) {
            assert_eq!(shop.till.find_sale(order).await.unwrap(), std::slice::from_ref(payment));
            assert_eq!(approved.get(payment.payment_id.as_str()), Some(&1), "{}", asked.request);
            payments += 1;
        }
    }
    assert_eq!(payments, journal.len(), "the acquirer knows these payments and no others");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_every_retry_succeeds_on_sqlite() {
    survives(Shop::with(options(None)).await, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_every_retry_succeeds_on_postgresql() {
    let store_url = Some(database::fresh_postgres().await);
    survives(Shop::with(options(store_url)).await, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_cut_off_at_the_acquirer_is_settled_by_asking_the_acquirer() {
    let mut shop = Shop::open().await;
    let mut device = Sealer::aes(stage::shop::TILL_KSN);
    // Approved and answered too late: the server is waiting when the power goes.
    let frame = device.keyed("4111111111111111");
    let till = shop.till.clone();
    let asking = {
        let frame = frame.clone();
        tokio::spawn(async move { till.authorize("late", &frame, phone("late", 1268)).await })
    };
    stage::until(Duration::from_secs(5), "the acquirer has it", async || !shop.journal().is_empty()).await;
    shop.power_cut(&Options::default()).await;
    assert!(asking.await.unwrap().is_err());
    let payment = shop.till.authorize("late", &frame, phone("late", 1268)).await.unwrap();
    assert_eq!(payment.outcome(), Outcome::Authorized, "the acquirer had approved it: {payment:?}");
    assert_eq!(shop.journal().len(), 1);
    assert_eq!(shop.till.find_sale("late").await.unwrap(), [payment]);
}
