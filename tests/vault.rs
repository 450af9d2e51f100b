//! Vault keys rotated while servers run: every card keeps its token, and what was cut off is taken up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use stage::ceremony::Custodian;
use stage::desk::keypad;
use stage::scan::{Needle, files, finds};
use stage::sealer::{Sealer, pan};
use stage::shop::{TILL_KSN, folder};
use stage::till::Till;
use stage::{Options, Server, database, program, wait_for};
use tempfile::TempDir;

/// How long the commands take a request to last: they wait until none is left that began before.
const REQUEST: (&str, &str) = ("WARIFU__SERVER__REQUEST_TIMEOUT_MS", "100");
/// Cards that are stored before anything is rotated.
const CARDS: usize = 1500;

/// A dev server with a keypad, and two custodians.
struct Vault {
    _home: TempDir,
    server: Server,
    people: [Custodian; 2],
}

impl Vault {
    async fn open(options: &Options) -> Self {
        let home = folder();
        let server = Server::dev(&home.path().join("server"), options);
        server.add_device(&keypad("kp-1v", TILL_KSN));
        let people = ["aiko", "botan"].map(|name| server.add_custodian(name));
        Self { _home: home, server, people }
    }

    /// A command that takes two people.
    fn begin(&self, command: &str, transcript: &str) -> std::process::Child {
        let mut process = Command::new(program("warifu"));
        process.env(REQUEST.0, REQUEST.1);
        process.args(["vault", command, "--script", "--transcript"]).arg(self.server.dir().join(transcript));
        process.arg("--config").arg(self.server.dir().join("warifu.toml"));
        let mut process =
            process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("warifu runs");
        let said: String =
            self.people.iter().map(|who| format!("{}\n{}\n", who.certificate.display(), who.key.display())).collect();
        // Whoever refuses does not read.
        let _ = process.stdin.take().unwrap().write_all(said.as_bytes());
        process
    }

    fn held(&self, command: &str, transcript: &str) -> Output {
        self.begin(command, transcript).wait_with_output().unwrap()
    }

    fn show(&self) -> Value {
        serde_json::from_str(&self.server.operated(&["vault", "show", "--json"])).unwrap()
    }

    /// The merchant's row.
    fn shop(&self) -> Value {
        let shop = self.server.merchant();
        let shown = self.show();
        let mut vaults = shown["vaults"].as_array().unwrap().iter();
        vaults.find(|row| row["merchant"] == shop.as_str()).unwrap().clone()
    }
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

/// Takes cards, known ones and new ones in turn.
struct Counter {
    till: Till,
    device: Sealer,
    tokens: BTreeMap<String, String>,
    asked: usize,
}

impl Counter {
    async fn of(server: &Server) -> Self {
        Self { till: Till::of(server).await, device: Sealer::aes(TILL_KSN), tokens: BTreeMap::new(), asked: 0 }
    }

