//! The way of one record through the tree of its device, with the keys kept in the order of the initial permutation.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::pair::{self, Pair};
use super::schedule::{RoundKey, Schedule, difference};
use super::standard::{final_permutation, initial_permutation};
use super::triple::Triple;

/// What tells the left half of a new key from the right (X9.24-1:2009 A.1, A.2): the mask of each half of the key.
pub(super) const MASK: u64 = 0xC0C0_C0C0_0000_0000;

pub(super) const PERMUTED_MASK: u64 = initial_permutation(MASK);
static MASKED: [RoundKey; 16] = difference(PERMUTED_MASK);
const SECOND_MASKED: Pair = pair::pair(0, PERMUTED_MASK);

/// A key of the tree: any node, or a working key made of one.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(in super::super) struct Node {
    left: u64,
    /// Twice, as both ciphers of a step want it.
    right: Pair,
    /// Room for the schedules on the way.
    schedule: Schedule,
}

impl Node {
    /// From the bytes of a key.
    pub(in super::super) fn new(key: &[u8; 16]) -> Self {
        let (halves, _) = key.as_chunks::<8>();
        let [left, right] = [halves[0], halves[1]].map(|half| initial_permutation(u64::from_be_bytes(half)));
        Self { left, right: pair::doubled(right), schedule: Schedule::new() }
    }

    /// The initial key of a device (X9.24-1:2009 A.6): a block encrypted under the BDK and under the masked BDK.
    pub(in super::super) fn initial(bdk: &[u8; 16], block: u64) -> Self {
        let mut node = Self::new(bdk);
        let mut pair = Zeroizing::new([pair::doubled(initial_permutation(block))]);
        let (right, _) = pair::blocks(node.right);
        node.schedule.set(node.left);
        pair::cipher(&mut pair, masked(node.schedule.forward(), MASKED.iter()));
        node.schedule.set(right);
        pair::cipher(&mut pair, masked(node.schedule.backward(), MASKED.iter().rev()));
        node.schedule.set(node.left);
        pair::cipher(&mut pair, masked(node.schedule.forward(), MASKED.iter()));
        let (left, right) = pair::blocks(pair[0]);
        node.left = left;
        node.right = pair::doubled(right);
        node
    }

    /// Writes the bytes of the key.
    pub(in super::super) fn write(&self, key: &mut [u8; 16]) {
        let (right, _) = pair::blocks(self.right);
        key[..8].copy_from_slice(&final_permutation(self.left).to_be_bytes());
        key[8..].copy_from_slice(&final_permutation(right).to_be_bytes());
    }

    /// Non-reversible key generation (X9.24-1:2009 A.2): the register goes through the key for the new right half, and
    /// through the masked key for the new left half. The second cipher of the pair is the masked one.
    pub(in super::super) fn step(&mut self, register: u64) {
        self.schedule.set(self.left);
        let around = pair::added(self.right, SECOND_MASKED);
        let mut pair = Zeroizing::new([pair::added(pair::doubled(initial_permutation(register)), around)]);
        pair::cipher(&mut pair, masked(self.schedule.forward(), MASKED.iter()));
        let (right, left) = pair::blocks(pair::added(pair[0], around));
        self.left = left;
        self.right = pair::doubled(right);
    }

    /// Inverts these bits of each half: a variant of the key (X9.24-1:2009 A.4.1).
    pub(in super::super) fn vary(&mut self, variant: u64) {
        let variant = initial_permutation(variant);
        self.left ^= variant;
        self.right = pair::added(self.right, pair::doubled(variant));
    }

    /// As a triple-DES key.
    pub(super) fn triple(&self) -> Triple {
        let (right, _) = pair::blocks(self.right);
        Triple::of(self.left, right)
    }

    /// Encrypts each half under the whole key (X9.24-1:2009 A.4.1, data keys).
    pub(in super::super) fn seal_itself(&mut self) {
        let (right, _) = pair::blocks(self.right);
        let mut pair = Zeroizing::new([pair::pair(self.left, right)]);
        self.triple().encrypt(&mut pair);
        let (left, right) = pair::blocks(pair[0]);
        self.left = left;
        self.right = pair::doubled(right);
    }
}

/// Round keys of a key for the first block of a pair, of the masked key for the second.
fn masked<'a>(
    keys: impl Iterator<Item = RoundKey>,
    masks: impl Iterator<Item = &'a RoundKey>,
) -> impl Iterator<Item = RoundKey> {
    keys.zip(masks).map(|(key, mask)| pair::added(key, *mask))
}
