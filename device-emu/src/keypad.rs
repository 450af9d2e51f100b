//! The keypad: what is typed becomes `PAN=YYMM=CVV`, the form of keyed account data.

use crate::card::Card;
use crate::sealing::{Fill, Message};

/// The keyed account data of a card. The second `=` is always there; the code after it may be missing.
pub fn account_data(card: &Card, fill: Fill) -> Message {
    Message::joined(&[card.pan(), b"=", card.expiry(), b"=", card.code().unwrap_or_default()], fill)
}
