//! The name of one wish, so that asking twice has one effect.

use std::fmt;

use uuid::Uuid;
use warifu_core::merchant;

use crate::config::ConfigError;

/// Names one tokenize or authorize: 1 to 64 letters, digits, `-`, `_` or `.`, unique per merchant.
///
/// The server answers the same id with the same content with its first answer, so a caller that keeps the id can
/// ask again after a crash without paying twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(merchant::RequestId);

impl RequestId {
    /// Draws a new one: a UUID version 7 (RFC 9562 §5.7), so that a log sorts by time.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        let text = Uuid::now_v7().to_string();
        Self(merchant::RequestId::parse(&text).expect("a UUID is 36 hex digits and hyphens"))
    }

    /// Takes one the caller chose, as when a request is taken up again after a crash.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(Self(merchant::RequestId::parse(text)?))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_survive_being_written_down() {
        let (one, other) = (RequestId::new(), RequestId::new());
        assert_ne!(one, other);
        assert_eq!(RequestId::parse(one.as_str()).unwrap(), one);
    }

    #[test]
    fn an_id_the_server_would_refuse_is_not_made() {
        for bad in ["", "two words", &"x".repeat(65)] {
            assert!(RequestId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
