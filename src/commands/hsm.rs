//! `warifu hsm`: what the HSM is and can do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use warifu_actors::record::{Kind, Record};
use warifu_core::ksn::Scheme;
use warifu_hsm::CallTally;
use warifu_hsm::doctor::{self, Finding, Pace, Report, Standing};
use warifu_hsm::pkcs11::{Slot, SlotConfig};

use super::output::{remark, say};
use super::registry::{Desk, Stored as _, now_ms, on_runtime};
use super::softhsm_env;
use crate::app::harden;
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{close_slot, open_slot_counted, read_pin};
use crate::process::{self, Privacy};
use crate::rpc::scheme_name;

/// Examine the HSM.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu hsm doctor --config warifu.toml
  warifu hsm doctor --config warifu.toml --bench
  warifu hsm doctor --module /usr/lib/softhsm/libsofthsm2.so --token-label warifu --pin-file pin --json")]
pub(crate) struct HsmCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Try every mechanism and decryption mode with public test keys; exit code 3 if the server cannot run on it.
    Doctor(Doctor),
}

#[derive(Args)]
struct Doctor {
    /// PKCS#11 module, instead of the configuration's.
    #[arg(long, value_name = "PATH", requires_all = ["token_label", "pin_file"])]
    module: Option<PathBuf>,
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

/// What was found, and the calls it took.
struct Examined {
    report: Report,
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
                let config = SlotConfig { module, token_label, pin, cache_nodes: 0, accept_non_p2pe: true };
                let slot = Slot::open(config).or_exit(Exit::Hsm, "open the HSM")?;
                let (examined, _) = examine(slot, bench);
                examined?
            }
            _ => {
                let config = file.load(&[])?;
                softhsm_env::apply(&config.hsm)?;
                harden(&config.server)?;
                let mut made = CallTally::default();
                let (examined, calls) = match open_slot_counted(&config.hsm, &mut made) {
                    Ok(slot) => examine(slot, bench),
                    Err(failure) => (Err(failure), made),
                };
                // A data store that is away must not keep the doctor away.
                if let Err(failure) = on_runtime(async { note(&Desk::open(config).await?, &calls).await }) {
                    remark(format_args!("warifu: the audit log has no record of this examination: {failure}"));
                }
                examined?
            }
        };
        match self.json {
            true => say(examined.described()),
            false => {
                say(&examined.report);
                say(format_args!("audit key   {}", examined.audit_key.as_deref().unwrap_or("none yet")));
                if let Some(pace) = &examined.pace {
                    say(format_args!("\n{pace}"));
                }
            }
        }
        if examined.report.is_usable() {
            Ok(())
        } else {
            Err(Failure::new(Exit::Hsm, "the server cannot run on this HSM: see what fails above"))
        }
    }
}

/// Examines a slot, measures it if that is wanted and it can be used, and counts the calls it took.
fn examine(slot: Slot, bench: bool) -> (Result<Examined, Failure>, CallTally) {
    let report = doctor::examine(&slot).or_exit(Exit::Hsm, "examine the HSM");
    let mut calls = CallTally::default();
    let audit_key = slot.session(&[]).ok().and_then(|mut session| {
        let key = warifu_hsm::Hsm::audit_public_key(&mut session).ok();
        calls.add(&warifu_hsm::Hsm::take_calls(&mut session));
        key.map(hex::encode)
    });
    let examined = report.and_then(|report| {
        let pace = match bench && report.is_usable() {
            true => Some(measure(&slot)?),
            false => None,
        };
        Ok(Examined { report, pace, audit_key })
    });
    calls.add(&slot.take_calls());
    calls.add(&close_slot(slot));
    (examined, calls)
}

fn measure(slot: &Slot) -> Result<Pace, Failure> {
    let tell = |what: &str| remark(format_args!("warifu hsm doctor: measuring {what}"));
    doctor::measure(slot, tell).or_exit(Exit::Hsm, "measure the HSM")
}

async fn note(desk: &Desk, calls: &CallTally) -> Result<(), Failure> {
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let record = Record::new(at_ms, Kind::HsmSessionOpened).because("hsm doctor").with_calls(calls);
    desk.registry.note(&record).await.stored("write the audit record")
}

impl Examined {
    fn described(&self) -> Value {
        let mut described = described(&self.report, self.audit_key.as_deref());
        if let Some(pace) = &self.pace {
            described["pace"] = paced(pace);
        }
        described
    }
}

fn paced(pace: &Pace) -> Value {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let timings = pace.timings.iter();
    let timings = timings.map(|timing| {
        json!({ "operation": timing.operation, "median_us": micros(timing.median), "p99_us": micros(timing.p99) })
    });
    let sessions = pace.sessions.iter();
    let sessions = sessions.map(|(sessions, rate)| json!({ "sessions": sessions, "frames_per_second": rate }));
    json!({
        "operations": timings.collect::<Vec<_>>(),
        "sessions": sessions.collect::<Vec<_>>(),
        "proposed_derivers": pace.proposed_derivers(),
    })
}

fn described(report: &Report, audit_key: Option<&str>) -> Value {
    let said = |finding: &Finding| match finding {
        Finding::Works => Value::Null,
        Finding::Fails(what) => Value::from(what.as_str()),
    };
    let works = |finding: &Finding| *finding == Finding::Works;
    let mechanisms: Vec<Value> = report
        .mechanisms
        .iter()
        .map(|one| {
            json!({ "name": one.name, "needed_for": one.needed_for, "works": works(&one.finding), "failure": said(&one.finding) })
        })
        .collect();
    let modes: Vec<Value> = report
        .modes
        .iter()
        .map(|one| {
            json!({
                "mode": one.mode.name(),
                "scheme": scheme_name(one.scheme),
                "bits": if one.scheme == Scheme::Tdes { 128 } else { one.len.bits() },
                "works": works(&one.finding),
                "failure": said(&one.finding),
            })
        })
        .collect();
    json!({
        "usable": report.is_usable(),
        "fit_for_production": report.standing == Standing::HardwareSlot,
        "standing": report.standing.to_string(),
        "extraction": report.extraction.to_string(),
        "module": {
            "path": report.module.path,
            "description": report.module.description,
            "manufacturer": report.module.manufacturer,
            "version": report.module.version,
            "pkcs11": report.module.pkcs11,
        },
        "slot": {
            "id": report.slot.id,
            "description": report.slot.description,
            "token_label": report.slot.token_label,
            "model": report.slot.model,
            "manufacturer": report.slot.manufacturer,
            "serial": report.slot.serial,
        },
        "mechanisms": mechanisms,
        "modes": modes,
        "audit_public_key": audit_key,
    })
}
