//! The device: takes a card, seals it under the key of its next counter, forgets both.
//!
//! Architecture invariant: when [`Device::take`] returns, the card is wiped, the counter is spent (on disk, too, if
//! the device keeps its state there) and no byte has left. So a killed device may lose a counter, and never uses
//! one twice.

use std::time::{SystemTime, UNIX_EPOCH};

use warifu_core::frame::Entry;
use warifu_core::key::KeyBytes;
use warifu_core::key_block::Algorithm;
use warifu_core::ksn::AesKsn;

use crate::card::Card;
use crate::dukpt::{DukptError, Originator, aes, tdes};
use crate::format::idtech::{self, Address, ChipNotice, ExpiryMask, Form};
use crate::format::{Format, FormatError, magtek, native};
use crate::injection::{self, Injected, InjectionError};
use crate::keypad;
use crate::reader::{Day, Stripe, chip_account_data};
use crate::scrub::scrubbed;
use crate::sealing::{Fill, Message};
use crate::state::{StateError, StateFile};

/// One emulated device.
pub struct Device {
    originator: Originator,
    format: Format,
    serial: [u8; 10],
    state: Option<StateFile>,
    last: Option<Frame>,
}

/// What a device sends for one card: nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The counter they were made under.
    pub counter: u32,
}

