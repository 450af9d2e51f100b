//! TDES DUKPT as a device does it (X9.24-1:2009): 21 future key registers, the one-way step, the key variants.
//!
//! Architecture invariant: the key of a transaction is seen only inside [`Originator::transact`], and is wiped when
//! that returns.

use cipher::array::Array;
use cipher::{BlockCipherEncrypt, KeyInit};
use des::{Des, TdesEde2};
use warifu_core::key::{KeyBytes, KeyLen, TdesKey};
use warifu_core::ksn::TdesKsn;

use super::{DukptError, Registers};

/// Bits of the counter, and so future key registers (X9.24-1:2009 A.2).
const BITS: u32 = 21;
/// Most one-bits of a counter (X9.24-1:2009 A.2).
const MAX_ONES: u32 = 10;
/// The mask of the one-way step and of the second half of an initial key, in both halves of a key.
const C0: [u8; 8] = [0xC0, 0xC0, 0xC0, 0xC0, 0, 0, 0, 0];

/// One device.
pub struct Originator {
    device: TdesKsn,
    registers: Registers,
}

/// The one transaction a key lives for.
pub struct Transaction<'a> {
    ksn: TdesKsn,
    key: &'a KeyBytes,
}

/// The initial key of a device: in life, injected by a key-loading facility, never made by the device itself.
/// Here so that a test device can be started from a test BDK (X9.24-1:2009 A.6).
pub fn initial_key(bdk: &KeyBytes, device: &TdesKsn) -> Result<KeyBytes, DukptError> {
    check_len(bdk)?;
    let [id @ .., _, _] = *device.with_counter(0).bytes();
    let masked = KeyBytes::filled(KeyLen::K128, |key| {
        key.copy_from_slice(bdk.expose());
        key.chunks_mut(8).for_each(|half| xor(half, &C0));
    });
    Ok(KeyBytes::filled(KeyLen::K128, |key| {
        let (left, right) = key.split_at_mut(8);
        left.copy_from_slice(&id);
        triple(bdk, left);
        right.copy_from_slice(&id);
        triple(&masked, right);
    }))
}

impl Originator {
    /// Takes an initial key of 16 bytes into the registers. The counter of `ksn` is not looked at. The caller still
    /// owns, and must wipe, the initial key.
    pub fn load(initial: &KeyBytes, ksn: &TdesKsn) -> Result<Self, DukptError> {
        check_len(initial)?;
        let device = ksn.with_counter(0);
        Ok(Self { device, registers: Registers::load(BITS, MAX_ONES, initial, node(&device)) })
    }

    /// A device as it was saved: exactly 21 registers.
    pub(crate) fn restore(ksn: &TdesKsn, saved: Vec<Option<KeyBytes>>, next: Option<u32>) -> Result<Self, DukptError> {
        saved.iter().flatten().try_for_each(check_len)?;
        match saved.len() {
            21 => Ok(Self { device: ksn.with_counter(0), registers: Registers::restore(saved, next, MAX_ONES)? }),
            _ => Err(DukptError::Registers),
        }
    }

    /// The key serial number with its counter cleared.
    pub fn device(&self) -> &TdesKsn {
        &self.device
    }

    /// Spends the next counter; its key is wiped when this returns.
    pub fn transact<R>(&mut self, make: impl FnOnce(&Transaction<'_>) -> R) -> Result<R, DukptError> {
        let device = self.device;
        self.registers
            .spend(node(&device), |counter, key| make(&Transaction { ksn: device.with_counter(counter), key }))
    }

    /// Moves on so that `target` is the next counter.
    pub fn skip_to(&mut self, target: u32) -> Result<(), DukptError> {
        self.registers.skip_to(target, node(&self.device))
    }

    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }
}

impl Transaction<'_> {
    /// Its key serial number.
    pub fn ksn(&self) -> &TdesKsn {
        &self.ksn
    }

    /// A key of this transaction (X9.24-1:2009 A.4): the variant, and for the data keys of both directions each
    /// half of the variant encrypted under the variant.
    pub fn key(&self, which: TdesKey) -> KeyBytes {
        let (byte, one_way) = match which {
            TdesKey::Pin => (7, false),
            TdesKey::MacRequest => (6, false),
            TdesKey::DataRequestVariant => (5, false),
            TdesKey::DataRequest => (5, true),
            TdesKey::MacResponse => (4, false),
            TdesKey::DataResponseVariant => (3, false),
            TdesKey::DataResponse => (3, true),
        };
        let variant = KeyBytes::filled(KeyLen::K128, |key| {
            key.copy_from_slice(self.key.expose());
            key.chunks_mut(8).for_each(|half| half[byte] ^= 0xFF);
        });
        if !one_way {
            return variant;
        }
        KeyBytes::filled(KeyLen::K128, |key| {
            key.copy_from_slice(variant.expose());
            key.chunks_mut(8).for_each(|half| triple(&variant, half));
        })
    }

    /// The transaction key itself, for tests that compare it with the published one.
    #[doc(hidden)]
    pub fn transaction_key(&self) -> &KeyBytes {
        self.key
    }
}

/// The step from a node to one below it: the non-reversible key generation process of X9.24-1:2009 A.2, over the
/// right 64 bits of the key serial number at the new counter.
fn node(device: &TdesKsn) -> impl Fn(&KeyBytes, u32) -> KeyBytes + use<> {
    let device = *device;
    move |parent, counter| {
        let [_, _, serial @ ..] = *device.with_counter(counter).bytes();
        let masked = KeyBytes::filled(KeyLen::K128, |key| {
            key.copy_from_slice(parent.expose());
            key.chunks_mut(8).for_each(|half| xor(half, &C0));
        });
        KeyBytes::filled(KeyLen::K128, |key| {
            let (left, right) = key.split_at_mut(8);
            right.copy_from_slice(&serial);
            one_way(parent, right);
            left.copy_from_slice(&serial);
            one_way(&masked, left);
        })
    }
}

fn one_way(key: &KeyBytes, block: &mut [u8]) {
    let (left, right) = key.expose().split_at(8);
    xor(block, right);
    let cipher = Des::new_from_slice(left).expect("half of 16 bytes is a DES key");
    each_block(&cipher, block);
    xor(block, right);
}

fn triple(key: &KeyBytes, block: &mut [u8]) {
    each_block(&TdesEde2::new_from_slice(key.expose()).expect("16 bytes are a two-key TDES key"), block);
}

fn each_block<C: BlockCipherEncrypt>(cipher: &C, bytes: &mut [u8]) {
    let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(bytes);
    blocks.iter_mut().for_each(|block| cipher.encrypt_block(block));
}

fn xor(into: &mut [u8], with: &[u8]) {
    into.iter_mut().zip(with).for_each(|(byte, other)| *byte ^= other);
}

fn check_len(key: &KeyBytes) -> Result<(), DukptError> {
    match key.key_len() {
        KeyLen::K128 => Ok(()),
        KeyLen::K192 | KeyLen::K256 => Err(DukptError::TdesKeyLength),
    }
}
