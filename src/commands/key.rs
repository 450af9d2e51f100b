//! `warifu key`: the registry of base derivation keys, and the ceremonies that make them.

mod ceremony;
mod destroy;
mod export_ik;
mod init;
mod new_file;
pub(super) mod people;
mod transcript;
pub(super) mod witness;

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use warifu_actors::record::{Kind, Record};
use warifu_actors::store::{BdkRecord, KeyReason};
use warifu_core::custody::{Environment, KeyProof, Purpose, State};
use warifu_core::kcv::Kcv;
use warifu_core::key::KeyBytes;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_hsm::pkcs11::Slot;
use warifu_hsm::{BdkSpec, DecryptionMode, HsmError};

use super::device::date;
use super::output::{Listing, facts, moment, remark, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use super::softhsm_env;
use crate::app::harden;
use crate::ceremony::{attend, compact};
use crate::cli::ConfigFile;
use crate::config::Server;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::rpc::scheme_name;
use crate::{custody, hsm};
use ceremony::Ceremony;
use destroy::Destroy;
use export_ik::ExportIk;
use init::Init;
use people::{Company, still_admitted};
use transcript::TranscriptCommand;

/// Register base derivation keys and change their state.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu key init --transcript service-keys.transcript
  warifu key register phone-2026 --kcv 7AD386C376 --expires 2029-12-31
  warifu key ceremony phone-2026 --transcript phone-2026.transcript --expires 2029-12-31
  warifu key transcript verify phone-2026.transcript --public-key audit-key.hex
  warifu key activate phone-2026
  warifu key ceremony factory --kbpk --transcript factory.transcript
  warifu key export-ik --device kp-1 --kbpk factory --out kp-1.tr31
  warifu key export-ik --device kp-1-2029 --update-of kp-1 --out kp-1.update
  warifu key suspend phone-2026
  warifu key deactivate phone-2026 --compromised
  warifu key destroy phone-2026 --transcript phone-2026.gone

States: pre-active -> active <-> suspended; both -> deactivated, for good; pre-active and deactivated -> destroyed.
Frames of its devices are opened while a key is active, and refused within a second after it is not.")]
pub(crate) struct KeyCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a key of the configuration that is in the HSM.
    Register(Register),
    /// List the keys.
    List(Listing),
    /// Show everything known of a key.
    Show {
        /// Its id.
        #[arg(value_parser = BdkId::parse)]
        id: BdkId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make the keys every server needs, in an HSM that has none: vault root, fingerprint, audit; takes two custodians.
    Init(Init),
    /// Put a new key into the HSM, in the presence of two custodians or more.
    Ceremony(Ceremony),
    /// Destroy a key that is out of use, in the HSM and for good; takes two custodians.
    Destroy(Destroy),
    /// Derive a device's initial key in the HSM and seal it in a key block, for the facility that injects it or for the device.
    ExportIk(ExportIk),
    /// Verify what a ceremony wrote.
    Transcript(TranscriptCommand),
    /// Take a key into use, for the first time or again.
    Activate(Which),
    /// Stop using a key for now.
    Suspend(Which),
    /// Stop using a key for good.
    Deactivate {
        #[command(flatten)]
        which: Which,
        /// Somebody may know it who should not: the audit log says so.
        #[arg(long)]
        compromised: bool,
    },
}

#[derive(Args)]
struct Which {
    /// The key's id.
    #[arg(value_parser = BdkId::parse)]
    id: BdkId,
}

#[derive(Args)]
struct Register {
    /// The key's id: that of a [[bdk]] of the configuration, which says its scheme and length.
    #[arg(value_parser = BdkId::parse)]
    id: BdkId,
    /// The check value of the key as it should be, of CMAC (10 digits) or of an encrypted block (6): another key in the HSM is
    /// refused.
    #[arg(long, value_name = "HEX")]
    kcv: Option<String>,
    /// The one merchant whose devices are loaded from it; without it, any.
    #[arg(long, value_parser = MerchantId::parse)]
    merchant: Option<MerchantId>,
    /// When it should have been replaced: servers warn from 30 days before.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    expires: Option<i64>,
    /// Take a key without --kcv: the HSM does not show check values, and both custodians compared it elsewhere.
    #[arg(long, conflicts_with = "kcv")]
    kcv_compared: bool,
    #[command(flatten)]
    company: Company,
}

impl KeyCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        match self.command {
            What::Transcript(command) => return command.run(),
            What::Init(_)
            | What::Register(_)
            | What::Ceremony(_)
            | What::Destroy(_)
            | What::ExportIk(_)
            | What::Activate(_) => {
                let config = file.load(&[])?;
                softhsm_env::apply(&config.hsm)?;
                // Where keys pass, only a test may ask for a memory that can be looked into.
                let test = config.server.environment == Environment::Test;
                harden(&Server { dumpable: config.server.dumpable && test, ..config.server })?;
            }
            What::List(_) | What::Show { .. } | What::Suspend(_) | What::Deactivate { .. } => {}
        }
        at_desk(file, async |desk| match self.command {
            What::Register(new) => new.register(&desk).await,
            What::Init(init) => init.hold(&desk).await,
            What::Ceremony(ceremony) => ceremony.hold(&desk).await,
            What::Destroy(destroy) => destroy.hold(&desk).await,
            What::ExportIk(export) => export.hold(&desk).await,
            // Done above, where no data store is needed.
            What::Transcript(_) => Ok(()),
            What::List(listing) => list(&desk, &listing).await,
            What::Show { id, json } => show(&desk, &id, json).await,
            What::Activate(which) => activate(&desk, &which.id).await,
            What::Suspend(which) => change(&desk, &which.id, State::Suspended, KeyReason::Planned).await,
            What::Deactivate { which, compromised } => {
                let reason = if compromised { KeyReason::Compromised } else { KeyReason::Planned };
                change(&desk, &which.id, State::Deactivated, reason).await
            }
        })
    }
}

