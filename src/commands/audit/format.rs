//! The export file: JSON lines. A preface, the records of each log in order with the signed head after the last record
//! it covers, and a seal over every byte before it.

use serde::{Deserialize, Serialize};
use warifu_actors::store::audit::SignedHead;
use warifu_core::audit::{Hash, TreeHead};

/// Version of the format.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first.
    Preface(Preface),
    /// A record.
    Record(Entry),
    /// A signed head.
    Head(Head),
    /// The last.
    Seal(Seal),
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preface {
    /// [`VERSION`].
    pub(super) version: u32,
    /// When it was written, in milliseconds since 1970 UTC.
    pub(super) exported_at_ms: u64,
    /// Its logs, in the order they follow.
    pub(super) logs: Vec<Extent>,
}

/// How much of a log.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extent {
    /// Its name.
    pub(super) log: String,
    /// Its records, from 0.
    pub(super) records: u64,
}

/// A record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Of which log.
    pub(super) log: String,
    /// Its place.
    pub(super) seq: u64,
    /// Its leaf hash, as the server stored it.
    pub(super) leaf: String,
    /// Its bytes.
    pub(super) record: String,
}

/// A signed head.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) log: String,
    pub(super) size: u64,
    pub(super) root: String,
    pub(super) at_ms: u64,
    pub(super) signature: String,
    pub(super) public_key: String,
}

/// The HSM's signature over the rest of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    /// SHA-256 over every byte before this line.
    pub(super) sha256: String,
    pub(super) signature: String,
    pub(super) public_key: String,
}

impl Line {
    /// As it stands in the file, with its end.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a line is plain text and numbers");
        bytes.push(b'\n');
        bytes
    }
}

impl Seal {
    /// What is signed: the hash under a name of its own.
    pub(super) fn signed_bytes(sha256: &str) -> Vec<u8> {
        format!("warifu audit export v1\n{sha256}\n").into_bytes()
    }
}

impl Head {
    /// As the store keeps it.
    pub(super) fn of(signed: &SignedHead) -> Self {
        Self {
            log: signed.head.log.clone(),
            size: signed.head.size,
            root: signed.head.root.to_string(),
            at_ms: signed.head.at_ms,
            signature: hex::encode(signed.signature.0),
            public_key: hex::encode(signed.public_key),
        }
    }

    /// What was signed; `None` if the root is no hash.
    pub(super) fn tree_head(&self) -> Option<TreeHead> {
        let root = Hash::parse(&self.root)?;
        Some(TreeHead { log: self.log.clone(), size: self.size, root, at_ms: self.at_ms })
    }
}
