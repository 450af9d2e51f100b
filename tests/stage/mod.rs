//! The stage: a whole server, emulated devices and an order app, each its own process, in a folder of their own.
//!
//! Everything is started with the programs' own commands, as a user would, and ended when it goes out of scope.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of the stage")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a stage that cannot be set up fails the test"
)]

pub mod ceremony;
pub mod database;
pub mod desk;
pub mod otlp;
pub mod raw;
pub mod scan;
pub mod sealer;
pub mod shop;
pub mod spy;
pub mod till;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The public test BDKs that `warifu dev` knows.
pub const AES_BDK: &str = "FEDCBA9876543210F1F1F1F1F1F1F1F1";
/// The ANSI test BDK of TDES DUKPT.
pub const TDES_BDK: &str = "0123456789ABCDEFFEDCBA9876543210";

/// Where the programs of this build lie.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a running program has a path");
    // target/PROFILE/deps/test or target/PROFILE/examples/demo
    let profile = here.parent().and_then(Path::parent).expect("a program of the build");
    for candidate in [profile.join(name), profile.join("examples").join(name)] {
        if candidate.exists() {
            return candidate;
        }
    }
    panic!("{name} is not built: run `cargo build --workspace --all-targets` first (looked in {})", profile.display());
}

/// NSS's token, the second PKCS#11 module.
pub fn softokn() -> PathBuf {
    let places = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu/nss",
        "/usr/lib64",
        "/usr/lib",
    ];
    let found = places.iter().map(|place| Path::new(place).join("libsoftokn3.so")).find(|path| path.is_file());
    found.expect("NSS is missing: apt-get install libnss3, or scripts/prepare nss")
}

