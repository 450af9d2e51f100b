//! Derived unique key per transaction: the originating half, which spends each key once and then forgets it.
//!
//! A device never holds a key it has used, nor one that leads to it: it keeps one register for each bit of the
//! counter, with the key of the next counter whose lowest one-bit is that bit. Spending a register fills the ones
//! below it and wipes it (X9.24-1:2009 A.2, X9.24-3:2017 6.5).
//!
//! Architecture invariant: nothing here is shared with the host's half. The two are written apart, so that each
//! checks the other.

use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::{Ksn, Scheme};
use zeroize::Zeroize;

pub mod aes;
pub mod tdes;

/// Why a device cannot make its next key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DukptError {
    /// Every counter has been used: the device must be given a new initial key.
    #[error("the device's keys are exhausted: it must be given a new initial key")]
    Exhausted,
    /// No conforming device reaches this counter from where it is.
    #[error("the counter lies behind the device, or is one no device uses")]
    Unreachable,
    /// The saved registers do not fit the counter they were saved with.
    #[error("the saved key registers do not fit their counter")]
    Registers,
    /// TDES DUKPT has two-key triple DES only.
    #[error("a TDES DUKPT key has 16 bytes")]
    TdesKeyLength,
}

/// The registers of one device, and the counter it uses next. The tree is the same for both schemes; what differs
/// is its depth, how many one-bits it allows, and the derivation step, which every method takes as `derive`.
pub(crate) struct Registers {
    keys: Box<[KeyBytes]>,
    held: u32,
    next: Option<u32>,
    max_ones: u32,
}

impl Registers {
    /// A new device: register `i` holds the key of counter `1 << i`. The caller still owns, and must wipe, the
    /// initial key, which the device needs no more.
    pub(crate) fn load(
        bits: u32,
        max_ones: u32,
        initial: &KeyBytes,
        derive: impl Fn(&KeyBytes, u32) -> KeyBytes,
    ) -> Self {
        let keys = (0..bits).map(|bit| derive(initial, 1 << bit)).collect();
        Self { keys, held: mask(bits), next: Some(1), max_ones }
    }

    /// A device as it was saved: the keys of the registers that are `Some`, and the counter it uses next.
    pub(crate) fn restore(saved: Vec<Option<KeyBytes>>, next: Option<u32>, max_ones: u32) -> Result<Self, DukptError> {
        // An exhausted device may hold none; then any length will do.
        let len = saved.iter().flatten().map(KeyBytes::key_len).next().unwrap_or(KeyLen::K128);
        let mut held = 0;
        let mut keys = Vec::with_capacity(saved.len());
        for (bit, key) in saved.into_iter().enumerate() {
            if key.is_some() {
                held |= 1 << bit;
            }
            let key = key.unwrap_or_else(|| KeyBytes::filled(len, |_| ()));
            if key.key_len() != len {
                return Err(DukptError::Registers);
            }
            keys.push(key);
        }
        let registers = Self { keys: keys.into_boxed_slice(), held, next, max_ones };
        match next {
            Some(next) if !registers.holds(next) => Err(DukptError::Registers),
            Some(_) | None => Ok(registers),
        }
    }

    /// The counter of the next transaction; `None` when the device is exhausted.
    pub(crate) fn next(&self) -> Option<u32> {
        self.next
    }