    /// One card; a known one has its token.
    async fn take(&mut self, card: usize) {
        let pan = pan(card);
        self.asked += 1;
        let name = format!("r{}", self.asked);
        let frame = self.device.keyed(&pan);
        let token = self.till.tokenize(&name, &frame).await.unwrap_or_else(|no| panic!("{name}: {no:?}")).token;
        let known = self.tokens.entry(pan).or_insert_with(|| token.clone());
        assert_eq!(*known, token, "card {card} got another token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_cut_off_and_taken_up_changes_no_token() {
    let options = Options { store_url: Some(database::fresh_postgres().await), ..Options::default() };
    rotate_twice(&options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_on_sqlite_changes_no_token() {
    rotate_twice(&Options::default()).await;
}

async fn rotate_twice(options: &Options) {
    let vault = Vault::open(options).await;
    let mut counter = Counter::of(&vault.server).await;
    for card in 0..CARDS {
        counter.take(card).await;
    }
    let objects = vault.server.hsm_objects();
    assert_eq!((&vault.shop()["generation"], &vault.shop()["state"]), (&1.into(), &"at rest".into()));

    // Ctrl-C ends a dialogue while people are asked, and the command as ever while it seals; the server goes on, and knows every
    // card.
    let mut rotating = vault.begin("rotate", "two.transcript");
    let left = wait_for(Duration::from_secs(60), || {
        let left = vault.shop()["tokens_left"].as_u64()?;
        (left < u64::try_from(CARDS).unwrap() && left > 0).then_some(left)
    });
    assert!(Command::new("kill").args(["-INT", &rotating.id().to_string()]).status().unwrap().success());
    assert_eq!(rotating.wait().unwrap().signal(), Some(2));
    assert!(left > 0);
    let moving = vault.shop();
    assert_eq!((&moving["generation"], &moving["state"]), (&2.into(), &"moving".into()), "{moving}");
    assert_eq!(vault.server.hsm_objects(), objects + 2, "a root and a fingerprint key");
    for card in [0, CARDS / 2, CARDS - 1, CARDS, CARDS + 1] {
        counter.take(card).await;
    }
    let refused = vault.held("rotate", "no.transcript");
    assert_eq!(refused.status.code(), Some(1));
    assert!(last_line(&refused).contains("`warifu vault resume`"), "{}", last_line(&refused));
    let refused = vault.held("retire", "no.gone");
    assert!(last_line(&refused).contains("still needs them"), "{}", last_line(&refused));

    // Taken up while cards come in.
    let resumed = {
        let (directory, merchant) = (vault.server.dir().to_owned(), vault.server.merchant());
        std::thread::spawn(move || {
            let mut command = Command::new(program("warifu"));
            command.args(["vault", "resume", "--config"]).arg(directory.join("warifu.toml")).env(REQUEST.0, REQUEST.1);
            (command.output().unwrap(), merchant)
        })
    };
    let mut next = CARDS + 2;
    while !resumed.is_finished() {
        counter.take(next % 7).await;
        counter.take(next).await;
        next += 1;
    }
    let (resumed, merchant) = resumed.join().unwrap();
    assert!(resumed.status.success(), "{}", last_line(&resumed));
    assert!(last_line(&resumed).starts_with(&format!("{merchant}: ")), "{}", last_line(&resumed));
    let rested = vault.shop();
    assert_eq!((&rested["generation"], &rested["state"]), (&2.into(), &"at rest".into()), "{rested}");
    for card in (0..next).step_by(97) {
        counter.take(card).await;
    }

    // The old keys go, with two people; the server goes on, and starts anew without them.
    let gone = vault.held("retire", "one.gone");
    assert!(gone.status.success(), "{}", last_line(&gone));
    assert_eq!(vault.server.hsm_objects(), objects);
    counter.take(0).await;
    counter.take(next).await;
    let text =
        vault.server.operated(&["key", "transcript", "verify", vault.server.dir().join("one.gone").to_str().unwrap()]);
    assert!(text.contains("vault keys 1") && text.contains("destroyed"), "{text}");
    let mut vault = vault;
    assert_eq!(vault.server.terminate(Duration::from_secs(15)), Some(0));
    vault.server = Server::serve(vault.server.dir(), &vault.server.about, options);
    counter.till = Till::of(&vault.server).await;
    counter.take(1).await;
    counter.take(next + 1).await;

    // Once more, in one go: generations take turns in the columns.
    let again = vault.held("rotate", "three.transcript");
    assert!(again.status.success(), "{}", last_line(&again));
    for card in (0..next).step_by(101).chain([next + 2]) {
        counter.take(card).await;
    }
    let shown = vault.show();
    let states: Vec<_> = shown["generations"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["destroyed", "ready", "ready"]);
    assert_eq!((&vault.shop()["generation"], &vault.shop()["state"]), (&3.into(), &"at rest".into()));
    let table = vault.server.operated(&["vault", "show"]);
    assert!(table.contains("generation  state") && table.contains("merchant"), "{table}");
    told(&vault, counter.tokens.len());
}

/// Wherever it is cut off: before the keys, while they are made, before their transcript, between two transactions.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_cut_off_again_and_again_comes_to_its_end() {
    const FEW: usize = 400;
    let vault = Vault::open(&Options::default()).await;
    let mut counter = Counter::of(&vault.server).await;
    for card in 0..FEW {
        counter.take(card).await;
    }
    let objects = vault.server.hsm_objects();
    let second = |vault: &Vault| {
        let shown = vault.show();
        let found = shown["generations"].as_array().unwrap().iter().find(|row| row["generation"] == 2).cloned();
        found.map(|row| row["state"].as_str().unwrap().to_owned())
    };
    let (mut cut, mut seen) = (0_usize, Vec::new());
    for number in 0_u64.. {
        let state = second(&vault);
        if state.as_deref() == Some("ready") {
            break;
        }
        seen.push(state);
        let mut rotating = vault.begin("rotate", &format!("try-{number}"));
        std::thread::sleep(Duration::from_millis(15 * number));
        cut += usize::from(rotating.try_wait().unwrap().is_none());
        rotating.kill().unwrap();
        rotating.wait().unwrap();
        counter.take(FEW / 2).await;
    }
    assert!(cut > 2, "it was not cut off: {seen:?}");
    for number in 0_u64.. {
        if vault.shop()["state"] == "at rest" && vault.shop()["generation"] == 2 {
            break;
        }
        let mut resuming = Command::new(program("warifu"));
        resuming.args(["vault", "resume", "--config"]).arg(vault.server.dir().join("warifu.toml"));
        resuming.env(REQUEST.0, REQUEST.1);
        let mut resuming = resuming.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200 * number));
        resuming.kill().unwrap();
        resuming.wait().unwrap();
        counter.take(usize::try_from(number).unwrap() % FEW).await;
        counter.take(FEW + usize::try_from(number).unwrap()).await;
    }
    let ended = vault.server.operate(&["vault", "resume"]);
    assert!(ended.status.success(), "{}", last_line(&ended));
    // SoftHSM leaves a file without a label where it is killed while it makes an object; nobody can find it again.
    let halves = vault.server.hsm_objects() - objects - 2;
    assert!(halves <= cut, "{halves} keys of {cut} tries that were cut off are left");
    for card in 0..FEW {
        counter.take(card).await;
    }
    let gone = vault.held("retire", "one.gone");
    assert!(gone.status.success(), "{}", last_line(&gone));
    assert_eq!(vault.server.hsm_objects(), objects + halves);
    counter.take(0).await;
}

/// The audit log tells all of it, and verifies.
fn told(vault: &Vault, tokens: usize) {
    let records = vault.server.audit_records();
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!(of("ceremony.held"), 3, "two rotations, one end");
    assert!(of("cards.resealed") >= 2 * CARDS / 256, "{}", of("cards.resealed"));
    let resealed = records.iter().filter(|record| record["kind"] == "cards.resealed");
    let numbers: usize = resealed
        .map(|record| {
            assert!(record["calls"]["C_Sign"].as_u64().unwrap() > 0, "{record}");
            record["cause"].as_str().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
        })
        .sum();
    assert!(numbers >= 2 * CARDS && numbers <= 2 * tokens, "{numbers}");
    let export = vault.server.export_audit("whole");
    let key = vault.server.operated(&["audit", "key"]);
    let verified = vault.server.operated(&["audit", "verify", export.to_str().unwrap(), "--public-key", key.trim()]);
    assert!(!verified.is_empty());
    // The first card's number is mostly zeros, which stand in every file.
    let needles: Vec<_> = [CARDS / 2, CARDS - 1].into_iter().flat_map(|card| Needle::card_number(&pan(card))).collect();
    assert!(finds(&needles), "the search finds nothing");
    assert_eq!(files(&[vault.server.dir()], &needles), Vec::<String>::new(), "a card number in a file");
}
