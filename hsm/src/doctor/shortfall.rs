//! Why a server cannot run on a slot, in a line.

use warifu_core::merchant::BdkId;

use crate::DecryptionMode;

/// Something a server needs and its slot has not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// What every server needs.
    #[error("the slot has no {mechanism}, needed for {needed_for} ({cause})")]
    Service {
        /// The mechanism.
        mechanism: &'static str,
        /// What it is for.
        needed_for: &'static str,
        /// What came of trying it.
        cause: String,
    },
    /// What a key's mode needs.
    #[error("{bdk} cannot be used in {} mode: the slot has no {} ({cause})", mode.name(), missing_or_mode(missing))]
    Mode {
        /// The key.
        bdk: BdkId,
        /// The mode it is registered with.
        mode: DecryptionMode,
        /// What the mode lives on and the slot has not, where that is known.
        missing: Vec<&'static str>,
        /// What came of trying the mode.
        cause: String,
    },
}

fn missing_or_mode(missing: &[&str]) -> String {
    if missing.is_empty() { "such mode".to_owned() } else { missing.join(", no ") }
}
