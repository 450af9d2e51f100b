//! A refusal on its way out: what the caller is told, and the true cause, which only the audit log learns.

use warifu_core::refusal::Refusal;

use crate::gate::GateError;
use crate::store::{Rejection, StoreError};

/// A refusal with its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// Why, in a constant text.
    pub cause: String,
    /// Whether the audit log has it already.
    pub recorded: Recorded,
}

/// Whether the audit log has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It has.
    Yes,
    /// Not yet.
    No,
}

impl Refused {
    /// A refusal the audit log has not.
    pub fn because(refusal: Refusal, cause: impl ToString) -> Self {
        Self { refusal, cause: cause.to_string(), recorded: Recorded::No }
    }

    /// A refusal the audit log has.
    pub fn recorded(refusal: Refusal, cause: impl ToString) -> Self {
        Self { recorded: Recorded::Yes, ..Self::because(refusal, cause) }
    }
}

impl From<GateError> for Refused {
    fn from(error: GateError) -> Self {
        Self::because(error.into(), error)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let refusal = match &error {
            StoreError::Busy => Refusal::Busy,
            StoreError::Stopped => Refusal::Draining,
            StoreError::Corrupt(_)
            | StoreError::Exists(_)
            | StoreError::InUse(_)
            | StoreError::NotFound(_)
            | StoreError::IllegalMove(_)
            | StoreError::IllegalKeyMove(_) => Refusal::Internal,
            StoreError::Unavailable { .. }
            | StoreError::Refused { .. }
            | StoreError::LogTaken
            | StoreError::LogChanged(_)
            | StoreError::Address(_) => Refusal::StoreUnavailable,
        };
        Self::because(refusal, with_source(&error))
    }
}

/// The writer has written a rejection down when it is told.
impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let refusal = match rejection {
            Rejection::RequestReused => Refusal::RequestIdReused,
            Rejection::Replayed => Refusal::FrameReplayed,
            Rejection::DeviceNotActive => Refusal::DeviceNotActive,
            Rejection::DeviceUnknown => Refusal::DeviceUnknown,
            Rejection::TokenCollision => Refusal::TokensExhausted,
            Rejection::VaultMoved => Refusal::Busy,
            Rejection::TokenWanted | Rejection::WrongState => Refusal::Internal,
        };
        Self::recorded(refusal, rejection)
    }
}

/// An error's text and those of its sources: all of them are constant texts or codes in this house.
pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
