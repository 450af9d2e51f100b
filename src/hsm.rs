//! The HSM as the whole process holds it: opened once, handed to the derivers, and closed last, so that the calls made
//! to close it are known and can be written down.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use warifu_core::secret::SecretBytes;
use warifu_hsm::doctor::{self, Report, Restriction, Shortfall, Standing};
use warifu_hsm::pkcs11::{Pin, Slot, SlotConfig, SlotFactory, vault_root_label};
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, Hsm, HsmError, HsmFactory, VaultSpec};

use crate::commands::vault::Needed;
use crate::config::{Config, HsmSettings};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::private;

/// Opens the HSM's slot; where that fails, `made` tells the calls made until then. Nothing is asked of it yet: what a
/// server lives on is tried when it starts, and a command sees from its answer whether it got one.
pub(crate) fn open_slot_counted(settings: &HsmSettings, made: &mut CallTally) -> Result<Slot, Failure> {
    Slot::open_untried(slot_config(settings)?, made).or_exit(Exit::Hsm, "open the HSM")
}

/// Where the slot is, and what opens it.
pub(crate) fn slot_config(settings: &HsmSettings) -> Result<SlotConfig, Failure> {
    Ok(SlotConfig {
        module: settings.module.clone(),
        module_arguments: settings.module_arguments.clone(),
        token_label: settings.token_label.clone(),
        pin: read_pin(&settings.pin_file)?,
        cache_nodes: settings.cache_nodes,
        accept_non_p2pe: settings.accept_non_p2pe,
    })
}

/// Reads a PIN out of a file that is private, without the line end editors add.
pub(crate) fn read_pin(file: &Path) -> Result<Pin, Failure> {
    let read = || -> io::Result<Pin> {
        let text = private::read(file)?;
        Ok(Pin::new(SecretBytes::copied(text.trim_ascii_end())))
    };
    read().or_exit(Exit::Usage, &format!("read the HSM's PIN in {}", file.display()))
}

/// One use of the HSM by a command, to do `what`: opens the slot and a session, asks, closes. The calls are told whatever
/// came of it.
pub(crate) fn use_once<T>(
    settings: &HsmSettings,
    what: &str,
    ask: impl FnOnce(&Slot, &mut dyn Hsm) -> Result<T, HsmError>,
) -> (Result<T, Failure>, CallTally) {
    let mut calls = CallTally::default();
    let slot = match open_slot_counted(settings, &mut calls) {
        Ok(slot) => slot,
        Err(failure) => return (Err(failure), calls),
    };
    let answer = slot.session(&[]).and_then(|mut session| {
        let answer = ask(&slot, &mut session);
        calls.add(&session.take_calls());
        answer
    });
    calls.add(&slot.take_calls());
    calls.add(&close_slot(slot));
    (answer.or_exit(Exit::Hsm, what), calls)
}

/// Closes a slot nobody uses any more, and tells the calls that took.
pub(crate) fn close_slot(slot: Slot) -> CallTally {
    slot.close().unwrap_or_else(|error| {
        tracing::warn!(%error, "the HSM was not closed in order");
        CallTally::default()
    })
}

/// The HSM of a server.
pub(crate) enum Backend {
    /// A slot, the door to it, what was found of it, and the public half of its audit key.
    Pkcs11 { slot: Slot, door: Arc<Door>, report: Box<Report>, audit_key: [u8; 65] },
    /// Keys in this process: to measure the server beside them.
    Software(SoftwareSlot),
}

impl Backend {
    /// The software backend if there is one, else the configured slot, which is examined: it must be able to open frames as
    /// every key is registered. Where that fails, `made` tells the calls made.
    pub(crate) fn open(
        config: &Config,
        vaults: &[Needed],
        software: Option<SoftwareSlot>,
        made: &mut CallTally,
    ) -> Result<Self, Failure> {
        match software {
            Some(keys) => Ok(Self::Software(keys)),
            None => {
                let slot = open_slot_counted(&config.hsm, made)?;
                let examined = examined(&slot, &config.bdks);
                let own = |report| {
                    let keys = own_keys(&slot, vaults).or_exit(Exit::Hsm, "find the vault keys and the audit key")?;
                    Ok((report, keys))
                };
                match examined.and_then(own) {
                    Ok((report, audit_key)) => {
                        let vaults = vaults.iter().map(|needed| needed.spec).collect();
                        let door = Door::new(&slot, config.bdks.clone(), vaults);
                        Ok(Self::Pkcs11 { slot, door, report: Box::new(report), audit_key })
                    }
                    Err(failure) => {
                        made.add(&slot.take_calls());
                        made.add(&close_slot(slot));
                        Err(failure)
                    }
                }
            }
        }
    }

