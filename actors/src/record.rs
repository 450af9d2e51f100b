//! An audit record: one line of JSON, hashed as it is stored.
//!
//! Fields are ids, masks, counts and causes from closed lists, so that no record can carry a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use warifu_hsm::CallTally;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// What, a past participle after its subject: `frame.opened`.
    pub kind: Kind,
    /// Whose merchant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<String>,
    /// Through which module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Under which of the caller's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// By which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Under which key serial number, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ksn: Option<String>,
    /// About which base derivation key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// In which decryption mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// About which payment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    /// The true cause of a refusal or failure, a constant text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What was found of the HSM, by name: module, token, firmware, modes, enforcement.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, String>,
    /// The calls this made to the HSM's module, by function.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, u32>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The server process began; names the version and the modes it runs.
    #[serde(rename = "server.started")]
    ServerStarted,
    /// The server process ended in order.
    #[serde(rename = "server.stopped")]
    ServerStopped,
    /// The HSM was examined: at start, or by the doctor. Says what was found.
    #[serde(rename = "hsm.examined")]
    HsmExamined,
    /// A window opened in which the HSM may be used; each use has its own record after it.
    #[serde(rename = "hsm.window_opened")]
    HsmWindowOpened,
    /// An HSM session was opened: start-up, or after a failure.
    #[serde(rename = "hsm.session_opened")]
    HsmSessionOpened,
    /// An HSM request failed.
    #[serde(rename = "hsm.failed")]
    HsmFailed,
    /// A frame was opened to a card.
    #[serde(rename = "frame.opened")]
    FrameOpened,
    /// A frame was refused.
    #[serde(rename = "frame.refused")]
    FrameRefused,
    /// A card number was sealed for a new token.
    #[serde(rename = "card.sealed")]
    CardSealed,
    /// A vault key was made for a merchant.
    #[serde(rename = "vault_key.created")]
    VaultKeyCreated,
    /// Card numbers were sealed anew under a merchant's next vault key; the cause tells how many.
    #[serde(rename = "cards.resealed")]
    CardsResealed,
    /// The tree head was signed.
    #[serde(rename = "audit.signed")]
    AuditSigned,
    /// A request was refused.
    #[serde(rename = "request.refused")]
    RequestRefused,
    /// A token was issued or found for a card.
    #[serde(rename = "token.issued")]
    TokenIssued,
    /// A payment was written down and sent.
    #[serde(rename = "payment.sent")]
    PaymentSent,
    /// A payment moved to another state.
    #[serde(rename = "payment.moved")]
    PaymentMoved,
    /// A module's link opened.
    #[serde(rename = "module.linked")]
    ModuleLinked,
    /// A module's link closed.
    #[serde(rename = "module.unlinked")]
    ModuleUnlinked,
    /// A caller was not let in.
    #[serde(rename = "caller.refused")]
    CallerRefused,
    /// The registry of merchants, modules or devices changed.
    #[serde(rename = "registry.changed")]
    RegistryChanged,
    /// A device's initial key left the HSM in a key block; the key names its protection key.
    #[serde(rename = "initial_key.exported")]
    InitialKeyExported,
    /// A key ceremony was held to its end; the cause names its transcript.
    #[serde(rename = "ceremony.held")]
    CeremonyHeld,
    /// A key ceremony was given up.
    #[serde(rename = "ceremony.abandoned")]
    CeremonyAbandoned,
    /// A device was suspended by the server itself.
    #[serde(rename = "device.quarantined")]
    DeviceQuarantined,
}

impl Record {
    /// A record with nothing but its time and kind.
    pub fn new(at_ms: u64, kind: Kind) -> Self {
        Self {
            at_ms,
            kind,
            merchant: None,
            module: None,
            request: None,
            device: None,
            ksn: None,
            key: None,
            mode: None,
            payment: None,
            cause: None,
            found: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Adds the calls made to the HSM's module.
    #[must_use]
    pub fn with_calls(mut self, calls: &CallTally) -> Self {
        for (function, times) in calls.iter() {
            *self.calls.entry(function.to_owned()).or_default() += times;
        }
        self
    }

    /// Adds what was found of the HSM.
    #[must_use]
    pub fn with_found<N: Into<String>>(mut self, found: impl IntoIterator<Item = (N, String)>) -> Self {
        self.found.extend(found.into_iter().map(|(name, what)| (name.into(), what)));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl ToString) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// The bytes that are stored and hashed.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a record is plain text and numbers")
    }
}
