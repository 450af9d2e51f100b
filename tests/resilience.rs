//! An HSM that fails, goes, hangs, locks the server out or lies: what callers, operators and the audit log see of it.
//!
//! Between the server and SoftHSM stands the module of `tests/faulty-module`, which fails as it is told to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::desk::{entries, keypad};
use stage::sealer::{Sealer, pan};
use stage::shop::Shop;
use stage::till::{No, Till, phone};
use stage::{Options, Server, until};
use tokio::sync::MutexGuard;
use warifu_faulty_module::{Steering, library};
use warifu_hsm::pkcs11::{SOFTHSM_MISSING, find_softhsm};
use warifu_sdk::wire::v1::{Card, Outcome};

/// How soon whoever asks while the HSM is away hears so.
const AT_ONCE: Duration = Duration::from_millis(50);
/// How soon the server serves once the HSM is back.
const BACK: Duration = Duration::from_secs(5);
/// How long a call of the HSM may hang before whoever waits for it is let go, and a little more.
const LET_GO: Duration = Duration::from_secs(12);

/// A shop whose server asks a module that fails as it is told to.
struct Stage {
    shop: Shop,
    steering: Steering,
    environment: Vec<(String, String)>,
    /// Records of the server's log that are older than the module.
    before: usize,
    /// What is measured here is measured one by one.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// With so many keypads, and settings of its own.
    async fn open(keypads: usize, settings: &[(&str, &str)]) -> Self {
        static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let alone = ALONE.lock().await;
        let mut shop = Shop::open().await;
        assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
        // Side by side: each waits until every server could follow.
        std::thread::scope(|scope| {
            for number in 0..keypads {
                let server = &shop.server;
                scope.spawn(move || server.add_device(&keypad(&format!("keypad-{number}"), &ksn(number))));
            }
        });
        let before = own_records(&shop.server).len();
        let steering = Steering::new(shop.dir.path());
        let softhsm = find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
        let text = |path: &Path| path.to_str().expect("a path that is text").to_owned();
        let mut environment = vec![("WARIFU__HSM__MODULE".to_owned(), text(&library()))];
        let variables = steering.environment(&softhsm);
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), text(value))));
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut stage = Self { shop, steering, environment, before, _alone: alone };
        stage.serve().await;
        stage
    }

    async fn serve(&mut self) {
        self.shop.serve(&Options { environment: self.environment.clone(), ..Options::default() }).await;
    }

    fn keypad(&self, number: usize) -> Keypad {
        Keypad { device: Sealer::aes(&ksn(number)), till: self.shop.till.clone(), number, taken: 0 }
    }

    fn is_ready(&self) -> (bool, Vec<String>) {
        let (code, page) = self.shop.server.http("/readyz");
        let page: Value = serde_json::from_str(&page).unwrap();
        let down = page["down"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        (code == 200, down.collect())
    }

    /// A number among the metrics.
    fn metric(&self, name: &str) -> Option<String> {
        let (_, metrics) = self.shop.server.http("/metrics");
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
    }

    /// Threads of the server, all and those that use the HSM.
    fn threads(&self) -> (usize, usize) {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.shop.server.id())).unwrap();
        let names: Vec<String> =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect();
        (names.len(), names.iter().filter(|name| name.starts_with("key-deriver")).count())
    }

    /// Ends the server, which must end well, and holds its log to what the module saw.
    fn end(&mut self) {
        let code = tokio::task::block_in_place(|| self.shop.server.terminate(Duration::from_secs(15)));
        assert_eq!(code, Some(0));
        let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
        for record in &own_records(&self.shop.server)[self.before..] {
            for (function, times) in record["calls"].as_object().into_iter().flatten() {
                *recorded.entry(function.clone()).or_default() += times.as_u64().unwrap();
            }
        }
        assert_eq!(self.steering.notes().made(), recorded, "left: what the module saw; right: what the log says");
    }
}

