//! The HSM as the whole process holds it: opened once, handed to the derivers, and closed last, so that the calls made
//! to close it are known and can be written down.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use warifu_core::secret::SecretBytes;
use warifu_hsm::pkcs11::{Pin, Slot, SlotConfig, SlotFactory};
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{BdkSpec, CallTally, Hsm, HsmError, HsmFactory};

use crate::config::{Config, HsmSettings};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::private;

/// Opens the HSM's slot; where that fails, `made` tells the calls made until then. Nothing is asked of it yet: what a
/// server lives on is tried when it starts, and a command sees from its answer whether it got one.
pub(crate) fn open_slot_counted(settings: &HsmSettings, made: &mut CallTally) -> Result<Slot, Failure> {
    let config = SlotConfig {
        module: settings.module.clone(),
        module_arguments: settings.module_arguments.clone(),
        token_label: settings.token_label.clone(),
        pin: read_pin(&settings.pin_file)?,
        cache_nodes: settings.cache_nodes,
        accept_non_p2pe: settings.accept_non_p2pe,
    };
    open(config, made)
}

/// Opens a slot that is described elsewhere than in the configuration.
pub(crate) fn open(config: SlotConfig, made: &mut CallTally) -> Result<Slot, Failure> {
    let opened = Slot::open_untried(config, made);
    // A module that is not there is the installer's to mend, a slot the key custodians'.
    let exit = if matches!(opened, Err(HsmError::Module { .. })) { Exit::Module } else { Exit::Hsm };
    opened.or_exit(exit, "open the HSM")
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
    /// A slot, and the door to it.
    Pkcs11 { slot: Slot, door: Arc<Door> },
    /// Keys in this process: to measure the server beside them.
    Software(SoftwareSlot),
}

impl Backend {
    /// The software backend if there is one, else the configured slot; where that fails, `made` tells the calls made.
    pub(crate) fn open(config: &Config, software: Option<SoftwareSlot>, made: &mut CallTally) -> Result<Self, Failure> {
        match software {
            Some(keys) => Ok(Self::Software(keys)),
            None => {
                let slot = open_slot_counted(&config.hsm, made)?;
                let door = Door::new(&slot, config.bdks.clone());
                Ok(Self::Pkcs11 { slot, door })
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

    /// Closes it, and tells the calls nobody else tells.
    pub(crate) fn close(self) -> CallTally {
        match self {
            Self::Pkcs11 { slot, door } => {
                let mut calls = door.close();
                drop(door);
                calls.add(&close_slot(slot));
                calls
            }
            Self::Software(_) => CallTally::default(),
        }
    }
}

/// Opens sessions for the derivers until it is closed.
pub(crate) struct Door {
    factory: Mutex<Option<Arc<SlotFactory>>>,
}

impl Door {
    /// In front of a slot, with these base derivation keys.
    pub(crate) fn new(slot: &Slot, bdks: Vec<BdkSpec>) -> Arc<Self> {
        Arc::new(Self { factory: Mutex::new(Some(Arc::new(slot.factory(bdks)))) })
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