/// Why a card could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device cannot take it.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The device has no key for it.
    #[error(transparent)]
    Dukpt(#[from] DukptError),
    /// The device cannot remember that it used the key, and so must not use it.
    #[error("the state of the device could not be saved, so nothing was sent")]
    State(#[from] StateError),
    /// The device keeps the keys it has.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// Why a device did not take a new initial key.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Only AES DUKPT has update keys.
    #[error("a TDES device has no update key: its initial key is injected again")]
    Scheme,
    /// Nothing in the block, or not for this device.
    #[error("the update is not for this device: {0}")]
    Injection(#[from] InjectionError),
    /// The block does not say whose initial key it is.
    #[error("the update names no initial key id")]
    Nameless,
    /// Under the same initial key the device would use its counters a second time.
    #[error("the update holds the initial key the device has")]
    Same,
}

impl Device {
    /// A device with its keys; `serial` is what vendor formats say of it.
    pub fn new(
        originator: Originator,
        format: Format,
        serial: [u8; 10],
        state: Option<StateFile>,
    ) -> Result<Self, DeviceError> {
        format.check_scheme(originator.scheme())?;
        let mut device = Self { originator, format, serial, state, last: None };
        device.save()?;
        Ok(device)
    }

    /// Its keys and counter.
    pub fn originator(&self) -> &Originator {
        &self.originator
    }

    /// Its output format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The frame made last, if one was made since the device was started.
    pub fn last(&self) -> Option<&Frame> {
        self.last.as_ref()
    }

    /// Seals a card taken in this way. A card that the format cannot carry costs no counter.
    pub fn take(&mut self, entry: Entry, card: Card) -> Result<&Frame, DeviceError> {
        self.format.check_entry(entry)?;
        let frame = scrubbed(|| self.sealed(entry, card))?;
        self.save()?;
        Ok(self.last.insert(frame))
    }

    /// Passes over `count` counters; gives the counter it uses next.
    pub fn skip(&mut self, count: u32) -> Result<u32, DeviceError> {
        let next = scrubbed(|| self.originator.skip(count))?;
        self.save()?;
        Ok(next)
    }

    /// Takes a new initial key out of a key block under the device's update key (X9.24-3:2017 6.5.3), and begins at its
    /// first counter. The old keys are wiped. A block that is not for this device changes nothing.
    pub fn update(&mut self, block: &str) -> Result<(), DeviceError> {
        let updated = scrubbed(|| self.updated(block))?;
        let old = std::mem::replace(&mut self.originator, updated);
        if let Err(error) = self.save() {
            self.originator = old;
            return Err(error.into());
        }
        self.last = None;
        Ok(())
    }

    fn updated(&self, block: &str) -> Result<Originator, UpdateError> {
        let Originator::Aes(now) = &self.originator else { return Err(UpdateError::Scheme) };
        let update_key = now.update_key();
        let kbpk = KeyBytes::filled(update_key.key_len(), |kbpk| kbpk.copy_from_slice(update_key.expose()));
        let Injected { key, whose } = injection::opened(block, kbpk, Algorithm::Aes)?;
        let mut ksn = [0; 12];
        hex::decode_to_slice(whose.unwrap_or_default(), &mut ksn[..8]).map_err(|_| UpdateError::Nameless)?;
        let ksn = AesKsn::new(ksn);
        match ksn.ik_id() == now.device().ik_id() {
            true => Err(UpdateError::Same),
            false => Ok(Originator::Aes(aes::Originator::load(&key, &ksn))),
        }
    }

    fn sealed(&mut self, entry: Entry, card: Card) -> Result<Frame, DeviceError> {
        let (format, serial) = (self.format, self.serial);
        match &mut self.originator {
            Originator::Aes(originator) => originator.transact(|transaction| {
                let counter = transaction.ksn().raw_counter();
                let bytes = native_aes(transaction, entry, &card)?;
                Ok(Frame { bytes, counter })
            })?,
            Originator::Tdes(originator) => originator.transact(|transaction| {
                let counter = transaction.ksn().raw_counter();
                let bytes = tdes_output(transaction, format, serial, entry, &card)?;
                Ok(Frame { bytes, counter })
            })?,
        }
    }

    fn save(&mut self) -> Result<(), StateError> {
        let Self { originator, state, .. } = self;
        state.as_mut().map_or(Ok(()), |state| scrubbed(|| state.save(originator)))
    }
}

fn native_aes(transaction: &aes::Transaction<'_>, entry: Entry, card: &Card) -> Result<Vec<u8>, FormatError> {
    let account_data = account_data(card, entry, transaction.ksn().raw_counter(), native::AES_FILL);
    native::sealed_aes(transaction, entry, account_data)
}

fn tdes_output(
    transaction: &tdes::Transaction<'_>,
    format: Format,
    serial: [u8; 10],
    entry: Entry,
    card: &Card,
) -> Result<Vec<u8>, FormatError> {
    let form = if format == Format::IdTechKeyboard { Form::Keyboard } else { Form::Binary };
    let idtech = idtech::Settings { serial, form, expiry: ExpiryMask::Masked, chip: ChipNotice::Given };
    match (format, entry) {
        (Format::Native, _) => {
            let counter = transaction.ksn().raw_counter();
            native::sealed_tdes(transaction, entry, account_data(card, entry, counter, native::TDES_FILL))
        }
        (Format::IdTechKeyedEnhanced, _) => idtech::keyed_enhanced(transaction, card, &idtech),
        (Format::IdTechKeyed, _)
        | (Format::IdTechBinary | Format::IdTechKeyboard | Format::IdTechOriginal, Entry::Keyed) => {
            idtech::keyed(transaction, card, Address::default(), &idtech)
        }
        (Format::IdTechOriginal, Entry::Swiped | Entry::Dipped) => {
            idtech::original(transaction, &Stripe::of(card), &idtech)
        }
        (Format::IdTechBinary | Format::IdTechKeyboard, Entry::Swiped | Entry::Dipped) => {
            idtech::enhanced(transaction, &Stripe::of(card), &idtech)
        }
        (Format::MagTekKeyboard, _) => magtek::keyboard(transaction, &Stripe::of(card), &magtek_settings(&serial)),
        (Format::MagTekHid, _) => magtek::report(transaction, &Stripe::of(card), &magtek_settings(&serial)),
    }
}

/// No stripe was read, so its MagnePrint is made up; the status is that of a good reading in the manual.
fn magtek_settings(serial: &[u8; 10]) -> magtek::Settings<'_> {
    magtek::Settings {
        serial,
        session: [0; 8],
        print_status: [0xA1, 0x05, 0x00, 0x00],
        print: [0x01; magtek::PRINT_LEN],
    }
}

fn account_data(card: &Card, entry: Entry, counter: u32, fill: Fill) -> Message {
    match entry {
        Entry::Keyed => keypad::account_data(card, fill),
        Entry::Swiped => Stripe::of(card).account_data(fill),
        Entry::Dipped => {
            // The card's own count of its transactions is as good as any other here.
            let [_, _, high, low] = counter.to_be_bytes();
            chip_account_data(card, u16::from_be_bytes([high, low]), today(), fill)
        }
    }
}

fn today() -> Day {
    Day::since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400))
}