/// The records of the server's own log, in order.
fn own_records(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.export_audit("audit-faults.log")).unwrap();
    entries(&text).into_iter().filter(|entry| entry.log == "dev").map(|entry| entry.record).collect()
}

fn ksn(number: usize) -> String {
    format!("12345678900A{:04X}00000000", 0xB000 + number)
}

/// A keypad that takes one card after the other.
struct Keypad {
    device: Sealer,
    till: Till,
    number: usize,
    taken: usize,
}

impl Keypad {
    /// The next request and its frame.
    fn take(&mut self, card: &str) -> (String, Vec<u8>) {
        self.taken += 1;
        (format!("{}-{}", self.number, self.taken), self.device.keyed(card))
    }

    /// Tokenizes a card, asked once.
    async fn once(&mut self, card: &str) -> Result<Card, No> {
        let (request, frame) = self.take(card);
        self.till.tokenize(&request, &frame).await
    }

    /// Tokenizes a card or sells something to it, asked again as often as it takes.
    async fn serve(&mut self, card: &str, answers: &Answers) -> Card {
        let (request, frame) = self.take(card);
        let sells = self.taken.is_multiple_of(4);
        loop {
            let begun = Instant::now();
            let answer = if sells {
                let paid = self.till.authorize(&request, &frame, phone(&request, 1200)).await;
                paid.map(|payment| {
                    assert_eq!(payment.outcome(), Outcome::Authorized, "{request}");
                    payment.card.unwrap()
                })
            } else {
                self.till.tokenize(&request, &frame).await
            };
            answers.note(begun.elapsed(), answer.as_ref().err());
            match answer {
                Ok(token) => {
                    answers.is_right(card, &token);
                    return token;
                }
                Err(no) => {
                    assert!(["HSM_UNAVAILABLE", "BUSY"].contains(&no.reason.as_str()), "{request}: {no:?}");
                    assert_eq!(no.retry, "same-request");
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What all callers heard.
#[derive(Default)]
struct Answers {
    tokens: Mutex<HashMap<String, String>>,
    /// When each came, how long it took, and whether it was a yes.
    heard: Mutex<Vec<(Instant, Duration, bool)>>,
}

impl Answers {
    fn note(&self, took: Duration, no: Option<&No>) {
        self.heard.lock().unwrap().push((Instant::now(), took, no.is_none()));
    }

    /// A card has one token, and no other card has it.
    fn is_right(&self, card: &str, token: &Card) {
        let mask = &token.masked_pan;
        assert!(mask.starts_with(&card[..6]) && mask.ends_with(&card[12..]), "{mask}");
        let mut tokens = self.tokens.lock().unwrap();
        let known = tokens.entry(card.to_owned()).or_insert_with(|| token.token.clone());
        assert_eq!(*known, token.token, "a card has two tokens");
    }

    fn no_token_is_of_two_cards(&self) -> usize {
        let tokens = self.tokens.lock().unwrap();
        let distinct: HashSet<&String> = tokens.values().collect();
        assert_eq!(distinct.len(), tokens.len());
        tokens.len()
    }

    fn longest(&self) -> Duration {
        self.heard.lock().unwrap().iter().map(|(_, took, _)| *took).max().unwrap()
    }

    /// Yeses and noes so far.
    fn counts(&self) -> (usize, usize) {
        let heard = self.heard.lock().unwrap();
        let yes = heard.iter().filter(|(_, _, yes)| *yes).count();
        (yes, heard.len() - yes)
    }

    /// How long the noes took that came since a moment: half of them at most so long, and all but one in twenty.
    fn noes_since(&self, since: Instant) -> (usize, Duration, Duration) {
        let heard = self.heard.lock().unwrap();
        let noes = heard.iter().filter(|(at, took, yes)| !yes && *at - *took >= since);
        let mut took: Vec<Duration> = noes.map(|(_, took, _)| *took).collect();
        took.sort_unstable();
        (took.len(), took[took.len() / 2], took[took.len() * 19 / 20])
    }
}

/// Lets keypads take cards, each in a task of its own, until something has come about.
async fn meanwhile<T>(stage: &Stage, keypads: usize, answers: &Arc<Answers>, come_about: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..keypads)
        .map(|number| {
            let (mut keypad, answers, over) = (stage.keypad(number), Arc::clone(answers), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let card = pan((keypad.taken * 7 + number) % 500);
                    keypad.serve(&card, &answers).await;
                }
            })
        })
        .collect();
    let came = come_about.await;
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        tokio::time::timeout(BACK, caller).await.expect("nobody is stuck").unwrap();
    }
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn under_1000_random_errors_of_the_hsm_every_answer_is_right_or_may_be_asked_again() {
    const CALLERS: usize = 64;
    let mut stage = Stage::open(CALLERS, &[]).await;
    let answers = Arc::new(Answers::default());
    let begun = Instant::now();
    meanwhile(&stage, CALLERS, &answers, async {
        stage.steering.plan("random 7 10");
        until(Duration::from_secs(180), "1000 errors", async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stage.steering.notes().faults() >= 1000
        })
        .await;
        stage.steering.plan("");
    })
    .await;
    let (yes, no) = answers.counts();
    let cards = answers.no_token_is_of_two_cards();
    println!(
        "{} errors in {:?}: {yes} served, {no} to be asked again, {cards} cards, longest answer {:?}",
        stage.steering.notes().faults(),
        begun.elapsed(),
        answers.longest()
    );
    assert!(yes > 1000 && no > 100, "{yes} {no}");
    assert!(answers.longest() < BACK);
    // All is well again.
    until(BACK, "the server is ready", async || stage.is_ready().0).await;
    assert_eq!(stage.metric("warifu_hsm_pin_refused").as_deref(), Some("0"));
    stage.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_token_is_gone_callers_hear_so_at_once_and_it_is_served_again_when_it_is_back() {
    const CALLERS: usize = 8;
    let mut stage = Stage::open(CALLERS, &[]).await;
    let answers = Arc::new(Answers::default());
    meanwhile(&stage, CALLERS, &answers, async {
        let threads = stage.threads();
        until(BACK, "cards are taken", async || answers.counts().0 > 4 * CALLERS).await;
        stage.steering.plan("slot gone");
        let gone = Instant::now();
        // Long enough for the longest pause between two tries.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (ready, down) = stage.is_ready();
        assert!(!ready && down == ["hsm"], "{down:?}");
        let (noes, median, most) = answers.noes_since(gone);
        println!("gone: {noes} refused, half within {median:?}, 95 of 100 within {most:?}");
        assert!(noes > 100 && median < AT_ONCE && most < 4 * AT_ONCE);
        assert_eq!(stage.threads().1, threads.1);

        let (logins, served) = (stage.steering.notes().logins(), answers.counts().0);
        stage.steering.plan("");
        let back = Instant::now();
        until(BACK, "cards are taken again", async || answers.counts().0 > served + 4 * CALLERS).await;
        println!("back: {} cards served after {:?}", 4 * CALLERS, back.elapsed());
        until(BACK.saturating_sub(back.elapsed()), "it is ready again", async || stage.is_ready().0).await;
        assert_eq!(stage.steering.notes().logins(), logins + 1);
    })
    .await;
    answers.no_token_is_of_two_cards();
    stage.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_is_slow_to_say_that_its_token_is_gone_or_back_keeps_nobody_waiting() {
    const CALLERS: usize = 8;
    let mut stage = Stage::open(CALLERS, &[]).await;
    let answers = Arc::new(Answers::default());
    meanwhile(&stage, CALLERS, &answers, async {
        until(BACK, "cards are taken", async || answers.counts().0 > 4 * CALLERS).await;
        // As a network HSM whose connections time out.
        stage.steering.plan("slot gone\nC_GetSlotList every 1 delay 2000ms");
        let gone = Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (noes, median, most) = answers.noes_since(gone);
        println!("slow to say so: {noes} refused, half within {median:?}, 95 of 100 within {most:?}");
        assert!(noes > 100 && median < AT_ONCE && answers.longest() < Duration::from_secs(1));
        // It comes back, and whoever logs in for all gets no answer.
        let logins = stage.steering.notes().logins();
        stage.steering.plan("C_Login 1 hang");
        until(BACK, "somebody logs in", async || stage.steering.notes().logins() > logins).await;
        let hung = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (noes, median, most) = answers.noes_since(hung);
        println!("the login hangs: {noes} refused, half within {median:?}, 95 of 100 within {most:?}");
        assert!(noes > 100 && median < AT_ONCE && answers.longest() < Duration::from_secs(1));
        let served = answers.counts().0;
        stage.steering.plan("");
        until(BACK, "cards are taken again", async || answers.counts().0 > served + 4 * CALLERS).await;
        assert_eq!(stage.steering.notes().logins(), logins + 1);
    })
    .await;
    stage.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_keeps_no_caller_and_no_thread_and_when_it_ends_all_goes_on() {
    const CALLERS: usize = 32;
    let settings = [("WARIFU__HSM__DERIVERS", "1"), ("WARIFU__SERVER__REQUEST_TIMEOUT_MS", "20000")];
    let mut stage = Stage::open(CALLERS, &settings).await;
    let mut keypads: Vec<Keypad> = (0..CALLERS).map(|number| stage.keypad(number)).collect();
    for keypad in &mut keypads {
        keypad.once(&pan(keypad.number)).await.unwrap();
    }
    let threads = stage.threads();
    stage.steering.plan("C_Verify 1 hang");
    let begun = Instant::now();
    let waiting: Vec<_> = keypads
        .iter_mut()
        .map(|keypad| {
            let (request, frame) = keypad.take(&pan(keypad.number));
            let till = keypad.till.clone();
            tokio::spawn(async move { (till.tokenize(&request, &frame).await, request, frame, till) })
        })
        .collect();
    let mut let_go = Vec::new();
    for caller in waiting {
        let (answer, request, frame, till) = caller.await.unwrap();
        assert_eq!(answer.unwrap_err().reason, "HSM_UNAVAILABLE");
        let_go.push((request, frame, till));
    }
    println!("{CALLERS} callers were let go after {:?}", begun.elapsed());
    assert!(begun.elapsed() < LET_GO);

    // From now on nobody is let in.
    let mut took = Vec::new();
    for _ in 0..5 {
        for (request, frame, till) in &let_go {
            let begun = Instant::now();
            assert_eq!(till.tokenize(request, frame).await.unwrap_err().reason, "HSM_UNAVAILABLE");
            took.push(begun.elapsed());
        }
    }
    took.sort_unstable();
    println!("{} more heard so within {:?} (half of them)", took.len(), took[took.len() / 2]);
    assert!(took[took.len() / 2] < AT_ONCE);
    let now = stage.threads();
    assert!(now.1 == threads.1 && now.0 <= threads.0 + 4, "threads before and now: {threads:?}, {now:?}");
    assert_eq!(stage.is_ready(), (false, vec!["hsm".to_owned()]));

    stage.steering.plan("");
    let back = Instant::now();
    for (keypad, (request, frame, till)) in keypads.iter().zip(&let_go) {
        // The same request as before: it has had no effect, or its effect is told now.
        until(BACK.saturating_sub(back.elapsed()), "it is served", async || {
            till.tokenize(request, frame).await.is_ok_and(|card| card.masked_pan.ends_with(&pan(keypad.number)[12..]))
        })
        .await;
    }
    println!("all of them were served {:?} after its end", back.elapsed());
    assert!(stage.is_ready().0);
    stage.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_hsm_hangs_stops_within_its_time() {
    let mut stage = Stage::open(1, &[("WARIFU__HSM__DERIVERS", "1")]).await;
    let mut keypad = stage.keypad(0);
    keypad.once(&pan(1)).await.unwrap();
    let faults = stage.steering.notes().faults();
    stage.steering.plan("C_Verify every 1 hang");
    let (request, frame) = keypad.take(&pan(1));
    let till = keypad.till.clone();
    let caller = tokio::spawn(async move { till.tokenize(&request, &frame).await });
    until(BACK, "the call hangs", async || stage.steering.notes().faults() > faults).await;
    let begun = Instant::now();
    let code = tokio::task::block_in_place(|| stage.shop.server.terminate(Duration::from_secs(15)));
    println!("the server ended with {code:?} after {:?}", begun.elapsed());
    // Work was left to the next server.
    assert!(code == Some(6) && begun.elapsed() < Duration::from_secs(11));
    assert!(caller.await.unwrap().is_err());
    stage.steering.plan("");
    stage.serve().await;
    keypad.till = stage.shop.till.clone();
    keypad.once(&pan(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_is_refused_is_tried_once_and_the_operator_is_told() {
    let mut stage = Stage::open(8, &[]).await;
    let mut keypads: Vec<Keypad> = (0..8).map(|number| stage.keypad(number)).collect();
    for keypad in &mut keypads {
        keypad.once(&pan(1)).await.unwrap();
    }
    assert_eq!(stage.metric("warifu_hsm_pin_refused").as_deref(), Some("0"));
    stage.steering.plan("slot gone");
    for keypad in &mut keypads {
        assert_eq!(keypad.once(&pan(1)).await.unwrap_err().reason, "HSM_UNAVAILABLE");
    }
    let logins = stage.steering.notes().logins();
    // CKR_PIN_INCORRECT: somebody has changed it meanwhile.
    stage.steering.plan("C_Login every 1 error 0xa0");
    until(BACK, "the alarm", async || stage.is_ready().1 == ["hsm", "hsm-pin"]).await;
    assert_eq!(stage.metric("warifu_hsm_pin_refused").as_deref(), Some("1"));
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for keypad in &mut keypads {
            assert_eq!(keypad.once(&pan(1)).await.unwrap_err().reason, "HSM_UNAVAILABLE");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.steering.notes().logins(), logins + 1, "the PIN is tried once");
    let log = std::fs::read_to_string(stage.shop.server.dir().join("serve-1.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("the token refused the PIN; ")).count(), 1);
    stage.end();

    stage.steering.plan("");
    stage.serve().await;
    for keypad in &mut keypads {
        keypad.till = stage.shop.till.clone();
        keypad.once(&pan(1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hsm_that_lies_makes_no_token_of_another_card_and_no_log_that_cannot_be_verified() {
    let settings = [("WARIFU__HSM__DERIVERS", "1"), ("WARIFU__AUDIT__SIGN_EVERY_MS", "200")];
    let mut stage = Stage::open(1, &settings).await;
    let mut keypad = stage.keypad(0);
    let token = keypad.once(&pan(1)).await.unwrap().token;
    // A wrong bit in each digit of the card number: the frame is genuine, its card is none.
    for digit in 0..16 {
        stage.steering.plan(&format!("C_Decrypt every 1 wrong {digit}"));
        assert_eq!(keypad.once(&pan(1)).await.unwrap_err().reason, "CARD_INVALID", "digit {digit}");
    }
    stage.steering.plan("");
    assert_eq!(keypad.once(&pan(1)).await.unwrap().token, token);

    stage.steering.plan("C_Sign every 1 wrong 5");
    let faults = stage.steering.notes().faults();
    until(BACK, "a head was signed wrongly", async || stage.steering.notes().faults() > faults).await;
    stage.steering.plan("");
    until(BACK, "cards are taken again", async || keypad.once(&pan(1)).await.is_ok_and(|card| card.token == token))
        .await;
    stage.end();
    let export = stage.shop.server.export_audit("audit-verified.log");
    let verified = stage.shop.server.operate(&["audit", "verify", export.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
