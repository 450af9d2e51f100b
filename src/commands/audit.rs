//! `warifu audit`: take the audit logs out of the data store, and verify them without trusting the server.

mod export;
mod format;
mod signature;
mod verify;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::output::{remark, say};
use super::registry::at_desk;
use super::softhsm_env;
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use signature::PublicKey;

/// Export and verify the audit logs.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu audit export --out audit.jsonl --config warifu.toml
  warifu audit verify audit.jsonl --public-key audit-key.hex

An export holds every record of every log, the newest signed head of each, and a seal of the HSM over the whole file.
`verify` needs the file and the audit key's public half alone; it names the first thing that is wrong with each log.")]
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
    },
    /// Verify an exported file. Exit code 1 if anything in it was changed, dropped, moved or cut off.
    Verify {
        /// The file.
        file: PathBuf,
        /// The audit key's public half: 130 hex digits, or a file holding them. May be given several times, once for
        /// each HSM. Without it the file's own key is believed.
        #[arg(long, value_name = "HEX|FILE")]
        public_key: Vec<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl AuditCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        match self.command {
            What::Export { out } => {
                softhsm_env::apply(&file.load(&[])?.hsm)?;
                at_desk(file, async |desk| {
                    let written = export::export(&desk, &out).await?;
                    say(format_args!("{} records written to {}", written.records, out.display()));
                    say(format_args!("audit key: {}", hex::encode(written.public_key)));
                    Ok(())
                })
            }
            What::Verify { file, public_key, json } => verify(&file, &public_key, json),
        }
    }
}

fn verify(file: &Path, keys: &[String], json: bool) -> Result<(), Failure> {
    let trusted: Vec<PublicKey> = keys.iter().map(|text| PublicKey::read(text)).collect::<Result<_, _>>()?;
    if trusted.is_empty() {
        remark("warifu: no --public-key: the file's own key is believed; compare it with `warifu hsm doctor`");
    }
    let input = File::open(file).or_exit(Exit::Usage, &format!("open {}", file.display()))?;
    let report = verify::verify(BufReader::new(input), &trusted).or_exit(Exit::Usage, "read the file")?;
    if json {
        say(report.to_json());
    } else {
        report.findings.iter().for_each(say);
        for log in &report.logs {
            say(format_args!("log {}: {} records, {} covered by a signed head", log.name, log.records, log.signed));
        }
        say(if report.is_clean() { "verified" } else { "NOT verified" });
    }
    match report.findings.first() {
        None => Ok(()),
        Some(finding) => Err(Failure::new(Exit::Refused, finding)),
    }
}
