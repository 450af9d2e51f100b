//! What came of trying mechanisms and modes.

use std::fmt;

use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;

use crate::{DecryptionMode, HsmError};

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It gave the known answer.
    Works,
    /// It did not; what was said instead.
    Fails(String),
}

/// Who cannot do without a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every server.
    Server,
    /// Those with a key in a mode that lives on it.
    Mode,
    /// Whoever makes keys with this program.
    Provisioning,
    /// Nobody: it is done on the host where it is missing.
    Nobody,
}

/// A mechanism that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MechanismFinding {
    /// Its name in PKCS#11, or the function's where no mechanism is named.
    pub name: &'static str,
    /// What cannot be done without it.
    pub needed_for: &'static str,
    /// By whom.
    pub need: Need,
    /// What came of it.
    pub finding: Finding,
}

/// A mode that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeFinding {
    /// The mode.
    pub mode: DecryptionMode,
    /// For which DUKPT.
    pub scheme: Scheme,
    /// For keys of which length.
    pub len: KeyLen,
    /// Whether frames can be opened so.
    pub finding: Finding,
    /// What it lives on and the slot has not.
    pub missing: Vec<&'static str>,
}

impl Finding {
    pub(super) fn of(outcome: Result<(), HsmError>) -> Self {
        match outcome {
            Ok(()) => Self::Works,
            Err(HsmError::SelfTest(what)) => Self::Fails(what.to_owned()),
            Err(other) => Self::Fails(other.to_string()),
        }
    }

    /// Works if both do.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Works { other } else { self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Fails(what) => write!(f, "FAILS: {what}"),
        }
    }
}
