//! Restrictions a key is made with, and whether a slot holds to them.

use std::fmt;

use crate::pkcs11::{HsmSession, policy};

/// Something a slot may be told not to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// What is derived from a key that may not leave does not leave either.
    DerivedKeysStay,
    /// A key that may not leave is not wrapped.
    KeysAreNotWrapped,
    /// A key made with `CKA_ALLOWED_MECHANISMS` does nothing else.
    AllowedMechanisms,
    /// What is derived from a key made with `CKA_DERIVE_TEMPLATE` is as that says.
    DeriveTemplate,
}

/// Whether a slot holds to a restriction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// It refused what is forbidden, and did what is not.
    Enforced,
    /// It took the restriction, and did what is forbidden.
    NotEnforced,
    /// It takes no such restriction; what it said.
    NotSupported(String),
    /// It cannot do what would have to be tried; what it said.
    Untried(String),
}

/// A restriction that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestrictionFinding {
    /// Which.
    pub restriction: Restriction,
    /// What came of it.
    pub enforcement: Enforcement,
}

impl Restriction {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::DerivedKeysStay, Self::KeysAreNotWrapped, Self::AllowedMechanisms, Self::DeriveTemplate];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DerivedKeysStay => "CKA_EXTRACTABLE, derived",
            Self::KeysAreNotWrapped => "CKA_EXTRACTABLE, wrapped",
            Self::AllowedMechanisms => "CKA_ALLOWED_MECHANISMS",
            Self::DeriveTemplate => "CKA_DERIVE_TEMPLATE",
        }
    }

    /// What it is good for.
    pub const fn means(self) -> &'static str {
        match self {
            Self::DerivedKeysStay => "derived keys cannot leave",
            Self::KeysAreNotWrapped => "keys cannot be wrapped",
            Self::AllowedMechanisms => "keys do one thing only",
            Self::DeriveTemplate => "keys say what they become",
        }
    }

    /// What somebody can do where it is not held to.
    const fn hole(self) -> &'static str {
        match self {
            Self::DerivedKeysStay => "whoever has the PIN can derive keys and read them",
            Self::KeysAreNotWrapped => "whoever has the PIN can take any key, wrapped under one he knows",
            Self::AllowedMechanisms => "a key made with it does what it leaves out",
            Self::DeriveTemplate => "a key made with it gives keys that can be read",
        }
    }

    pub(super) fn tried(self, session: &HsmSession) -> RestrictionFinding {
        let enforcement = match self {
            Self::DerivedKeysStay => policy::derived_keys_stay(session),
            Self::KeysAreNotWrapped => policy::wrapping_refused(session),
            Self::AllowedMechanisms => policy::allowed_mechanisms(session),
            Self::DeriveTemplate => policy::derive_template(session),
        };
        RestrictionFinding { restriction: self, enforcement }
    }
}

impl Enforcement {
    /// Its name: `enforced`, `not enforced`, `not supported`, `not tried`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::NotEnforced => "not enforced",
            Self::NotSupported(_) => "not supported",
            Self::Untried(_) => "not tried",
        }
    }
}

impl fmt::Display for RestrictionFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.enforcement {
            Enforcement::Enforced => f.write_str("enforced"),
            Enforcement::NotEnforced => write!(f, "accepted, NOT ENFORCED: {}", self.restriction.hole()),
            Enforcement::NotSupported(said) => write!(f, "not supported: {said}"),
            Enforcement::Untried(said) => write!(f, "could not be tried: {said}"),
        }
    }
}
