//! `device-emu`: one emulated keypad or reader, listening at the end of a wire, told what to do on standard input.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::termios::isatty;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::key_block::Algorithm;
use warifu_core::ksn::{Ksn, Scheme};
use warifu_device_emu::command::HELP;
use warifu_device_emu::console::{Answers, Console};
use warifu_device_emu::device::Device;
use warifu_device_emu::dukpt::{Originator, aes, tdes};
use warifu_device_emu::format::Format;
use warifu_device_emu::injection::{self, Injected};
use warifu_device_emu::scrub::scrubbed;
use warifu_device_emu::state::StateFile;
use warifu_device_emu::typing::{Prompt, Silenced, Source};
use warifu_device_emu::wire::{Ending, Listen, Wire};
use zeroize::Zeroizing;

/// An emulated card keypad or reader: encrypts what is typed or read at once under DUKPT and sends it over a wire.
/// For test keys and test cards only.
#[derive(Parser)]
#[command(version, after_help = format!("Commands on standard input:\n{HELP}"))]
struct Cli {
    /// Where to listen: tcp:HOST:PORT (port 0: any free one), unix:PATH, or pty (a serial port).
    #[arg(long, value_name = "WHERE", default_value = "tcp:127.0.0.1:0")]
    listen: Listen,
    /// Which DUKPT: aes (ANSI X9.24-3) or tdes (ANSI X9.24-1).
    #[arg(long)]
    scheme: SchemeName,
    /// What the device writes.
    #[arg(long, default_value = "native", value_parser = format_of)]
    format: Format,
    /// Key serial number in hex: 12 bytes, or the 8 of the initial key id (aes); 8 to 10 bytes (tdes). A counter in
    /// it is the last one used; a saved state has its own.
    #[arg(long, value_name = "HEX")]
    ksn: String,
    /// A file with the initial key in hex.
    #[arg(long, value_name = "FILE", group = "key")]
    ik_file: Option<PathBuf>,
    /// The initial key in hex: visible to every user of this machine, so a test key.
    #[arg(long, value_name = "HEX", group = "key")]
    ik: Option<String>,
    /// A base derivation key in hex: no real device ever has one, so a test key.
    #[arg(long, value_name = "HEX", group = "key")]
    bdk: Option<String>,
    /// A file with the initial key in a key block (TR-31, X9.143), as an injection facility gets it.
    #[arg(long, value_name = "FILE", group = "key", requires = "kbpk")]
    ik_block: Option<PathBuf>,
    /// The protection key of the block in hex: visible to every user of this machine, so a test key.
    #[arg(long, value_name = "HEX", requires = "ik_block")]
    kbpk: Option<String>,
    /// Length of the key; if given, the key must have it.
    #[arg(long, value_name = "BITS", value_parser = ["128", "192", "256"])]
    key_bits: Option<String>,
    /// Where registers and counter are kept over restarts. Holds keys in clear, for its owner only.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Name of the device in the prompt and in its status.
    #[arg(long, default_value = "kp-1")]
    name: String,
    /// Serial number in vendor formats: 10 letters and digits.
    #[arg(long, default_value = "EMU0000001")]
    serial: String,
    /// Read commands from this file, not from standard input.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Answer in JSON, one object a line (the ready line stays as it is).
    #[arg(long)]
    json: bool,
    /// Stay alive when there are no more commands.
    #[arg(long)]
    stay: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeName {
    Aes,
    Tdes,
}

fn main() -> ExitCode {
    quiet_panics();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("device-emu: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<()> {
        // A core dump would hold keys.
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        let device = scrubbed(|| self.device())?;
        let (mut source, silenced) = self.source()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let mut ended = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
            let [terminated, interrupted] = &mut ended;
            let (wire, outbox) = Wire::open(&self.listen).await.context("cannot listen")?;
            let mut out = std::io::stdout();
            writeln!(out, "ready {}", wire.address())?;
            out.flush()?;
            let answers = if self.json { Answers::Json } else { Answers::Text };
            let (end, ending) = oneshot::channel();
            std::thread::Builder::new().name("console".to_owned()).spawn(move || {
                let mut console = Console::new(self.name, device, outbox, answers, out);
                match console.run(&mut source) {
                    Ok(Ending::Delivered) if self.stay => loop {
                        std::thread::park();
                    },
                    // If nobody waits for it any more, the process is ending already.
                    Ok(ending) => drop(end.send(ending)),
                    Err(error) => say(&format!("device-emu: the console failed: {error}")),
                }
            })?;
            tokio::select! {
                ended = wire.run(ending) => ended.map(drop).context("the console failed"),
                _ = terminated.recv() => Ok(()),
                _ = interrupted.recv() => Ok(()),
            }
        });
        drop(silenced);
        outcome
    }

    /// The device as it was saved, else a new one.
    fn device(&self) -> anyhow::Result<Device> {
        let scheme = match self.scheme {
            SchemeName::Aes => Scheme::Aes,
            SchemeName::Tdes => Scheme::Tdes,
        };
        let ksn = parse_ksn(scheme, &self.ksn)?;
        let serial: [u8; 10] = self.serial.as_bytes().try_into().context("--serial takes 10 characters")?;
        ensure!(serial.iter().all(u8::is_ascii_alphanumeric), "--serial takes letters and digits");
        let state = self.state.as_deref().map(StateFile::open).transpose()?;
        if self.state.is_some() {
            say("device-emu: the state file holds this device's keys in clear: test keys only");
        }
        let saved = match &state {
            Some(state) => state.load()?,
            None => None,
        };
        let originator = match saved {
            Some(saved) => {
                ensure!(saved.device() == ksn.device(), "the state file belongs to device {}", saved.device());
                saved
            }
            None => self.fresh(&ksn)?,
        };
        Ok(Device::new(originator, self.format, serial, state)?)
    }

    fn fresh(&self, ksn: &Ksn) -> anyhow::Result<Originator> {
        let mut originator = match ksn {
            Ksn::Aes(ksn) => Originator::Aes(aes::Originator::load(&self.initial_key_aes(ksn)?, ksn)),
            Ksn::Tdes(ksn) => Originator::Tdes(tdes::Originator::load(&self.initial_key_tdes(ksn)?, ksn)?),
        };
        if ksn.raw_counter() > 0 {
            let used = ksn.counter().context("--ksn: a device never has this counter")?;
            originator.skip_to(used.get())?;
            originator.skip(1)?;
        }
        Ok(originator)
    }

    fn initial_key_aes(&self, ksn: &warifu_core::ksn::AesKsn) -> anyhow::Result<KeyBytes> {
        match self.bdk()? {
            Some(bdk) => Ok(aes::initial_key(&bdk, ksn)),
            None => self.injected(Algorithm::Aes),
        }
    }

    fn initial_key_tdes(&self, ksn: &warifu_core::ksn::TdesKsn) -> anyhow::Result<KeyBytes> {
        match self.bdk()? {
            Some(bdk) => Ok(tdes::initial_key(&bdk, ksn)?),
            None => self.injected(Algorithm::Tdes),
        }
    }

    fn bdk(&self) -> anyhow::Result<Option<KeyBytes>> {
        let Some(bdk) = &self.bdk else { return Ok(None) };
        say("device-emu: --bdk is for test keys only; no real device ever has its base derivation key");
        self.key(bdk.as_bytes()).context("--bdk").map(Some)
    }

    fn injected(&self, algorithm: Algorithm) -> anyhow::Result<KeyBytes> {
        if let (Some(file), Some(kbpk)) = (&self.ik_block, &self.kbpk) {
            say("device-emu: --kbpk shows the key to every user of this machine: test keys only");
            return self.unsealed(file, kbpk, algorithm).context("--ik-block");
        }
        match (&self.ik, &self.ik_file) {
            (Some(ik), _) => {
                say("device-emu: --ik shows the key to every user of this machine: test keys only");
                self.key(ik.as_bytes()).context("--ik")
            }
            (None, Some(file)) => self.key(&read_key(file)?).context("--ik-file"),
            (None, None) => bail!("a new device needs a key: --ik-block, --ik-file, --ik or --bdk"),
        }
    }

    /// The initial key in a key block, which must be one for this scheme, to derive from.
    fn unsealed(&self, file: &Path, kbpk: &str, algorithm: Algorithm) -> anyhow::Result<KeyBytes> {
        let text = std::fs::read_to_string(file)?;
        let kbpk = self.hex_key(kbpk.as_bytes()).context("--kbpk")?;
        let Injected { key, whose } = injection::opened(&text, kbpk, algorithm)?;
        let whose = whose.context("the block does not say whose initial key it is")?;
        let ksn = hex::decode(&self.ksn).context("--ksn")?;
        ensure!(
            injection::is_of(&whose, algorithm, &ksn),
            "it is the initial key of {whose}, and --ksn is {}",
            self.ksn
        );
        self.of_asked_length(key)
    }

    fn key(&self, digits: &[u8]) -> anyhow::Result<KeyBytes> {
        self.of_asked_length(self.hex_key(digits)?)
    }

    fn hex_key(&self, digits: &[u8]) -> anyhow::Result<KeyBytes> {
        let digits = digits.trim_ascii();
        let len = KeyLen::try_from(digits.len() / 2)?;
        let mut fits = Ok(());
        let key = KeyBytes::filled(len, |key| fits = hex::decode_to_slice(digits, key));
        ensure!(fits.is_ok(), "the key is not written in hex");
        Ok(key)
    }

    fn of_asked_length(&self, key: KeyBytes) -> anyhow::Result<KeyBytes> {
        let bits = key.key_len().bits().to_string();
        ensure!(
            self.key_bits.as_deref().is_none_or(|asked| asked == bits),
            "the key does not have the length of --key-bits"
        );
        Ok(key)
    }

    /// Where commands come from. A terminal is silenced as long as the second value lives.
    fn source(&self) -> anyhow::Result<(Source, Option<Silenced>)> {
        let input = match &self.script {
            Some(script) => std::fs::File::open(script).context("cannot open the script")?.into(),
            None => std::io::stdin().as_fd().try_clone_to_owned()?,
        };
        if !isatty(&input) {
            return Ok((Source::Plain(input), None));
        }
        let silenced = Silenced::new(input.try_clone()?)?;
        let screen: OwnedFd = std::io::stderr().as_fd().try_clone_to_owned()?;
        say("type help for the commands, quit to end; card data is shown as stars");
        Ok((Source::Terminal(input, Prompt { name: self.name.clone(), screen }), Some(silenced)))
    }
}

fn format_of(name: &str) -> Result<Format, String> {
    Format::from_name(name).ok_or_else(|| format!("one of: {}", Format::ALL.map(Format::name).join(", ")))
}

fn parse_ksn(scheme: Scheme, text: &str) -> anyhow::Result<Ksn> {
    let mut bytes = hex::decode(text).context("--ksn is not written in hex")?;
    if scheme == Scheme::Aes && bytes.len() == 8 {
        bytes.extend([0; 4]);
    }
    Ksn::parse(scheme, &bytes).context("--ksn")
}

fn read_key(file: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    Ok(Zeroizing::new(std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?))
}

/// A panic tells where it happened and nothing of what it was about.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("?".to_owned(), |place| format!("{}:{}", place.file(), place.line()));
        say(&format!("device-emu: internal error at {place}"));
    }));
}

/// Everything that is not an answer goes to standard error; if that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
