//! Names the parties give to things: merchants, modules, devices, orders, requests.
//!
//! Each is a short printable text, checked once at the edge, safe in logs and rows.

use std::fmt;

/// A name that cannot be used. The text itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must have 1 to {max} characters: {allowed}")]
pub struct NameError {
    /// What kind of name.
    pub what: &'static str,
    /// Most characters.
    pub max: usize,
    /// Which characters.
    pub allowed: &'static str,
}

const SLUG: &str = "ASCII letters, digits and - _ . only";
const PRINTABLE: &str = "printable ASCII without spaces at its ends";

fn is_slug(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) && text.trim() == text
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $rule:ident, $allowed:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if text.is_empty() || text.len() > $max || !$rule(text) {
                    return Err(NameError { what: $what, max: $max, allowed: $allowed });
                }
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A merchant, as the processor names it. 1 to 40 characters.
    MerchantId, "a merchant id", 40, is_slug, SLUG
}
name! {
    /// A comm module, unique in the whole server. 1 to 40 characters.
    ModuleId, "a module id", 40, is_slug, SLUG
}
name! {
    /// A device, unique in the whole server. 1 to 40 characters.
    DeviceId, "a device id", 40, is_slug, SLUG
}
name! {
    /// A base derivation key, as the registry and the slot name it. 1 to 40 characters.
    BdkId, "a BDK id", 40, is_slug, SLUG
}
name! {
    /// A key custodian, a person. 1 to 40 characters.
    CustodianId, "a custodian id", 40, is_slug, SLUG
}
name! {
    /// The merchant's own order number. 1 to 64 characters.
    OrderNumber, "an order number", 64, is_printable, PRINTABLE
}
name! {
    /// Names one wish of a caller, so that asking twice has one effect. 1 to 64 characters, unique per merchant.
    RequestId, "a request id", 64, is_slug, SLUG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert!(MerchantId::parse("shop-1").is_ok());
        for bad in ["", "two words", "a/b", "é", &"x".repeat(41)] {
            assert!(MerchantId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(OrderNumber::parse("No. 42 / A").is_ok());
        assert!(OrderNumber::parse(" 42").is_err());
        assert!(OrderNumber::parse("42\n").is_err());
    }
}