/// A child that ends with its scope.
pub struct Process(Child);

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self, limit: Duration) -> Option<i32> {
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.0.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running server.
pub struct Server {
    process: Process,
    /// What it said of itself when it was ready.
    pub about: Value,
    dir: PathBuf,
}

/// How to start a server.
#[derive(Default)]
pub struct Options {
    /// Another data store than SQLite in its folder.
    pub store_url: Option<String>,
    /// Settings as environment variables.
    pub environment: Vec<(String, String)>,
    /// Where its log goes.
    pub log: Log,
}

/// Where a server's log goes.
#[derive(Clone, Copy, Default)]
pub enum Log {
    /// Into a file in its folder.
    #[default]
    Kept,
    /// Into a pipe that nobody reads.
    Unread,
}

impl Server {
    /// Starts `warifu dev` in `dir`, which it fills and, the second time, finds again.
    pub fn dev(dir: &Path, options: &Options) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut command = Command::new(program("warifu"));
        command.args(["dev", "--json", "--no-devices", "--listen", "127.0.0.1:0", "--dir"]).arg(dir);
        if let Some(url) = &options.store_url {
            command.args(["--store-url", url]);
        }
        Self::start(command, dir, options)
    }

    /// Starts a prepared command and waits until it says that it is ready.
    fn start(mut command: Command, dir: &Path, options: &Options) -> Self {
        for (name, value) in &options.environment {
            command.env(name, value);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).unwrap();
        let log = match options.log {
            Log::Kept => Stdio::from(log),
            Log::Unread => Stdio::piped(),
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("warifu starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Ok(about) = serde_json::from_str(&line) else {
            let _ = child.kill();
            let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            panic!("the server did not start; it said {line:?}, its log ends with:\n{}", tail(&log));
        };
        std::thread::spawn(move || drain(stdout));
        Self { process: Process(child), about, dir: dir.to_owned() }
    }

    /// Starts `warifu serve` on what a dev server left in `dir`; `about` is what that one said of itself. Ports are
    /// free ones, learned from the log.
    pub fn serve(dir: &Path, about: &Value, options: &Options) -> Self {
        let (path, log) = (1..)
            .map(|number| dir.join(format!("serve-{number}.log")))
            .find_map(|path| Some((path.clone(), std::fs::File::create_new(path).ok()?)))
            .expect("a number is free");
        let mut command = Command::new(program("warifu"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--config"]);
        command.arg(dir.join("warifu.toml")).env("RUST_LOG", "info").env("WARIFU__TELEMETRY__LOG_FORMAT", "json");
        for (name, value) in &options.environment {
            command.env(name, value);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("warifu starts");
        let mut process = Process(child);
        let serving = wait_for(Duration::from_secs(30), || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let ended = process.0.try_wait().ok().flatten();
            assert!(ended.is_none(), "the server ended ({ended:?}); its log ends with:\n{}", tail(&text));
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.into_iter().find(|line| line["message"] == "serving")
        });
        let mut about = about.clone();
        about["server"] = json!(format!("https://{}", serving["grpc"].as_str().expect("where it listens")));
        about["http"] = json!(format!("http://{}", serving["http"].as_str().expect("where its pages are")));
        Self { process, about, dir: dir.to_owned() }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.about["server"].as_str().expect("the server says where it listens").to_owned()
    }

    /// A file the server said it made.
    pub fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(self.about["pki"][name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.about)))
    }

    /// The merchant it made.
    pub fn merchant(&self) -> String {
        self.about["merchant"].as_str().expect("a dev server has a merchant").to_owned()
    }

    /// Whether it made the device of a published output.
    pub fn knows_published(&self, id: &str) -> bool {
        self.about["published"].as_array().is_some_and(|devices| devices.iter().any(|device| device["id"] == id))
    }

    /// The BDK that `warifu dev` makes for a scheme.
    pub fn bdk(&self, scheme: &str) -> &'static str {
        if scheme == "aes" { "TEST-aes-128" } else { "TEST-tdes" }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A page of its HTTP side.
    pub fn http(&self, path: &str) -> (u16, String) {
        let base = self.about["http"].as_str().expect("the server says where its pages are");
        let host = base.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(host).expect("the HTTP side answers");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Runs an operator's command against its configuration.
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let config = self.dir.join("warifu.toml");
        let mut command = Command::new(program("warifu"));
        command.args(arguments).arg("--config").arg(config);
        command.output().expect("warifu runs")
    }

    /// The same, which must succeed; its standard output.
    pub fn operated(&self, arguments: &[&str]) -> String {
        let output = self.operate(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end; its exit code, or `None` if it took longer than `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<i32> {
        self.process.terminate(limit)
    }
}

/// A running emulated device.
pub struct Device {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Where it listens, as the comm module writes it.
    pub connection: String,
}

impl Device {
    /// Starts an emulator.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(program("device-emu"));
        command.args(["--listen", "tcp:127.0.0.1:0"]).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("device-emu starts");
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let connection =
            line.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("device-emu said {line:?}")).to_owned();
        Self { process: Process(child), stdin, stdout, connection }
    }

    /// Gives it a command and returns its word.
    pub fn say(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        assert!(answer.starts_with("ok"), "device-emu, told {:?}, said {answer:?}", line.split(' ').next());
        answer
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// A running order app.
pub struct OrderApp {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl OrderApp {
    /// Starts an order app as the module the server made.
    pub fn start(server: &Server) -> Self {
        let mut command = Command::new(program("order-app"));
        command.args(["--session", "--server", &server.url(), "--ca"]).arg(server.file("ca"));
        command.arg("--cert").arg(server.file("module_cert")).arg("--key").arg(server.file("module_key"));
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(server.dir().join("order-app.log")).unwrap();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().expect("order-app starts");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { process: Process(child), stdin, stdout }
    }

    /// Asks it to do something and returns its answer.
    pub fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.stdin, "{command}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("order-app, asked {command}, said {answer:?}"))
    }

    /// Attaches a device.
    pub fn attach(&mut self, name: &str, device: &Device, format: &str) {
        let answer =
            self.ask(&json!({"op": "attach", "name": name, "connection": device.connection, "format": format}));
        assert!(answer.get("error").is_none(), "attach {name}: {answer}");
    }

    /// Collects one card from a device under a name.
    pub fn collect(&mut self, device: &str, name: &str) {
        let answer = self.ask(&json!({"op": "collect", "device": device, "as": name, "timeout_ms": 5000}));
        assert!(answer.get("error").is_none(), "collect from {device}: {answer}");
    }

    /// Authorizes an order with a collected card.
    pub fn authorize(&mut self, card: &str, order: &str, amount: i64, channel: &str) -> Value {
        self.ask(&json!({"op": "authorize", "card": card, "order": order, "amount": amount, "currency": "JPY", "channel": channel}))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Looks again and again until there is something to see, at most `limit`.
pub fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "nothing came within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Looks again and again until it is so, at most `limit`.
pub async fn until(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !look().await {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn drain(mut stream: impl Read) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(3000);
    text.get(start..).unwrap_or(text)
}