impl Register {
    async fn register(self, desk: &Desk) -> Result<(), Failure> {
        let spec = configured(desk, &self.id)?;
        let environment = desk.config.server.environment;
        if environment == Environment::Live {
            self.approve(desk).await?;
        }
        let (proof, shown) = identify(desk, Purpose::Bdk, spec).await?;
        if self.kcv_compared && !shown.is_empty() {
            return Err(Failure::new(Exit::Refused, "this HSM shows the key's check value: register it with --kcv"));
        }
        let kcv = agreed(self.kcv.as_deref(), &shown)?;
        custody::refuse_published(environment, Purpose::Bdk, spec.scheme, spec.len, proof)?;
        let new = BdkRecord {
            id: self.id.clone(),
            purpose: Purpose::Bdk,
            scheme: spec.scheme,
            len: spec.len,
            environment,
            merchant: self.merchant,
            kcv,
            proof,
            state: State::PreActive,
            created_at_ms: now_ms(),
            activated_at_ms: None,
            expires_at_ms: self.expires,
        };
        desk.registry.register_bdk(&new).await.stored("register the key")?;
        say(format_args!("key {} registered, check value {}", self.id, new.kcv.as_deref().unwrap_or("not shown")));
        remark(format_args!("next: warifu key activate {}", self.id));
        Ok(())
    }
}

impl Register {
    /// A key that others put into the HSM is taken for live cards by two people, who know its check value.
    async fn approve(&self, desk: &Desk) -> Result<(), Failure> {
        if self.kcv.is_none() && !self.kcv_compared {
            return Err(Failure::new(Exit::Usage, "a live key is registered with --kcv, or --kcv-compared"));
        }
        let (dialogue, mut door) = self.company.assemble(desk).await?;
        let words = self.company.language();
        let people = attend(&words.registering(self.id.as_str()), 2, words, dialogue, &mut door, now_ms);
        let people = people.or_exit(Exit::Refused, "register the key")?;
        let admitted = still_admitted(desk, people.iter().map(|(person, _)| person)).await?;
        admitted.or_exit(Exit::Refused, "register the key")?;
        let names: Vec<&str> = people.iter().map(|(person, _)| person.id.as_str()).collect();
        let mut record = Record::new(u64::try_from(now_ms()).unwrap_or_default(), Kind::CeremonyHeld);
        record.key = Some(self.id.to_string());
        let record = record.because(format_args!("key to be registered, by {}", names.join(", ")));
        desk.registry.note(&record).await.stored("write the audit record")
    }
}

/// The key of the registry with this id.
async fn known(desk: &Desk, id: &BdkId) -> Result<Arc<BdkRecord>, Failure> {
    let key = desk.store.bdk(id).await.stored("look the key up")?;
    key.ok_or_else(|| Failure::new(Exit::Refused, format_args!("there is no key {id}")))
}

/// The key of the configuration with this id.
fn configured<'a>(desk: &'a Desk, id: &BdkId) -> Result<&'a BdkSpec, Failure> {
    let found = desk.config.bdks.iter().find(|spec| spec.id == *id);
    found.ok_or_else(|| Failure::new(Exit::Refused, format_args!("the configuration has no [[bdk]] {id}")))
}

/// What the slot tells of a key; every call to the HSM is in the audit log before its result is used.
async fn identify(desk: &Desk, purpose: Purpose, spec: &BdkSpec) -> Result<(KeyProof, Vec<Kcv>), Failure> {
    let what = "identify the key in the HSM";
    let (identity, calls) = hsm::use_once(&desk.config.hsm, what, |slot, _| identified(slot, purpose, spec));
    let kind = if identity.is_ok() { Kind::HsmSessionOpened } else { Kind::HsmFailed };
    let mut record = Record::new(u64::try_from(now_ms()).unwrap_or_default(), kind);
    record.key = Some(spec.id.to_string());
    let record = record.because("key identified in the HSM").with_calls(&calls);
    desk.registry.note(&record).await.stored("write the audit record")?;
    identity
}

