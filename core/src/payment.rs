//! The life of a payment: one table of states and events, read by the compiler.
//!
//! Money leaves [`State::Unknown`] only by what the acquirer itself says later: an inquiry's answer, or a
//! reversal it accepted.

use std::fmt;

/// How the buyer met the merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Order by post or fax.
    Mail,
    /// Order by telephone.
    Telephone,
    /// At the counter.
    InPerson,
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Written down; bytes may be on their way to the acquirer.
    Sent,
    /// The acquirer approved.
    Authorized(ApprovalCode),
    /// The acquirer declined.
    Declined(ResponseCode),
    /// Nobody knows yet: no answer came, or this server stopped while waiting.
    Unknown,
    /// The acquirer never had it, or gave it back: no money moved.
    Reversed,
}

/// What happens to a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The acquirer approved, at once or on inquiry.
    Approved(ApprovalCode),
    /// The acquirer declined, at once or on inquiry.
    Declined(ResponseCode),
    /// Nobody knows what came of it: there was no answer in time, or an answer to what was believed never to have
    /// arrived.
    Silent,
    /// The acquirer accepted a reversal, or says on inquiry that it never had the request.
    ReversalAccepted,
    /// The same request came again after the acquirer said it never had the first one.
    SentAgain,
}

/// An event this state does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payment that is {from:?} cannot take the event {event:?}")]
pub struct IllegalEvent {
    /// Where the payment stands.
    pub from: State,
    /// What should have happened.
    pub event: Event,
}

impl State {
    /// Applies an event.
    pub fn apply(self, event: Event) -> Result<Self, IllegalEvent> {
        Ok(match (self, event) {
            (Self::Sent | Self::Unknown, Event::Approved(code)) => Self::Authorized(code),
            (Self::Sent | Self::Unknown, Event::Declined(code)) => Self::Declined(code),
            (Self::Sent | Self::Unknown | Self::Reversed, Event::Silent) => Self::Unknown,
            (Self::Unknown, Event::ReversalAccepted) => Self::Reversed,
            // Nothing moved the first time, so sending again cannot move money twice.
            (Self::Reversed, Event::SentAgain) => Self::Sent,
            (from @ (Self::Sent | Self::Authorized(_) | Self::Declined(_) | Self::Unknown | Self::Reversed), event) => {
                return Err(IllegalEvent { from, event });
            }
        })
    }

    /// Whether the acquirer has spoken its last word.
    pub const fn is_settled(self) -> bool {
        match self {
            Self::Sent | Self::Unknown => false,
            Self::Authorized(_) | Self::Declined(_) | Self::Reversed => true,
        }
    }

    /// Its name in rows, answers and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Authorized(_) => "authorized",
            Self::Declined(_) => "declined",
            Self::Unknown => "unknown",
            Self::Reversed => "reversed",
        }
    }
}

/// A code whose length or characters are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the acquirer's code is not {0} ASCII letters and digits")]
pub struct CodeError(usize);

macro_rules! code {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Checks and takes a code.
            pub fn parse(text: &str) -> Result<Self, CodeError> {
                match <[u8; $len]>::try_from(text.as_bytes()) {
                    Ok(bytes) if bytes.iter().all(u8::is_ascii_alphanumeric) => Ok(Self(bytes)),
                    _ => Err(CodeError($len)),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("made of ASCII letters and digits")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

code! {
    /// The issuer's approval, six characters (ISO 8583 field 38).
    ApprovalCode, 6
}
code! {
    /// The acquirer's response, two characters (ISO 8583 field 39): `51` insufficient funds, `54` expired.
    ResponseCode, 2
}

impl Channel {
    /// Its name in rows and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Telephone => "telephone",
            Self::InPerson => "in-person",
        }
    }

    /// The inverse of [`Channel::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Mail, Self::Telephone, Self::InPerson].into_iter().find(|channel| channel.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Approved(ApprovalCode::parse("A00001").unwrap())),
            Just(Event::Declined(ResponseCode::parse("51").unwrap())),
            Just(Event::Silent),
            Just(Event::ReversalAccepted),
            Just(Event::SentAgain),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_moves_money_twice(events in prop::collection::vec(event(), 0..40)) {
            let mut state = State::Sent;
            let mut approved = 0;
            for event in events {
                let before = state;
                let Ok(after) = state.apply(event) else { continue };
                if let Event::Approved(_) = event {
                    approved += 1;
                }
                if before == State::Unknown && after.is_settled() {
                    // Only the acquirer's own word leaves Unknown.
                    prop_assert!(!matches!(event, Event::Silent | Event::SentAgain));
                }
                state = after;
            }
            prop_assert!(approved <= 1);
        }
    }
}