    /// What opens sessions.
    pub(crate) fn factory(&self) -> Arc<dyn HsmFactory> {
        match self {
            Self::Pkcs11 { door, .. } => Arc::<Door>::clone(door),
            Self::Software(keys) => Arc::new(keys.clone()),
        }
    }

    /// What was found of it, in a few words, by name; nothing of keys in this process.
    pub(crate) fn found(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Pkcs11 { report, .. } => found(report),
            Self::Software(_) => Vec::new(),
        }
    }

    /// The public half of the audit key; none of keys in this process, which sign for nobody after it.
    pub(crate) fn audit_key(&self) -> Option<[u8; 65]> {
        match self {
            Self::Pkcs11 { audit_key, .. } => Some(*audit_key),
            Self::Software(_) => None,
        }
    }

    /// Closes it, and tells the calls nobody else tells.
    pub(crate) fn close(self) -> CallTally {
        match self {
            Self::Pkcs11 { slot, door, .. } => {
                let mut calls = door.close();
                drop(door);
                calls.add(&close_slot(slot));
                calls
            }
            Self::Software(_) => CallTally::default(),
        }
    }
}

/// Examines a slot before it is trusted with these keys.
fn examined(slot: &Slot, bdks: &[BdkSpec]) -> Result<Report, Failure> {
    let report = doctor::examine(slot).or_exit(Exit::Hsm, "examine the HSM")?;
    let shortfalls: Vec<String> = report.shortfalls(bdks).iter().map(Shortfall::to_string).collect();
    if !shortfalls.is_empty() {
        let all = shortfalls.join("; ");
        return Err(Failure::new(Exit::Hsm, format_args!("the server cannot run on this HSM: {all}")));
    }
    if report.standing == Standing::NotForProduction {
        tracing::warn!(token = report.slot.model, "NOT FOR PRODUCTION: the HSM is a token in software");
    }
    Ok(report)
}

/// Makes sure of the vault keys that tokens are sealed and known by, and of no others in their place; gives the public half
/// of the audit key.
pub(crate) fn own_keys(slot: &Slot, vaults: &[Needed]) -> Result<[u8; 65], HsmError> {
    let specs: Vec<_> = vaults.iter().map(|needed| needed.spec).collect();
    let mut session = slot.session_with(&[], &specs)?;
    for Needed { spec, made } in vaults {
        session.has_vault(spec.generation)?;
        let mut unwrapped = made.is_empty();
        for key in made {
            unwrapped = unwrapped || session.unwraps(key)?;
        }
        if !unwrapped {
            let label = vault_root_label(spec.generation);
            return Err(HsmError::KeyUnfit {
                label,
                reason: "it is not the one merchants' vault keys were made under",
            });
        }
    }
    session.audit_public_key()
}

/// What the audit log says of an examination.
pub(crate) fn found(report: &Report) -> Vec<(&'static str, String)> {
    let modes: Vec<&str> = report.running().map(DecryptionMode::name).collect();
    let held = Restriction::ALL.into_iter().filter(|restriction| report.enforces(*restriction));
    let held: Vec<&str> = held.map(Restriction::name).collect();
    vec![
        (
            "module",
            format!("{} {} by {}", report.module.description, report.module.version, report.module.manufacturer),
        ),
        ("token", format!("{}, {} {}", report.slot.token_label, report.slot.model, report.slot.serial)),
        ("firmware", report.slot.firmware.clone()),
        ("standing", report.standing.to_string()),
        ("modes", modes.join(" ")),
        ("enforces", held.join("; ")),
    ]
}

/// Opens sessions for the derivers until it is closed.
pub(crate) struct Door {
    factory: Mutex<Option<Arc<SlotFactory>>>,
}

impl Door {
    /// In front of a slot, with these keys.
    pub(crate) fn new(slot: &Slot, bdks: Vec<BdkSpec>, vaults: Vec<VaultSpec>) -> Arc<Self> {
        Arc::new(Self { factory: Mutex::new(Some(Arc::new(slot.factory(bdks, vaults)))) })
    }

    /// Lets nobody in any more; gives the calls nobody has asked for.
    pub(crate) fn close(&self) -> CallTally {
        self.factory().take().map(|factory| factory.take_calls()).unwrap_or_default()
    }

    /// Never locked while the HSM is asked: a call that hangs would hold up everybody else. A panic elsewhere cannot
    /// leave it half changed.
    fn factory(&self) -> MutexGuard<'_, Option<Arc<SlotFactory>>> {
        self.factory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HsmFactory for Door {
    fn session(&self) -> Result<Box<dyn Hsm>, HsmError> {
        let factory = self.factory().clone().ok_or(HsmError::StillInUse)?;
        factory.session()
    }

    fn take_calls(&self) -> CallTally {
        let factory = self.factory().clone();
        factory.map(|factory| factory.take_calls()).unwrap_or_default()
    }
}
