//! AES DUKPT as a device does it (X9.24-3:2017): 32 intermediate derivation key registers, working keys on demand.
//!
//! Architecture invariant: the derivation key of a transaction is seen only inside [`Originator::transact`], and is
//! wiped when that returns.

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::array::Array;
use cipher::{BlockCipherEncrypt, KeyInit};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::AesKsn;

use super::{DukptError, Registers};

/// Bits of the counter, and so registers (X9.24-3:2017 6.2).
const BITS: u32 = 32;
/// Most one-bits of a counter (X9.24-3:2017 6.2).
const MAX_ONES: u32 = 16;
/// The counter of the update key, which no transaction has (X9.24-3:2017 6.5.2).
const UPDATE_COUNTER: u32 = u32::MAX;
/// Block length.
const BLOCK: usize = 16;

/// One device.
pub struct Originator {
    device: AesKsn,
    registers: Registers,
    /// Under it the device's next initial key reaches it. Made when the initial key was there, for no register leads to it.
    update_key: KeyBytes,
}

/// The one transaction a derivation key lives for.
pub struct Transaction<'a> {
    ksn: AesKsn,
    key: &'a KeyBytes,
}

/// The initial key of a device: in life, injected by a key-loading facility, never made by the device itself.
/// Here so that a test device can be started from a test BDK (X9.24-3:2017 6.3.2, usage 8001).
pub fn initial_key(bdk: &KeyBytes, device: &AesKsn) -> KeyBytes {
    derive(bdk, KeyUsage::InitialKeyDerivation, KeyType::aes(bdk.key_len()), device.ik_id())
}

impl Originator {
    /// Takes an initial key of 16, 24 or 32 bytes into the registers. The counter of `ksn` is not looked at. The
    /// caller still owns, and must wipe, the initial key.
    pub fn load(initial: &KeyBytes, ksn: &AesKsn) -> Self {
        let device = ksn.with_counter(0);
        let registers = Registers::load(BITS, MAX_ONES, initial, node(&device));
        Self { device, registers, update_key: update_key(initial, &device) }
    }

    /// A device as it was saved: exactly 32 registers.
    pub(crate) fn restore(
        ksn: &AesKsn,
        saved: Vec<Option<KeyBytes>>,
        next: Option<u32>,
        update_key: KeyBytes,
    ) -> Result<Self, DukptError> {
        match saved.len() {
            32 => {
                let registers = Registers::restore(saved, next, MAX_ONES)?;
                Ok(Self { device: ksn.with_counter(0), registers, update_key })
            }
            _ => Err(DukptError::Registers),
        }
    }

    /// The key serial number with its counter cleared.
    pub fn device(&self) -> &AesKsn {
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

    /// The update key: a key block with this device's next initial key is sealed under it (X9.24-3:2017 6.5.3).
    pub fn update_key(&self) -> &KeyBytes {
        &self.update_key
    }

    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }
}

impl Transaction<'_> {
    /// Its key serial number.
    pub fn ksn(&self) -> &AesKsn {
        &self.ksn
    }

    /// Length of the device's keys.
    pub fn key_len(&self) -> KeyLen {
        self.key.key_len()
    }

    /// A working key of this transaction (X9.24-3:2017 6.3.3).
    pub fn working_key(&self, usage: KeyUsage, key_type: KeyType) -> KeyBytes {
        derive(self.key, usage, key_type, tail(&self.ksn, self.ksn.raw_counter()))
    }

    /// The derivation key itself, for tests that compare it with the published one.
    #[doc(hidden)]
    pub fn derivation_key(&self) -> &KeyBytes {
        self.key
    }
}

/// The step from a node to one below it: a key derivation key of the same length.
fn node(device: &AesKsn) -> impl Fn(&KeyBytes, u32) -> KeyBytes + use<> {
    let device = *device;
    move |parent, counter| {
        derive(parent, KeyUsage::KeyDerivation, KeyType::aes(parent.key_len()), tail(&device, counter))
    }
}

/// All the way down to the counter of ones, then the key-encryption key there, as long as the initial key.
fn update_key(initial: &KeyBytes, device: &AesKsn) -> KeyBytes {
    let step = node(device);
    let top = 1 << (BITS - 1);
    let way = (1..BITS).map(|bit| UPDATE_COUNTER << (BITS - 1 - bit));
    let bottom = way.fold(step(initial, top), |above, counter| step(&above, counter));
    derive(&bottom, KeyUsage::KeyEncryption, KeyType::aes(initial.key_len()), tail(device, UPDATE_COUNTER))
}

/// Last eight bytes of the derivation data of a transaction: the derivation id, then the counter.
fn tail(device: &AesKsn, counter: u32) -> [u8; 8] {
    let [_, _, _, _, a, b, c, d] = device.ik_id();
    let [e, f, g, h] = counter.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// X9.24-3:2017 6.3.1 "Derive Key": ECB of as many blocks of derivation data as the key needs.
fn derive(from: &KeyBytes, usage: KeyUsage, key_type: KeyType, tail: [u8; 8]) -> KeyBytes {
    let [u0, u1] = usage.code().to_be_bytes();
    let [a0, a1] = key_type.code().to_be_bytes();
    let [l0, l1] = key_type.key_len().bits().to_be_bytes();
    KeyBytes::filled(key_type.key_len(), |key| {
        for (number, part) in (1u8..).zip(key.chunks_mut(BLOCK)) {
            let mut block = [0u8; BLOCK];
            block[..8].copy_from_slice(&[0x01, number, u0, u1, a0, a1, l0, l1]);
            block[8..].copy_from_slice(&tail);
            encrypt(from, &mut block);
            part.copy_from_slice(&block[..part.len()]);
            zeroize::Zeroize::zeroize(&mut block);
        }
    })
}

fn encrypt(key: &KeyBytes, block: &mut [u8; BLOCK]) {
    let block = Array::cast_from_core_mut(block);
    match key.key_len() {
        KeyLen::K128 => keyed::<Aes128Enc>(key).encrypt_block(block),
        KeyLen::K192 => keyed::<Aes192Enc>(key).encrypt_block(block),
        KeyLen::K256 => keyed::<Aes256Enc>(key).encrypt_block(block),
    }
}

fn keyed<C: KeyInit>(key: &KeyBytes) -> C {
    C::new_from_slice(key.expose()).expect("the cipher was chosen by the key's length")
}
