//! What a device keeps when it is switched off: its registers and its next counter.
//!
//! The file holds keys in clear and says so in its first line. A real device keeps them in tamper-responding
//! memory; this is an emulator, for test keys only. The file is for its owner alone (mode 0600), is replaced whole,
//! is on the disk before the frame that spent a key leaves, and belongs to one running device at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::secret::SecretBytes;

use crate::dukpt::{DukptError, Originator, aes, tdes};

/// The first line.
const HEAD: &str = "warifu device-emu state 2: KEYS OF AN EMULATED DEVICE IN CLEAR, never load a real key";
/// Longer than any state.
const LONGEST: usize = 8192;

/// Where one running device keeps its state.
pub struct StateFile {
    path: PathBuf,
    /// Held as long as the device runs.
    _lock: File,
}

/// Why the state could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("the state file could not be {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another device runs on this file: together they would use counters twice.
    #[error("another emulator is using this state file")]
    InUse,
    /// Others may read the keys.
    #[error("the state file may be read by others: its mode must be 0600")]
    Mode,
    /// The file is not a state, or was cut short.
    #[error("the state file is not one of this emulator, or is damaged")]
    Damaged,
    /// Its registers do not belong together.
    #[error(transparent)]
    Dukpt(#[from] DukptError),
}

impl StateFile {
    /// Takes the file for this process; its folder is made if it is missing.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("given a folder"))?;
        }
        let beside = beside(path, "lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(beside).map_err(failed("locked"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse),
            Err(TryLockError::Error(source)) => Err(StateError::Io { action: "locked", source }),
        }
    }

    /// The device that was saved here, or `None` if none was.
    pub fn load(&self) -> Result<Option<Originator>, StateError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { action: "opened", source }),
        };
        let facts = file.metadata().map_err(failed("read"))?;
        if facts.permissions().mode() & 0o077 != 0 {
            return Err(StateError::Mode);
        }
        let len = usize::try_from(facts.len()).ok().filter(|len| *len <= LONGEST).ok_or(StateError::Damaged)?;
        let mut outcome = Ok(());
        let text = SecretBytes::filled(len, |text| outcome = file.read_exact(text));
        outcome.map_err(failed("read"))?;
        parse(text.expose()).map(Some)
    }

    /// Puts the state of a device in place of the one before, on the disk before this returns.
    pub fn save(&mut self, originator: &Originator) -> Result<(), StateError> {
        let text = written(originator)?;
        let fresh = beside(&self.path, "new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed("written"))?;
        file.write_all(text.expose()).and_then(|()| file.sync_all()).map_err(failed("written"))?;
        std::fs::rename(&fresh, &self.path).map_err(failed("replaced"))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed("replaced"))
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io { action, source }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Head, scheme, device, next counter, the update key of an AES device, then one line for each register, the lowest first;
/// every line ends.
fn written(originator: &Originator) -> Result<SecretBytes, StateError> {
    let scheme = match originator.scheme() {
        Scheme::Aes => "aes",
        Scheme::Tdes => "tdes",
    };
    let next = originator.next_counter().map_or("exhausted".to_owned(), |next| format!("{next:08X}"));
    let head = format!("{HEAD}\nscheme {scheme}\ndevice {}\nnext {next}\n", originator.device());
    let update_key = match originator {
        Originator::Aes(originator) => Some(Some(originator.update_key())),
        Originator::Tdes(_) => None,
    };
    let keys = || update_key.into_iter().chain(originator.registers().keys());
    let body: usize = keys().map(|key| key.map_or(1, |key| key.expose().len() * 2) + 1).sum();
    let mut fits = Ok(());
    let text = SecretBytes::filled(head.len() + body, |text| {
        let (start, mut rest) = text.split_at_mut(head.len());
        start.copy_from_slice(head.as_bytes());
        for key in keys() {
            let len = key.map_or(1, |key| key.expose().len() * 2);
            let (line, after) = std::mem::take(&mut rest).split_at_mut(len + 1);
            line.fill(b'-');
            line[len] = b'\n';
            if let Some(key) = key {
                fits = fits.and(hex::encode_to_slice(key.expose(), &mut line[..len]));
            }
            rest = after;
        }
    });
    fits.map_err(|_| StateError::Damaged)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Result<Originator, StateError> {
    let body = text.strip_suffix(b"\n").ok_or(StateError::Damaged)?;
    let mut lines = body.split(|byte| *byte == b'\n');
    let mut line = |start: &str| {
        let line = lines.next().and_then(|line| std::str::from_utf8(line).ok());
        line.and_then(|line| line.strip_prefix(start)).ok_or(StateError::Damaged)
    };
    line(HEAD)?;
    let scheme = match line("scheme ")? {
        "aes" => Scheme::Aes,
        "tdes" => Scheme::Tdes,
        _ => return Err(StateError::Damaged),
    };
    let device = hex::decode(line("device ")?).map_err(|_| StateError::Damaged)?;
    let next = match line("next ")? {
        "exhausted" => None,
        next => Some(u32::from_str_radix(next, 16).map_err(|_| StateError::Damaged)?),
    };
    let mut keys = lines.map(register);
    Ok(match Ksn::parse(scheme, &device).map_err(|_| StateError::Damaged)? {
        Ksn::Aes(ksn) => {
            let update_key = keys.next().ok_or(StateError::Damaged)??.ok_or(StateError::Damaged)?;
            let saved = keys.collect::<Result<_, _>>()?;
            Originator::Aes(aes::Originator::restore(&ksn, saved, next, update_key)?)
        }
        Ksn::Tdes(ksn) => {
            let saved = keys.collect::<Result<_, _>>()?;
            Originator::Tdes(tdes::Originator::restore(&ksn, saved, next)?)
        }
    })
}

fn register(line: &[u8]) -> Result<Option<KeyBytes>, StateError> {
    if line == b"-" {
        return Ok(None);
    }
    let len = KeyLen::try_from(line.len() / 2).map_err(|_| StateError::Damaged)?;
    let mut fits = Ok(());
    let key = KeyBytes::filled(len, |key| fits = hex::decode_to_slice(line, key));
    fits.map_err(|_| StateError::Damaged)?;
    Ok(Some(key))
}
