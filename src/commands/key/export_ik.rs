//! `warifu key export-ik`: a device's initial key for the facility that injects it, sealed under the facility's key; or for
//! the device itself, sealed under the update key of the initial key it has.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use warifu_actors::record::{Kind, Record};
use warifu_actors::store::{BdkRecord, DeviceRecord, IkExport};
use warifu_core::custody::{Purpose, State};
use warifu_core::device;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, DeviceId};
use warifu_hsm::pkcs11::KbpkSpec;
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode};

use super::known;
use super::new_file::NewFile;
use super::people::Company;
use crate::ceremony::attend;
use crate::commands::output::say;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::{custody, hsm};

#[derive(Args)]
pub(super) struct ExportIk {
    /// The device, which must be registered.
    #[arg(long, value_parser = DeviceId::parse)]
    device: DeviceId,
    /// The protection key of the injection facility, which must be active.
    #[arg(long, value_name = "ID", value_parser = BdkId::parse, required_unless_present = "update_of")]
    kbpk: Option<BdkId>,
    /// The registration of the device as it is now: the block is sealed under its update key (AES), and moves it to the initial
    /// key of --device.
    #[arg(long, value_name = "DEVICE", value_parser = DeviceId::parse, conflicts_with = "kbpk")]
    update_of: Option<DeviceId>,
    /// Where the key block goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Once more, for a device whose key has left before: takes a second custodian.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    company: Company,
}

impl ExportIk {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let (_, _, protection) = self.agreed(desk).await?;
        let out = NewFile::at(&self.out)?;
        let before = desk.store.ik_exports(&self.device).await.stored("look for earlier exports")?;
        if before > 0 && !self.again {
            let why = "the initial key of this device has left already; --again takes a second custodian";
            return Err(Failure::new(Exit::Refused, why));
        }

        let (dialogue, mut door) = self.company.assemble(desk).await?;
        let words = self.company.language();
        let custodians = if before > 0 { 2 } else { 1 };
        let what = words.exporting(self.device.as_str(), &protection.to_string());
        let people = attend(&what, custodians, words, dialogue, &mut door, now_ms);
        let people = match people {
            Ok(people) => people,
            Err(error) => {
                self.note(desk, Kind::CeremonyAbandoned, &error.to_string(), &CallTally::default()).await?;
                return Err(Failure::new(Exit::Refused, error));
            }
        };
        let roster = desk.store.custodians().await.stored("list the custodians")?;
        for (person, _) in &people {
            person.still(&roster).or_exit(Exit::Refused, "export the initial key")?;
        }
        // While they came, the device or a key may have been taken out of use, too.
        let (device, bdk, protection) = self.agreed(desk).await?;
        let names: Vec<&str> = people.iter().map(|(person, _)| person.id.as_str()).collect();

        // First it is written down that the key leaves, then it leaves.
        let export = IkExport {
            device: self.device.clone(),
            number: before + 1,
            under: protection.to_string(),
            at_ms: now_ms(),
            by: names.join(", "),
        };
        desk.registry.note_ik_export(&export).await.stored("write down that the key leaves")?;
        let (block, calls) =
            hsm::use_once(&desk.config.hsm, "derive and seal the initial key", |slot, _| match &protection {
                Protection::Facility(kbpk) => slot.export_initial_key(&spec(&bdk), &device.ksn_device, kbpk),
                Protection::UpdateKey { device: old, bdk: old_bdk } => {
                    slot.export_update((&spec(old_bdk), &old.ksn_device), (&spec(&bdk), &device.ksn_device))
                }
            });
        let kind = if block.is_ok() { Kind::HsmSessionOpened } else { Kind::HsmFailed };
        self.note(desk, kind, "initial key derived and sealed", &calls).await?;
        out.write(&format!("{}\n", block?))?;
        say(format_args!("initial key of {} written to {}", self.device, self.out.display()));
        Ok(())
    }
}

/// What the block is sealed under.
enum Protection {
    /// The key of an injection facility.
    Facility(KbpkSpec),
    /// The update key of the device as it is now.
    UpdateKey { device: DeviceRecord, bdk: Arc<BdkRecord> },
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Facility(kbpk) => kbpk.id.fmt(f),
            Self::UpdateKey { device, .. } => write!(f, "update key of {}", device.id),
        }
    }
}

