//! `warifu calc`: the integrator's bench. It computes what a device or host computes, with test keys.
//!
//! It prints keys and card data, which is its purpose and the reason it says on stderr that only test keys belong
//! on a command line. Nothing of the running server is used.

mod counter;
mod digits;
mod dukpt;
mod frame;
mod input;
mod keyblock;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use warifu_core::key::KeyBytes;
use warifu_core::ksn::Scheme;

use crate::exit::{Attempt as _, Exit, Failure};

/// Completes "could not ...".
const COMPUTE: &str = "compute";

/// What an integrator computes at the bench. Test keys only.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu calc dukpt --scheme aes --bdk FEDCBA9876543210F1F1F1F1F1F1F1F1 --ksn 123456789012345600000001
  warifu calc dukpt --scheme tdes --bdk 0123456789ABCDEFFEDCBA9876543210 --ksn FFFF9876543210E00001 --usage pin
  warifu calc counter --scheme tdes --counter 0FF800
  warifu calc frame --bdk 0123456789ABCDEFFEDCBA9876543210 reader-output.txt
  warifu calc keyblock --wrap --kbpk DD7515F2BFC17F85CE48F3CA25CB21F6 --header B0000P0TE00E0000 \\
    --key 3F419E1CB7079442AA37474C2EFBF8B8

Hex is upper or lower case; one 0x before it and white space in it are passed over.

Exit codes: 0 computed, 1 refused (the reason is on stderr), 2 wrong usage: an argument is not what it must be.")]
pub(crate) struct Calc {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on one line instead of a list.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Derive DUKPT keys: initial key, derivation or transaction key, working key.
    Dukpt(dukpt::Dukpt),
    /// The next counter a device may use.
    Counter(counter::NextCounter),
    /// Read, and with a key open, one output of a device.
    Frame(frame::Frame),
    /// Open a key block of TR-31 or X9.143, or make one.
    Keyblock(keyblock::KeyBlockArgs),
}

/// How an answer is printed.
#[derive(Clone, Copy)]
enum Form {
    List,
    /// JSON on one line.
    Line,
    /// JSON with line breaks: what has lists in it does not fit a list.
    Document,
}

/// Which DUKPT.
#[derive(Clone, Copy, ValueEnum)]
enum SchemeArg {
    /// ANSI X9.24-3.
    Aes,
    /// ANSI X9.24-1.
    Tdes,
}

/// The key to start from: exactly one.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct RootKey {
    /// Base derivation key, hex. A TEST key: command lines are seen by others.
    #[arg(long, value_name = "HEX")]
    bdk: Option<String>,
    /// Initial key of the device, hex. A TEST key.
    #[arg(long, value_name = "HEX")]
    ik: Option<String>,
}

/// A parsed root key.
enum Root {
    Bdk(KeyBytes),
    Ik(KeyBytes),
}

impl Calc {
    /// Computes and prints.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let form = match &self.command {
            _ if self.json => Form::Line,
            Command::Keyblock(_) => Form::Document,
            Command::Dukpt(_) | Command::Counter(_) | Command::Frame(_) => Form::List,
        };
        let answer = match self.command {
            Command::Dukpt(dukpt) => dukpt.run()?,
            Command::Counter(counter) => counter.run().or_exit(Exit::Usage, COMPUTE)?,
            Command::Frame(frame) => frame.run()?,
            Command::Keyblock(block) => block.run()?,
        };
        print(&answer, form).or_exit(Exit::Internal, COMPUTE)
    }
}

impl From<SchemeArg> for Scheme {
    fn from(scheme: SchemeArg) -> Self {
        match scheme {
            SchemeArg::Aes => Self::Aes,
            SchemeArg::Tdes => Self::Tdes,
        }
    }
}

impl RootKey {
    fn parse(&self) -> Result<Root> {
        warn_test_keys();
        let (name, hex) = match (&self.bdk, &self.ik) {
            (Some(hex), _) => ("--bdk", hex),
            (None, Some(hex)) => ("--ik", hex),
            (None, None) => bail!("give --bdk or --ik"),
        };
        let bytes = zeroize::Zeroizing::new(digits::bytes(name, hex)?);
        let key = KeyBytes::copied(&bytes).map_err(|error| anyhow!("{name}: {error}"))?;
        Ok(if self.bdk.is_some() { Root::Bdk(key) } else { Root::Ik(key) })
    }
}

impl Root {
    /// Itself, if the scheme has keys of its length.
    fn of(self, scheme: Scheme) -> Result<Self> {
        let (name, key) = match &self {
            Self::Bdk(key) => ("--bdk", key),
            Self::Ik(key) => ("--ik", key),
        };
        match (scheme, key.key_len().bytes()) {
            (Scheme::Aes, _) | (Scheme::Tdes, 16) => Ok(self),
            (Scheme::Tdes, len) => bail!("{name}: a TDES DUKPT key has 16 bytes, not {len}"),
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command's word to its user")]
fn warn_test_keys() {
    eprintln!("warifu calc: for TEST keys and TEST cards only; what you type and see here is not protected");
}

fn upper_hex(bytes: &[u8]) -> String {
    hex::encode_upper(bytes)
}

#[expect(clippy::print_stdout, reason = "a command's answer")]
fn print(answer: &Map<String, Value>, form: Form) -> Result<()> {
    match form {
        Form::Line => println!("{}", serde_json::to_string(answer)?),
        Form::Document => println!("{}", serde_json::to_string_pretty(answer)?),
        Form::List => print_list(answer),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's answer")]
fn print_list(answer: &Map<String, Value>) {
    let width = answer.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in answer {
        match value {
            Value::Object(fields) => {
                println!("{name}:");
                for (field, value) in fields {
                    println!("  {field:width$}  {}", plain(value));
                }
            }
            other => println!("{name:width$}  {}", plain(other)),
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