    /// The keys still held, register 0 first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Option<&KeyBytes>> {
        self.keys.iter().enumerate().map(|(bit, key)| (self.held & (1 << bit) != 0).then_some(key))
    }

    /// Spends the next counter: `use_key` sees its key, in place; then the registers below are filled, the key is
    /// wiped and the device moves on.
    pub(crate) fn spend<R>(
        &mut self,
        derive: impl Fn(&KeyBytes, u32) -> KeyBytes,
        use_key: impl FnOnce(u32, &KeyBytes) -> R,
    ) -> Result<R, DukptError> {
        let counter = self.next.ok_or(DukptError::Exhausted)?;
        let result = use_key(counter, &self.keys[lowest(counter)]);
        self.grow(counter, &derive);
        self.next = self.after(counter);
        Ok(result)
    }

    /// Moves on so that `target` is the next counter, as if every one before it had been used: at most one node
    /// of the tree for each one-bit of `target`, however far it is.
    pub(crate) fn skip_to(
        &mut self,
        target: u32,
        derive: impl Fn(&KeyBytes, u32) -> KeyBytes,
    ) -> Result<(), DukptError> {
        let next = self.next.ok_or(DukptError::Exhausted)?;
        if target < next || target.count_ones() > self.max_ones || lowest(target) >= self.keys.len() {
            return Err(DukptError::Unreachable);
        }
        // The nodes above `target` that the device has not passed yet, from the root down.
        let mut ancestors = 0;
        for bit in (0..u32::BITS).rev().filter(|bit| target & (1 << bit) != 0) {
            ancestors |= 1 << bit;
            if ancestors >= next && ancestors != target {
                self.grow(ancestors, &derive);
            }
        }
        self.wipe_below(lowest(target));
        self.next = Some(target);
        Ok(())
    }

    /// The counter after the next `count` ones, or `None` beyond the end.
    pub(crate) fn counter_after(&self, count: u32) -> Option<u32> {
        (0..count).try_fold(self.next?, |counter, _| self.after(counter))
    }

    /// X9.24-1:2009 A.2 "New Key", X9.24-3:2017 6.5 "Update State": below a counter that has all the one-bits it
    /// may have nothing grows, and the device goes on at the next counter above its register.
    fn after(&self, counter: u32) -> Option<u32> {
        let step = if counter.count_ones() < self.max_ones { 1 } else { 1 << counter.trailing_zeros() };
        counter.checked_add(step).filter(|next| lowest(*next) < self.keys.len())
    }

    fn grow(&mut self, counter: u32, derive: &impl Fn(&KeyBytes, u32) -> KeyBytes) {
        let spent = lowest(counter);
        let (below, at) = self.keys.split_at_mut(spent);
        let key = &at[0];
        for (bit, register) in below.iter_mut().enumerate() {
            if counter.count_ones() < self.max_ones {
                *register = derive(key, counter | 1 << bit);
                self.held |= 1 << bit;
            }
        }
        if counter.count_ones() >= self.max_ones {
            self.wipe_below(spent);
        }
        self.keys[spent].zeroize();
        self.held &= !(1 << spent);
    }

    fn wipe_below(&mut self, register: usize) {
        self.keys[..register].iter_mut().for_each(Zeroize::zeroize);
        self.held &= u32::MAX << register;
    }

    /// Whether the register of `counter` is filled, and no counter outside the tree is meant.
    fn holds(&self, counter: u32) -> bool {
        counter != 0
            && counter.count_ones() <= self.max_ones
            && lowest(counter) < self.keys.len()
            && self.held & (1 << lowest(counter)) != 0
    }
}

/// The register of a counter: the place of its lowest one-bit, which is beyond every register for 0.
fn lowest(counter: u32) -> usize {
    counter.trailing_zeros().try_into().unwrap_or(usize::MAX)
}

fn mask(bits: u32) -> u32 {
    u32::MAX >> (u32::BITS - bits)
}

/// A device of either scheme.
pub enum Originator {
    /// ANSI X9.24-3.
    Aes(aes::Originator),
    /// ANSI X9.24-1.
    Tdes(tdes::Originator),
}

impl Originator {
    /// The key serial number with its counter cleared.
    pub fn device(&self) -> Ksn {
        match self {
            Self::Aes(originator) => Ksn::Aes(*originator.device()),
            Self::Tdes(originator) => Ksn::Tdes(*originator.device()),
        }
    }

    /// Which DUKPT.
    pub fn scheme(&self) -> Scheme {
        self.device().scheme()
    }

    /// The counter of the next transaction; `None` when the device is exhausted.
    pub fn next_counter(&self) -> Option<u32> {
        self.registers().next()
    }

    /// Passes over `count` counters, as a device does that was used elsewhere; gives the counter it uses next.
    pub fn skip(&mut self, count: u32) -> Result<u32, DukptError> {
        let target = self.registers().counter_after(count).ok_or(DukptError::Exhausted)?;
        self.skip_to(target)?;
        Ok(target)
    }

    /// Moves on so that `target` is the next counter.
    pub fn skip_to(&mut self, target: u32) -> Result<(), DukptError> {
        match self {
            Self::Aes(originator) => originator.skip_to(target),
            Self::Tdes(originator) => originator.skip_to(target),
        }
    }

    /// The keys still held, register 0 first: what the state file keeps.
    pub(crate) fn registers(&self) -> &Registers {
        match self {
            Self::Aes(originator) => originator.registers(),
            Self::Tdes(originator) => originator.registers(),
        }
    }
}
