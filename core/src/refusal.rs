//! Every way the server says no: a stable reason, who can mend it, whether to ask again.
//!
//! These are all a caller ever learns. The true cause of a refused frame stays in the audit log, so that nobody can
//! use the answers as an oracle.

use std::fmt;

/// A refusal a caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The client certificate belongs to no registered module.
    ModuleUnknown,
    /// The caller's role does not allow this.
    NotPermitted,
    /// The registry does not have the key.
    KeyUnknown,
    /// The life of the key does not have this move.
    KeyMoveIllegal,
    /// The request id is missing or has wrong characters.
    RequestIdInvalid,
    /// The request id was used before with other content.
    RequestIdReused,
    /// The order number is missing or has wrong characters.
    OrderInvalid,
    /// The amount is zero, negative or too large.
    AmountInvalid,
    /// The currency is not known.
    CurrencyInvalid,
    /// The channel is missing.
    ChannelInvalid,
    /// The device output cannot be read in the format its device is registered with.
    FrameMalformed,
    /// The device is not known, or not this merchant's.
    DeviceUnknown,
    /// The device is registered, suspended or retired.
    DeviceNotActive,
    /// The key of the device is not in use.
    KeyNotActive,
    /// The frame's counter is one no conforming device sends.
    CounterIllegal,
    /// The frame was used before.
    FrameReplayed,
    /// The frame is not genuine.
    FrameRefused,
    /// The frame is genuine and holds no usable card number.
    CardInvalid,
    /// This server does not open frames in the way this device needs.
    ModeNotAllowed,
    /// All tokens of this merchant are used up.
    TokensExhausted,
    /// More requests are waiting than the server admits.
    Busy,
    /// The server did not finish in time; the request may still take effect.
    TimedOut,
    /// The HSM is away.
    HsmUnavailable,
    /// The data store is away.
    StoreUnavailable,
    /// The audit log cannot be written, so nothing is opened.
    AuditUnavailable,
    /// The server is stopping.
    Draining,
    /// A defect of the server.
    Internal,
}

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixer {
    /// The developer of the calling program.
    Developer,
    /// The merchant, at the device or with another card.
    Merchant,
    /// The operator of the server.
    Operator,
}

