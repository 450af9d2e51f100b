//! What module, slot and token say of themselves.

use std::fmt;

use cryptoki::slot::{SlotInfo, TokenInfo};

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFacts {
    /// The file.
    pub path: String,
    /// Its description.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its own version.
    pub version: String,
    /// The version of PKCS#11 it follows.
    pub pkcs11: String,
}

/// What a slot and its token say of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// The slot's number, which may change from start to start.
    pub id: u64,
    /// Its description.
    pub description: String,
    /// The token's label.
    pub token_label: String,
    /// The token's model.
    pub model: String,
    /// Who made the token.
    pub manufacturer: String,
    /// The token's serial number.
    pub serial: String,
    /// The version of the token's firmware.
    pub firmware: String,
}

/// Whether real keys may be put into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A token in software: keys are in the memory and files of a computer.
    NotForProduction,
    /// The module calls it a hardware slot. Whether it is a certified one is for its papers to say.
    HardwareSlot,
}

impl SlotFacts {
    pub(super) fn of(id: u64, slot: &SlotInfo, token: &TokenInfo) -> Self {
        Self {
            id,
            description: slot.slot_description().to_owned(),
            token_label: token.label().to_owned(),
            model: token.model().to_owned(),
            manufacturer: token.manufacturer_id().to_owned(),
            serial: token.serial_number().to_owned(),
            firmware: token.firmware_version().to_string(),
        }
    }
}

impl Standing {
    /// Software tokens do not set `CKF_HW_SLOT`, and some that do say what they are in their model.
    pub(super) fn of(slot: &SlotInfo, token: &TokenInfo) -> Self {
        let soft = token.model().to_ascii_lowercase().contains("soft");
        if slot.hardware_slot() && !soft { Self::HardwareSlot } else { Self::NotForProduction }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotForProduction => "NOT FOR PRODUCTION: a token in software",
            Self::HardwareSlot => "a hardware slot, as the module says",
        })
    }
}