/// What a slot tells of a key.
fn identified(slot: &Slot, purpose: Purpose, spec: &BdkSpec) -> Result<(KeyProof, Vec<Kcv>), HsmError> {
    match purpose {
        Purpose::Bdk => slot.identify(spec),
        Purpose::Kbpk => slot.identify_kbpk(&spec.id, spec.len).map(|(proof, kcv)| (proof, vec![kcv])),
    }
}

/// The label of a key holds another one.
fn replaced(id: &BdkId) -> Failure {
    Failure::new(Exit::Hsm, format_args!("the HSM holds another key under the label of {id}"))
}

/// The check value to write down, if what was expected is one of those the slot shows. What it shows is not told where they
/// differ: who retypes it has compared nothing.
fn agreed(expected: Option<&str>, shown: &[Kcv]) -> Result<Option<String>, Failure> {
    let refused = |why| Err(Failure::new(Exit::Refused, why));
    let told = shown.first().map(Kcv::to_string);
    let Some(expected) = expected.map(compact) else { return Ok(told) };
    if shown.is_empty() {
        return refused(
            "this HSM does not show the check value of a key that may only derive: compare it on the HSM's own console, and \
             register the key with --kcv-compared instead of --kcv",
        );
    }
    match shown.iter().any(|kcv| expected.eq_ignore_ascii_case(&kcv.to_string())) {
        true => Ok(told),
        false => refused("the key in the HSM has another check value"),
    }
}

/// A key is taken into use the first time only where the slot has it.
async fn activate(desk: &Desk, id: &BdkId) -> Result<(), Failure> {
    let key = known(desk, id).await?;
    custody::belongs(&key, desk.config.server.environment)?;
    if key.state == State::PreActive {
        let spec = match key.purpose {
            Purpose::Bdk => configured(desk, id)?.clone(),
            Purpose::Kbpk => {
                let mode = DecryptionMode::Hardware;
                BdkSpec { id: id.clone(), scheme: key.scheme, len: key.len, mode, proof: None }
            }
        };
        let (proof, _) = identify(desk, key.purpose, &spec).await?;
        if proof != key.proof {
            return Err(replaced(id));
        }
    }
    change(desk, id, State::Active, KeyReason::Planned).await
}

async fn change(desk: &Desk, id: &BdkId, to: State, because: KeyReason) -> Result<(), Failure> {
    desk.registry.set_bdk_state(id, to, because, now_ms()).await.stored("change the key")?;
    desk.in_force().await;
    say(format_args!("key {id} is {}", to.name()));
    Ok(())
}

async fn list(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let keys = desk.store.bdks().await.stored("list the keys")?;
    let columns = ["id", "purpose", "state", "scheme", "bits", "environment", "merchant", "kcv", "expires"];
    listing.print(&columns, keys.iter().map(described).collect());
    Ok(())
}

async fn show(desk: &Desk, id: &BdkId, json: bool) -> Result<(), Failure> {
    let key = known(desk, id).await?;
    facts(described(&key), json);
    Ok(())
}

fn described(key: &BdkRecord) -> Value {
    json!({
        "id": key.id.as_str(),
        "purpose": key.purpose.name(),
        "state": key.state.name(),
        "scheme": scheme_name(key.scheme),
        "bits": key.len.bits(),
        "environment": key.environment.name(),
        "merchant": key.merchant.as_ref().map(MerchantId::as_str),
        "kcv": key.kcv,
        "proof": key.proof.to_string(),
        "created_at": moment(key.created_at_ms),
        "activated_at": key.activated_at_ms.map(moment),
        "expires": key.expires_at_ms.map(moment),
    })
}

/// Registers public test keys and takes them into use, where that is still to be done.
pub(crate) async fn register_test_keys(desk: &Desk, keys: &[(BdkSpec, KeyBytes)]) -> Result<(), Failure> {
    let known = desk.store.bdks().await.stored("list the keys")?;
    for (spec, key) in keys {
        if known.iter().any(|known| known.id == spec.id) {
            continue;
        }
        let new = BdkRecord {
            id: spec.id.clone(),
            purpose: Purpose::Bdk,
            scheme: spec.scheme,
            len: spec.len,
            environment: desk.config.server.environment,
            merchant: None,
            kcv: Some(Kcv::of_bdk(spec.scheme, key).to_string()),
            proof: KeyProof::of(spec.scheme, key),
            state: State::PreActive,
            created_at_ms: now_ms(),
            activated_at_ms: None,
            expires_at_ms: None,
        };
        desk.registry.register_bdk(&new).await.stored("register a key")?;
        let moved = desk.registry.set_bdk_state(&new.id, State::Active, KeyReason::Planned, now_ms()).await;
        moved.stored("activate a key")?;
    }
    Ok(())
}