/// Whether to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again.
    No,
    /// Ask again with the same request id and content: it has at most one effect.
    SameRequest,
    /// Collect the card again, under a new request id.
    NewCard,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::ModuleUnknown,
        Self::NotPermitted,
        Self::KeyUnknown,
        Self::KeyMoveIllegal,
        Self::RequestIdInvalid,
        Self::RequestIdReused,
        Self::OrderInvalid,
        Self::AmountInvalid,
        Self::CurrencyInvalid,
        Self::ChannelInvalid,
        Self::FrameMalformed,
        Self::DeviceUnknown,
        Self::DeviceNotActive,
        Self::KeyNotActive,
        Self::CounterIllegal,
        Self::FrameReplayed,
        Self::FrameRefused,
        Self::CardInvalid,
        Self::ModeNotAllowed,
        Self::TokensExhausted,
        Self::Busy,
        Self::TimedOut,
        Self::HsmUnavailable,
        Self::StoreUnavailable,
        Self::AuditUnavailable,
        Self::Draining,
        Self::Internal,
    ];

    /// The stable reason on the wire.
    pub const fn reason(self) -> &'static str {
        self.row().0
    }

    /// Who can mend it.
    pub const fn fixer(self) -> Fixer {
        self.row().1
    }

    /// Whether to ask again.
    pub const fn retry(self) -> Retry {
        self.row().2
    }

    /// One sentence for a person.
    pub const fn message(self) -> &'static str {
        self.row().3
    }

    /// The inverse of [`Refusal::reason`].
    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.reason() == reason)
    }

    const fn row(self) -> (&'static str, Fixer, Retry, &'static str) {
        use Fixer::{Developer, Merchant, Operator};
        use Retry::{NewCard, No, SameRequest};
        match self {
            Self::ModuleUnknown => {
                ("MODULE_UNKNOWN", Operator, No, "the client certificate belongs to no registered module")
            }
            Self::NotPermitted => ("NOT_PERMITTED", Operator, No, "the caller may not do this"),
            Self::KeyUnknown => ("KEY_UNKNOWN", Operator, No, "the registry does not have this key"),
            Self::KeyMoveIllegal => ("KEY_MOVE_ILLEGAL", Operator, No, "the key cannot become that from what it is"),
            Self::RequestIdInvalid => {
                ("REQUEST_ID_INVALID", Developer, No, "request_id must be 1 to 64 letters, digits, - _ or .")
            }
            Self::RequestIdReused => {
                ("REQUEST_ID_REUSED", Developer, No, "request_id was used before with other content")
            }
            Self::OrderInvalid => ("ORDER_INVALID", Developer, No, "order must be 1 to 64 printable ASCII characters"),
            Self::AmountInvalid => ("AMOUNT_INVALID", Developer, No, "amount must be 1 to 999999999999 minor units"),
            Self::CurrencyInvalid => {
                ("CURRENCY_INVALID", Developer, No, "currency must be a known ISO 4217 code, such as JPY")
            }
            Self::ChannelInvalid => ("CHANNEL_INVALID", Developer, No, "channel must be mail, telephone or in person"),
            Self::FrameMalformed => {
                ("FRAME_MALFORMED", Merchant, NewCard, "the device output is damaged or not in its device's format")
            }
            Self::DeviceUnknown => ("DEVICE_UNKNOWN", Operator, No, "the device is not registered for this merchant"),
            Self::DeviceNotActive => ("DEVICE_NOT_ACTIVE", Operator, No, "the device is registered but not in use"),
            Self::KeyNotActive => ("KEY_NOT_ACTIVE", Operator, No, "the key of the device is not in use"),
            Self::CounterIllegal => {
                ("COUNTER_ILLEGAL", Merchant, NewCard, "the frame's counter is not one a device can send")
            }
            Self::FrameReplayed => ("FRAME_REPLAYED", Merchant, NewCard, "the frame was used before"),
            Self::FrameRefused => ("FRAME_REFUSED", Merchant, NewCard, "the frame is not genuine"),
            Self::CardInvalid => ("CARD_INVALID", Merchant, NewCard, "the card number is not valid"),
            Self::ModeNotAllowed => {
                ("MODE_NOT_ALLOWED", Operator, No, "this server does not open frames the way this device needs")
            }
            Self::TokensExhausted => ("TOKENS_EXHAUSTED", Operator, No, "no token is left for this merchant"),
            Self::Busy => ("BUSY", Operator, SameRequest, "too many requests are waiting; ask again shortly"),
            Self::TimedOut => (
                "TIMED_OUT",
                Operator,
                SameRequest,
                "the server did not finish in time; ask again with the same request_id",
            ),
            Self::HsmUnavailable => ("HSM_UNAVAILABLE", Operator, SameRequest, "the HSM cannot be used at the moment"),
            Self::StoreUnavailable => {
                ("STORE_UNAVAILABLE", Operator, SameRequest, "the data store cannot be used at the moment")
            }
            Self::AuditUnavailable => {
                ("AUDIT_UNAVAILABLE", Operator, SameRequest, "the audit log cannot be written, so nothing is opened")
            }
            Self::Draining => ("DRAINING", Operator, SameRequest, "the server is stopping; dial again"),
            Self::Internal => ("INTERNAL", Operator, SameRequest, "a defect of the server; its log has the request id"),
        }
    }
}

impl Fixer {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Developer => "developer",
            Self::Merchant => "merchant",
            Self::Operator => "operator",
        }
    }
}

impl Retry {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::SameRequest => "same-request",
            Self::NewCard => "new-card",
        }
    }

    /// The inverse of [`Retry::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::No, Self::SameRequest, Self::NewCard].into_iter().find(|retry| retry.name() == name)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refusal {}
