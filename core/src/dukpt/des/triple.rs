//! DES and triple DES (FIPS 46-3, keying options 1 and 2) over [`super::pair`], for a key that serves one message.

use super::pair::{self, Pair};
use super::schedule::Schedule;
use super::standard::{final_permutation, initial_permutation};
use zeroize::Zeroizing;

/// A DES block, and the length of a DES key.
pub(crate) const BLOCK: usize = 8;

/// How many pairs of blocks are decrypted side by side: what one record needs, and enough to fill the processor.
const PAIRS: usize = 3;

/// A DES key.
pub(crate) struct Single(Schedule);

impl Single {
    /// A key of 8 bytes, parity ignored.
    pub(crate) fn new(key: &[u8; BLOCK]) -> Self {
        Self(Schedule::of(initial_permutation(u64::from_be_bytes(*key))))
    }

    /// Encrypts a block.
    pub(crate) fn encrypt(&self, block: &mut [u8; BLOCK]) {
        on_block(block, |pair| pair::cipher(pair, self.0.forward()));
    }

    /// Decrypts a block.
    pub(crate) fn decrypt(&self, block: &mut [u8; BLOCK]) {
        on_block(block, |pair| pair::cipher(pair, self.0.backward()));
    }
}

fn on_block(block: &mut [u8; BLOCK], work: impl FnOnce(&mut [Pair; 1])) {
    let mut pair = Zeroizing::new([pair::pair(initial_permutation(u64::from_be_bytes(*block)), 0)]);
    work(&mut pair);
    *block = final_permutation(pair::blocks(pair[0]).0).to_be_bytes();
}

/// A triple-DES key.
pub(crate) struct Triple {
    first: Schedule,
    second: Schedule,
    /// With two halves the third key is the first.
    third: Option<Schedule>,
}

impl Triple {
    /// From two or three DES keys in a row; `None` for another length.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let schedule = |key: &[u8; BLOCK]| Schedule::of(initial_permutation(u64::from_be_bytes(*key)));
        match key.as_chunks::<BLOCK>() {
            ([first, second], []) => Some(Self { first: schedule(first), second: schedule(second), third: None }),
            ([first, second, third], []) => {
                Some(Self { first: schedule(first), second: schedule(second), third: Some(schedule(third)) })
            }
            _ => None,
        }
    }

    /// From two keys in the order of the initial permutation.
    pub(super) fn of(first: u64, second: u64) -> Self {
        Self { first: Schedule::of(first), second: Schedule::of(second), third: None }
    }

    fn third(&self) -> &Schedule {
        self.third.as_ref().unwrap_or(&self.first)
    }

    #[inline(always)]
    pub(super) fn encrypt<const N: usize>(&self, pairs: &mut [Pair; N]) {
        pair::cipher(pairs, self.first.forward());
        pair::cipher(pairs, self.second.backward());
        pair::cipher(pairs, self.third().forward());
    }

    #[inline(always)]
    fn decrypt<const N: usize>(&self, pairs: &mut [Pair; N]) {
        pair::cipher(pairs, self.third().backward());
        pair::cipher(pairs, self.second.forward());
        pair::cipher(pairs, self.first.backward());
    }

    /// Decrypts a message of whole blocks in place (SP 800-38A 6.2).
    pub(crate) fn cbc_decrypt(&self, iv: &[u8; BLOCK], message: &mut [[u8; BLOCK]]) {
        let mut before = u64::from_be_bytes(*iv);
        let (sixes, rest) = message.as_chunks_mut::<{ 2 * PAIRS }>();
        for six in sixes {
            before = self.cbc_decrypt_some::<PAIRS>(before, six);
        }
        for two in rest.chunks_mut(2) {
            before = self.cbc_decrypt_some::<1>(before, two);
        }
    }

    /// Decrypts up to `2 * N` blocks; returns the last of them as it was.
    #[inline(always)]
    fn cbc_decrypt_some<const N: usize>(&self, mut before: u64, message: &mut [[u8; BLOCK]]) -> u64 {
        let sealed = |at: usize| message.get(at).map_or(0, |block| initial_permutation(u64::from_be_bytes(*block)));
        let mut pairs: Zeroizing<[Pair; N]> =
            Zeroizing::new(std::array::from_fn(|at| pair::pair(sealed(2 * at), sealed(2 * at + 1))));
        self.decrypt(&mut pairs);
        for (two, pair) in message.chunks_mut(2).zip(pairs.iter()) {
            let (first, second) = pair::blocks(*pair);
            for (block, opened) in two.iter_mut().zip([first, second]) {
                let sealed = u64::from_be_bytes(*block);
                *block = (final_permutation(opened) ^ before).to_be_bytes();
                before = sealed;
            }
        }
        before
    }
}
