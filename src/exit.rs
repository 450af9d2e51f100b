//! How a command ends: an exit code a script can tell apart, and a message a person can act on.

use std::fmt;
use std::process::ExitCode;

/// Exit codes, part of the command line's contract (`warifu --help` lists them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 1: the command ran and found or refused something: a changed audit record, an unknown device.
    Refused,
    /// 2: wrong usage, configuration or key files.
    Usage,
    /// 3: the HSM cannot be used.
    Hsm,
    /// 4: the data store cannot be used.
    Store,
    /// 5: an address cannot be listened on.
    Listen,
    /// 6: the server stopped with work still running when its drain time was over.
    Drain,
    /// 7: `hsm doctor`: the PKCS#11 module is not there, or cannot be loaded and initialized.
    Module,
    /// 70: a defect, or something nobody foresaw.
    Internal,
}

impl Exit {
    /// The number a shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Hsm => 3,
            Self::Store => 4,
            Self::Listen => 5,
            Self::Drain => 6,
            Self::Module => 7,
            Self::Internal => 70,
        }
    }
}

/// Why a command did not end well. Its text names what was attempted; no secret is in it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// Ends with this code and message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{message}") }
    }

    /// Which code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form of anyhow writes the chain of causes on one line.
        write!(f, "{:#}", self.error)
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        Self::from(failure.exit.code())
    }
}

/// Gives an error its exit code where it is known what was attempted.
pub trait Attempt<T> {
    /// `attempted` completes "could not ...".
    fn or_exit(self, exit: Exit, attempted: &str) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> Attempt<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, attempted: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into().context(format!("could not {attempted}")) })
    }
}
