//! `warifu hsm`: what the HSM is and can do.

mod described;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use warifu_actors::record::{Kind, Record};
use warifu_hsm::doctor::{self, Pace, Report, Shortfall};
use warifu_hsm::pkcs11::{Slot, SlotConfig};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, HsmError};

use super::output::{remark, say};
use super::registry::{Desk, Stored as _, now_ms, on_runtime};
use super::softhsm_env;
use crate::app::harden;
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{close_slot, found, read_pin, slot_config};
use crate::process::{self, Privacy};

/// Examine the HSM.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu hsm doctor --config warifu.toml
  warifu hsm doctor --config warifu.toml --bench
  warifu hsm doctor --module /usr/lib/softhsm/libsofthsm2.so --token-label warifu --pin-file pin --json
  warifu hsm doctor --module /usr/lib/x86_64-linux-gnu/libsoftokn3.so --token-label 'NSS Generic Crypto Services' \\
    --pin-file pin --module-arguments \"configdir='' flags=noCertDB,noModDB,forceOpen\"

Exit codes: 0 if every configured key can be used in its mode (without a configuration: if any mode runs), 3 if not, 7 if
the module cannot be loaded.")]
pub(crate) struct HsmCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Try every mechanism, decryption mode and restriction with public test keys.
    Doctor(Doctor),
}

#[derive(Args)]
struct Doctor {
    /// PKCS#11 module, instead of the configuration's.
    #[arg(long, value_name = "PATH", requires_all = ["token_label", "pin_file"])]
    module: Option<PathBuf>,
    /// Text that module wants when it is initialized, if any.
    #[arg(long, value_name = "TEXT", requires = "module")]
    module_arguments: Option<String>,
    /// Label of the token.
    #[arg(long, value_name = "LABEL", requires = "module")]
    token_label: Option<String>,
    /// File with the user PIN.
    #[arg(long, value_name = "FILE", requires = "module")]
    pin_file: Option<PathBuf>,
    /// Measure it too, for some seconds: each operation, and how many derivers to configure.
    #[arg(long)]
    bench: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found.
struct Examined {
    report: Report,
    /// The keys of the configuration; none were given with a module of its own.
    bdks: Vec<BdkSpec>,
    pace: Option<Pace>,
    audit_key: Option<String>,
}

impl HsmCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        let What::Doctor(doctor) = self.command;
        doctor.run(file)
    }
}

impl Doctor {
    fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        let bench = self.bench;
        let examined = match (self.module, self.token_label, self.pin_file) {
            (Some(module), Some(token_label), Some(pin_file)) => {
                process::harden(Privacy::Sealed).or_exit(Exit::Internal, "close this process's memory to others")?;
                let pin = read_pin(&pin_file)?;
                let module_arguments = self.module_arguments;
                let config =
                    SlotConfig { module, module_arguments, token_label, pin, cache_nodes: 0, accept_non_p2pe: true };
                let slot = open(config, &mut CallTally::default())?;
                let (examined, _) = examine(slot, Vec::new(), bench);
                examined?
            }
            _ => {
                let config = file.load(&[])?;
                softhsm_env::apply(&config.hsm)?;
                harden(&config.server)?;
                let mut made = CallTally::default();
                let opened = slot_config(&config.hsm).and_then(|slot| open(slot, &mut made));
                let (examined, calls) = match opened {
                    Ok(slot) => examine(slot, config.bdks.clone(), bench),
                    Err(failure) => (Err(failure), made),
                };
                // A data store that is away must not keep the doctor away.
                let found = examined.as_ref().map(|examined| found(&examined.report)).unwrap_or_default();
                if let Err(failure) = on_runtime(async { note(&Desk::open(config).await?, found, &calls).await }) {
                    remark(format_args!("warifu: the audit log has no record of this examination: {failure}"));
                }
                examined?
            }
        };
        match self.json {
            true => say(examined.described()),
            false => {
                say(&examined.report);
                for bdk in &examined.bdks {
                    let found = examined.report.shortfall(bdk);
                    let found = found.map_or_else(|| "works".to_owned(), |shortfall| format!("FAILS: {shortfall}"));
                    say(format_args!("configured  {} in {} mode: {found}", bdk.id, bdk.mode.name()));
                }
                say(format_args!("audit key   {}", examined.audit_key.as_deref().unwrap_or("none yet")));
                if let Some(pace) = &examined.pace {
                    say(format_args!("\n{pace}"));
                }
            }
        }
        examined.verdict()
    }
}

/// A module that is not there is the installer's to mend, a slot the key custodians'.
fn open(config: SlotConfig, made: &mut CallTally) -> Result<Slot, Failure> {
    let opened = Slot::open_untried(config, made);
    let exit = if matches!(opened, Err(HsmError::Module { .. })) { Exit::Module } else { Exit::Hsm };
    opened.or_exit(exit, "open the HSM")
}

/// Examines a slot for these keys, measures it if that is wanted and it can be used, and counts the calls it took.
fn examine(slot: Slot, bdks: Vec<BdkSpec>, bench: bool) -> (Result<Examined, Failure>, CallTally) {
    let report = doctor::examine(&slot).or_exit(Exit::Hsm, "examine the HSM");
    let mut calls = CallTally::default();
    let audit_key = slot.session(&[]).ok().and_then(|mut session| {
        let key = warifu_hsm::Hsm::audit_public_key(&mut session).ok();
        calls.add(&warifu_hsm::Hsm::take_calls(&mut session));
        key.map(hex::encode)
    });
    let examined = report.and_then(|report| {
        // What is measured is a frame of hardware mode.
        let pace = match bench && report.is_usable() && report.runs(DecryptionMode::Hardware) {
            true => Some(measure(&slot)?),
            false => None,
        };
        Ok(Examined { report, bdks, pace, audit_key })
    });
    calls.add(&slot.take_calls());
    calls.add(&close_slot(slot));
    (examined, calls)
}

fn measure(slot: &Slot) -> Result<Pace, Failure> {
    let tell = |what: &str| remark(format_args!("warifu hsm doctor: measuring {what}"));
    doctor::measure(slot, tell).or_exit(Exit::Hsm, "measure the HSM")
}

async fn note(desk: &Desk, found: Vec<(&'static str, String)>, calls: &CallTally) -> Result<(), Failure> {
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let record = Record::new(at_ms, Kind::HsmExamined).because("hsm doctor").with_found(found).with_calls(calls);
    desk.registry.note(&record).await.stored("write the audit record")
}

impl Examined {
    /// Why the server cannot run on it; empty if it can.
    fn shortfalls(&self) -> Vec<String> {
        let shortfalls = self.report.shortfalls(&self.bdks);
        if shortfalls.is_empty() && !self.report.is_usable() {
            return vec!["the slot can run no mode at all".to_owned()];
        }
        shortfalls.iter().map(Shortfall::to_string).collect()
    }

    fn verdict(&self) -> Result<(), Failure> {
        let shortfalls = self.shortfalls();
        match shortfalls.is_empty() {
            true => Ok(()),
            false => {
                let all = shortfalls.join("; ");
                Err(Failure::new(Exit::Hsm, format_args!("the server cannot run on this HSM: {all}")))
            }
        }
    }
}
