//! `warifu key transcript`: read what custodians signed off, and verify it without server or HSM.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::ceremony::{FORM, Signed, Transcript};
use crate::commands::audit::signature::PublicKey;
use crate::commands::output::{remark, say};
use crate::exit::{Attempt as _, Exit, Failure};

#[derive(Args)]
pub(super) struct TranscriptCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Verify a transcript and print it. Exit code 1 if it was changed.
    Verify {
        /// The file.
        file: PathBuf,
        /// The audit key's public half: 130 hex digits, or a file holding them (`warifu audit key`). Without it the
        /// file's own key is believed.
        #[arg(long, value_name = "HEX|FILE")]
        public_key: Option<String>,
        /// Refuse a transcript of another key.
        #[arg(long, value_name = "ID")]
        key: Option<String>,
        /// Print the transcript as JSON.
        #[arg(long)]
        json: bool,
    },
}

impl TranscriptCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let What::Verify { file, public_key, key, json } = self.command;
        let changed = |why: &str| Failure::new(Exit::Refused, format_args!("{}: {why}", file.display()));
        let text = fs::read_to_string(&file).or_exit(Exit::Usage, &format!("read {}", file.display()))?;
        let signed: Signed = serde_json::from_str(&text).map_err(|_| changed("this is no transcript"))?;
        let own = PublicKey::parse(&signed.public_key).ok_or_else(|| changed("its public key is none"))?;
        match public_key.as_deref().map(PublicKey::read).transpose()? {
            Some(trusted) if trusted != own => return Err(changed("another key signed it")),
            Some(_) => {}
            None => remark("warifu: no --public-key: the transcript is only shown to be whole under its own key"),
        }
        if !own.made(&signed.signature, signed.transcript.as_bytes()) {
            return Err(changed("it was changed since it was signed"));
        }
        let transcript: Transcript =
            serde_json::from_str(&signed.transcript).map_err(|_| changed("it is of a newer version"))?;
        if transcript.form != FORM {
            return Err(changed("it is of a newer version"));
        }
        if key.is_some_and(|key| key != transcript.key) {
            return Err(changed(&format!("it is of the key {}", transcript.key)));
        }
        match json {
            true => say(signed.transcript),
            false => show(&transcript),
        }
        Ok(())
    }
}

fn show(transcript: &Transcript) {
    let Transcript { key, scheme, bits, environment, token, instance, merchant, kcv, proof, act, .. } = transcript;
    let or = |text: &Option<String>, otherwise: &str| text.clone().unwrap_or_else(|| otherwise.to_owned());
    say(format_args!("key         {key}, {scheme} {bits} bits, {environment}, merchant {}", or(merchant, "any")));
    say(format_args!("where       token {token:?}, instance {instance}, {}", transcript.program));
    say(format_args!("held        {} to {}", transcript.begun, transcript.ended));
    say(format_args!("act         {act}"));
    for part in &transcript.custodians {
        let component = or(&part.component_kcv, "none");
        say(format_args!("custodian   {}, component {component}, {}", part.custodian, part.at));
        say(format_args!("            certificate {}", part.certificate_sha256));
    }
    say(format_args!("check value {}", or(kcv, "not shown")));
    say(format_args!("proof       {}", or(proof, "none")));
    say("the transcript is as it was signed");
}
