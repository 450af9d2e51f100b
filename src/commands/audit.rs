//! `warifu audit`: take the audit logs out of the data store, and verify them without trusting the server.

mod export;
mod format;
pub(in crate::commands) mod signature;
mod verify;

use std::fs::File;
use std::future::Future;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use warifu_actors::record::{Kind, Record};
use warifu_hsm::CallTally;

use super::output::{remark, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use super::softhsm_env;
use crate::app::harden;
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm;
use signature::PublicKey;

/// Export and verify the audit logs.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu audit key --config warifu.toml > audit-key.hex
  warifu audit export --out audit.jsonl --config warifu.toml
  warifu audit verify audit.jsonl --public-key audit-key.hex --previous audit-yesterday.jsonl

An export holds every record of every log, each covered by a head the HSM signed, and the HSM's seal over the whole
file. `verify` needs the file and the audit key's public half alone; it names what is wrong. Take the key once, when
the HSM is set up, and keep it elsewhere: without it whoever wrote the file chose its key, too. An earlier export shows
that nothing was cut off since.")]
pub(crate) struct AuditCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Write every record into a file and have the HSM seal it.
    Export {
        /// The file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Write over a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// Print the audit key's public half: 130 hex digits, for `verify --public-key`.
    Key,
    /// Verify an exported file. Exit code 1 if anything in it was changed, dropped, moved or cut off.
    Verify {
        /// The file.
        file: PathBuf,
        /// The audit key's public half: 130 hex digits, or a file holding them. May be given several times, once for
        /// each HSM. Without it the file's own key is believed.
        #[arg(long, value_name = "HEX|FILE")]
        public_key: Vec<String>,
        /// An earlier export: everything it had signed must still be there.
        #[arg(long, value_name = "FILE")]
        previous: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl AuditCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        match self.command {
            What::Export { out, force } => at_hsm(file, async |desk| {
                let written = export::export(&desk, &out, force).await?;
                say(format_args!("{} records written to {}", written.records, out.display()));
                say(format_args!("audit key: {}", hex::encode(written.public_key)));
                written.remarks.iter().for_each(remark);
                Ok(())
            }),
            What::Key => at_hsm(file, async |desk| {
                say(hex::encode(key(&desk).await?));
                Ok(())
            }),
            What::Verify { file, public_key, previous, json } => verify(&file, &public_key, previous.as_deref(), json),
        }
    }
}

/// Runs a command at the desk that uses the HSM.
fn at_hsm<F>(file: &ConfigFile, work: impl FnOnce(Desk) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let config = file.load(&[])?;
    softhsm_env::apply(&config.hsm)?;
    harden(&config.server)?;
    at_desk(file, work)
}

/// Asks the HSM for the audit key's public half, and tells the audit log of it.
async fn key(desk: &Desk) -> Result<[u8; 65], Failure> {
    let (key, calls) = hsm::use_once(&desk.config.hsm, "read the audit key", |_, session| session.audit_public_key());
    note(desk, if key.is_ok() { Kind::HsmSessionOpened } else { Kind::HsmFailed }, "audit key read", &calls).await?;
    key
}

/// Writes down a use of the HSM.
async fn note(desk: &Desk, kind: Kind, cause: &'static str, calls: &CallTally) -> Result<(), Failure> {
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let record = Record::new(at_ms, kind).because(cause).with_calls(calls);
    desk.registry.note(&record).await.stored("write the audit record")
}

fn verify(file: &Path, keys: &[String], previous: Option<&Path>, json: bool) -> Result<(), Failure> {
    let trusted: Vec<PublicKey> = keys.iter().map(|text| PublicKey::read(text)).collect::<Result<_, _>>()?;
    if trusted.is_empty() {
        remark("warifu: no --public-key: the file is only shown to be whole under the key it names itself, which its");
        remark("warifu: writer chose; compare that key with `warifu audit key`, or better, keep it and pin it");
    }
    let open =
        |file: &Path| File::open(file).map(BufReader::new).or_exit(Exit::Usage, &format!("open {}", file.display()));
    let earlier =
        previous.map(|file| verify::earlier(open(file)?, &trusted).or_exit(Exit::Usage, "read the earlier file"));
    let report = verify::verify(open(file)?, &trusted, earlier.transpose()?).or_exit(Exit::Usage, "read the file")?;
    if json {
        say(report.to_json());
    } else {
        report.findings.iter().for_each(say);
        for log in &report.logs {
            say(format_args!("log {}: {} records, {} covered by a signed head", log.name, log.records, log.signed));
        }
        say(match (report.is_clean(), report.key_pinned) {
            (true, true) => "verified",
            (true, false) => "verified under the file's own key (not pinned)",
            (false, _) => "NOT verified",
        });
    }
    match report.findings.first() {
        None => Ok(()),
        Some(finding) => Err(Failure::new(Exit::Refused, finding)),
    }
}
