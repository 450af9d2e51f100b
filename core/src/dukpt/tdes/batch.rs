//! Many records at once: the same keys and the same clear text as one by one, for a fraction of the time of each.
//!
//! Records may belong to different devices and be of any number, lengths of way and lengths of text. A call takes as
//! long as its longest way for every few hundred records, so it is worth while to ask for many.
//!
//! # Panics
//! Every function here panics when a key has not [`KEY_LEN`], as those for one record do, and when the
//! processor does not have the path.

pub use super::super::des::Path;
use super::super::des::{Job, work};
use super::super::is_on_path;
use super::{KEY_LEN, exposed, register};
use crate::cipher::CipherError;
use crate::key::{KeyBytes, TdesKey};
use crate::ksn::TdesKsn;
use crate::secret::SecretBytes;

/// The way from a key of the tree to the key of a KSN's counter.
pub struct Walk<'a> {
    key: &'a KeyBytes,
    node: u32,
    ksn: TdesKsn,
}

impl<'a> Walk<'a> {
    /// From the initial key.
    pub fn from_root(ik: &'a KeyBytes, ksn: TdesKsn) -> Self {
        Self { key: ik, node: 0, ksn }
    }

    /// From the key at counter `node` of the KSN's device; `None` if that is not on the way to the KSN's counter.
    pub fn below(key: &'a KeyBytes, node: u32, ksn: TdesKsn) -> Option<Self> {
        is_on_path(node, ksn.raw_counter()).then_some(Self { key, node, ksn })
    }

    fn job(&self) -> Job<'a> {
        Job { node: self.node, counter: self.ksn.raw_counter(), register: register(&self.ksn, 0), ..at_rest(self.key) }
    }
}

/// A record to open: the way to its transaction key, the working key it was sealed under, and its sections, each
/// encrypted on its own by CBC with a zero IV.
pub struct Record<'a> {
    /// The way to the transaction key.
    pub walk: Walk<'a>,
    /// Which key of the transaction it was sealed under.
    pub key: TdesKey,
    /// Its sections, decrypted in place.
    pub sections: &'a mut [SecretBytes],
}

/// Sections under a key that is already at hand.
pub struct Sealed<'a> {
    /// The working key.
    pub key: &'a KeyBytes,
    /// Its sections, decrypted in place.
    pub sections: &'a mut [SecretBytes],
}

/// The transaction key of each walk, in their order: [`transaction_key`](super::transaction_key) of many.
pub fn transaction_keys(path: Path, walks: &[Walk<'_>]) -> Vec<KeyBytes> {
    derived(path, walks.iter().map(Walk::job))
}

/// The working key of each transaction key, in their order: [`working_key`](super::working_key) of many.
pub fn working_keys(path: Path, keys: &[(&KeyBytes, TdesKey)]) -> Vec<KeyBytes> {
    derived(path, keys.iter().map(|(key, working)| Job { working: Some(*working), ..at_rest(key) }))
}

/// Decrypts the sections of each message in place, triple-DES-CBC with a zero IV for each section.
///
/// # Errors
/// [`CipherError::NotWholeBlocks`] when any section is not of whole blocks; none was decrypted then.
pub fn cbc_decrypt(path: Path, messages: &mut [Sealed<'_>]) -> Result<(), CipherError> {
    messages.iter().try_for_each(|message| whole(message.sections))?;
    let mut jobs: Vec<Job<'_>> =
        messages.iter_mut().map(|message| Job { sections: &mut *message.sections, ..at_rest(message.key) }).collect();
    work(path, &mut jobs);
    Ok(())
}

/// Opens records: down to each one's transaction key, its working key, and its sections decrypted in place. No key
/// leaves the lanes on the way.
///
/// # Errors
/// [`CipherError::NotWholeBlocks`] when any section is not of whole blocks; nothing was done then.
pub fn open(path: Path, records: &mut [Record<'_>]) -> Result<(), CipherError> {
    records.iter().try_for_each(|record| whole(record.sections))?;
    let mut jobs: Vec<Job<'_>> = records
        .iter_mut()
        .map(|record| Job { working: Some(record.key), sections: &mut *record.sections, ..record.walk.job() })
        .collect();
    work(path, &mut jobs);
    Ok(())
}

fn whole(sections: &[SecretBytes]) -> Result<(), CipherError> {
    if sections.iter().all(|section| section.len().is_multiple_of(8)) {
        Ok(())
    } else {
        Err(CipherError::NotWholeBlocks)
    }
}

/// A key with nothing to do.
fn at_rest(key: &KeyBytes) -> Job<'_> {
    Job { key: exposed(key), node: 0, counter: 0, register: 0, working: None, result: None, sections: &mut [] }
}

/// What the jobs make of their keys. The results are made where they stay, so no copy is left behind by moving them.
fn derived<'a>(path: Path, jobs: impl ExactSizeIterator<Item = Job<'a>>) -> Vec<KeyBytes> {
    let mut keys: Vec<KeyBytes> = (0..jobs.len()).map(|_| KeyBytes::filled(KEY_LEN, |_| {})).collect();
    let mut jobs: Vec<Job<'_>> =
        jobs.zip(&mut keys).map(|(job, key)| Job { result: key.expose_mut().try_into().ok(), ..job }).collect();
    work(path, &mut jobs);
    drop(jobs);
    keys
}