impl ExportIk {
    /// The device, the key it was loaded from, and what its initial key is sealed under, if all of them are in use and the
    /// protection is as strong as what it protects.
    async fn agreed(&self, desk: &Desk) -> Result<(DeviceRecord, Arc<BdkRecord>, Protection), Failure> {
        let (device, bdk) = present(desk, &self.device).await?;
        let protection = self.protection(desk, &device).await?;
        let bits = match &protection {
            Protection::Facility(kbpk) => kbpk.len.bits(),
            Protection::UpdateKey { bdk, .. } => bdk.len.bits(),
        };
        if bdk.scheme == Scheme::Aes && bits < bdk.len.bits() {
            let needed = bdk.len.bits();
            return Err(Failure::new(
                Exit::Refused,
                format_args!("{protection} is weaker than the initial key: {bits} bits of {needed}"),
            ));
        }
        Ok((device, bdk, protection))
    }

    async fn protection(&self, desk: &Desk, device: &DeviceRecord) -> Result<Protection, Failure> {
        let refused = |why: fmt::Arguments<'_>| Err(Failure::new(Exit::Refused, why));
        match (&self.kbpk, &self.update_of) {
            (_, Some(old)) => {
                let (old, bdk) = present(desk, old).await?;
                if old.merchant != device.merchant {
                    return refused(format_args!("{} and {} are not one merchant's", old.id, device.id));
                }
                if old.ksn_device == device.ksn_device {
                    return refused(format_args!("{} has this initial key already", old.id));
                }
                if [old.ksn_device.scheme(), device.ksn_device.scheme()] != [Scheme::Aes; 2] {
                    return refused(format_args!("only devices of AES DUKPT have update keys: use --kbpk"));
                }
                Ok(Protection::UpdateKey { device: old, bdk })
            }
            (Some(kbpk), None) => {
                let kbpk = usable(desk, kbpk, Purpose::Kbpk, &[State::Active]).await?;
                if kbpk.merchant.as_ref().is_some_and(|merchant| *merchant != device.merchant) {
                    return refused(format_args!("the key {} is another merchant's", kbpk.id));
                }
                Ok(Protection::Facility(KbpkSpec { id: kbpk.id.clone(), len: kbpk.len, proof: kbpk.proof }))
            }
            (None, None) => Err(Failure::new(Exit::Usage, "--kbpk or --update-of")),
        }
    }

    async fn note(&self, desk: &Desk, kind: Kind, cause: &str, calls: &CallTally) -> Result<(), Failure> {
        let mut record = Record::new(u64::try_from(now_ms()).unwrap_or_default(), kind);
        record.device = Some(self.device.to_string());
        let record = record.because(cause).with_calls(calls);
        desk.registry.note(&record).await.stored("write the audit record")
    }
}

/// A device that is not out of use, and the key it was loaded from, which is not either.
async fn present(desk: &Desk, id: &DeviceId) -> Result<(DeviceRecord, Arc<BdkRecord>), Failure> {
    let device = desk.store.device(id).await.stored("look the device up")?;
    let device = device.ok_or_else(|| Failure::new(Exit::Refused, format_args!("there is no device {id}")))?;
    if device.state == device::State::Retired {
        return Err(Failure::new(Exit::Refused, format_args!("the device {id} is retired")));
    }
    let bdk = usable(desk, &device.bdk, Purpose::Bdk, &[State::PreActive, State::Active]).await?;
    Ok((device, bdk))
}

fn spec(bdk: &BdkRecord) -> BdkSpec {
    let mode = DecryptionMode::HostDerived;
    BdkSpec { id: bdk.id.clone(), scheme: bdk.scheme, len: bdk.len, mode, proof: Some(bdk.proof) }
}

async fn usable(desk: &Desk, id: &BdkId, purpose: Purpose, states: &[State]) -> Result<Arc<BdkRecord>, Failure> {
    let found = known(desk, id).await?;
    if found.purpose != purpose {
        return Err(Failure::new(Exit::Refused, format_args!("the key {id} is no {}", purpose.name())));
    }
    custody::belongs(&found, desk.config.server.environment)?;
    match states.contains(&found.state) {
        true => Ok(found),
        false => Err(Failure::new(Exit::Refused, format_args!("the key {id} is {}", found.state.name()))),
    }
}
