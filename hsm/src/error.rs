//! What can go wrong when the HSM is asked.

use warifu_core::account_data::AccountDataError;
use warifu_core::custody::KeyProof;
use warifu_core::key_block::WrapError;
use warifu_core::merchant::BdkId;

use crate::DecryptionMode;

/// Why an HSM request failed. PKCS#11 errors keep the function's name and the `CKR_` value.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// The session was not given this key.
    #[error("no base derivation key {0} in this HSM session")]
    UnknownBdk(BdkId),
    /// The frame's MAC is wrong, or the ciphertext could not be decrypted as such.
    #[error("the frame's MAC is wrong")]
    WrongMac,
    /// The frame's suite does not fit the key's scheme, length or mode.
    #[error("the frame's keys do not fit the base derivation key {0}")]
    SuiteMismatch(BdkId),
    /// The frame opened to something that is no card.
    #[error("the frame does not open to a card")]
    Card(#[source] AccountDataError),
    /// A sealed card number or wrapped key does not belong here, or was changed.
    #[error("a sealed value does not open: it was changed, or belongs to another merchant or token")]
    Sealed,
    /// A key the server needs is not in the slot. An outage, never taken for a deletion.
    #[error("the slot holds no key labelled {label:?}")]
    KeyMissing {
        /// The label looked for.
        label: String,
    },
    /// Two objects answer to one label.
    #[error("the slot holds more than one key labelled {label:?}")]
    KeyAmbiguous {
        /// The label looked for.
        label: String,
    },
    /// A key has an attribute that defeats its purpose.
    #[error("the key labelled {label:?} must not be used: {reason}")]
    KeyUnfit {
        /// Its label.
        label: String,
        /// Which attribute, in PKCS#11's words.
        reason: &'static str,
    },
    /// Another key answers to a label than the one registered under it.
    #[error("the key labelled {label:?} is not the registered one: its proof is {found}, registered is {registered}{}", others(is.as_ref()))]
    KeyReplaced {
        /// Its label.
        label: String,
        /// Its proof.
        found: KeyProof,
        /// The proof of the key that should be there.
        registered: KeyProof,
        /// The id the found key is registered under, where it is one of the others: labels were swapped.
        is: Option<BdkId>,
    },
    /// The slot gave a wrong answer to a question with a known one.
    #[error("the slot failed its self-test: {0}")]
    SelfTest(&'static str),
    /// The slot already holds something under this label; nothing is ever replaced.
    #[error("the label {label:?} is taken")]
    KeyExists {
        /// The label asked for.
        label: String,
    },
    /// The configured mode cannot or may not be used with this key.
    #[error("{bdk} cannot be used in {} mode: {reason}", mode.name())]
    ModeRefused {
        /// The key.
        bdk: BdkId,
        /// The mode it is registered with.
        mode: DecryptionMode,
        /// Why not.
        reason: &'static str,
    },
    /// A slot was to be closed while sessions or clones of it live.
    #[error("the slot is still in use")]
    StillInUse,
    /// A key cannot be put into a key block.
    #[error("the key block")]
    KeyBlock(#[source] WrapError),
    /// A PKCS#11 function failed.
    #[error("{function} failed: {ckr} (0x{code:08X})")]
    Pkcs11 {
        /// The function.
        function: &'static str,
        /// The name of its return value.
        ckr: &'static str,
        /// The value.
        code: u64,
    },
    /// The token refused the PIN. Nobody tries it again before the next start: the token counts, and locks.
    #[error("the token refused the PIN: {ckr} (0x{code:08X})")]
    PinRefused {
        /// The name of what `C_Login` gave.
        ckr: &'static str,
        /// The value.
        code: u64,
    },
    /// The module could not be loaded or refused to start.
    #[error("the PKCS#11 module {path} could not be used: {cause}")]
    Module {
        /// Its path.
        path: String,
        /// What the loader or module said.
        cause: String,
    },
    /// No slot answers to the configured label or serial.
    #[error("no slot holds a token labelled {label:?}")]
    SlotMissing {
        /// The label looked for.
        label: String,
    },
}

fn others(id: Option<&BdkId>) -> String {
    id.map(|id| format!("; it is the key registered as {id}: labels were swapped")).unwrap_or_default()
}

impl HsmError {
    /// Whether the HSM is away or broken, as against the request being bad. After an outage the session is rebuilt.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::UnknownBdk(_)
            | Self::WrongMac
            | Self::SuiteMismatch(_)
            | Self::Card(_)
            | Self::Sealed
            | Self::KeyBlock(_)
            | Self::KeyExists { .. }
            | Self::StillInUse => false,
            Self::KeyMissing { .. }
            | Self::KeyAmbiguous { .. }
            | Self::KeyUnfit { .. }
            | Self::KeyReplaced { .. }
            | Self::ModeRefused { .. }
            | Self::SelfTest(_)
            | Self::Pkcs11 { .. }
            | Self::PinRefused { .. }
            | Self::Module { .. }
            | Self::SlotMissing { .. } => true,
        }
    }
}
