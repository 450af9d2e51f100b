//! What is to be done for one record, by whichever engine.

use std::ops::Range;

use super::triple::BLOCK;
use super::walk::Node;
use crate::key::TdesKey;
use crate::secret::SecretBytes;

/// How many blocks of each job are fetched together: most records have no more.
pub(super) const AT_ONCE: usize = 6;

/// From a key of the tree down to a node, to a working key, to sections decrypted; each part may be absent.
pub(in super::super) struct Job<'a> {
    /// The key of a node, or of the root.
    pub(in super::super) key: &'a [u8; 16],
    /// The counter of that node.
    pub(in super::super) node: u32,
    /// The counter to go to, with the node on its way.
    pub(in super::super) counter: u32,
    /// The last eight bytes of the KSN, counter cleared.
    pub(in super::super) register: u64,
    /// Which working key to make of the key at the counter, if not that key itself is meant.
    pub(in super::super) working: Option<TdesKey>,
    /// Where the last key goes, if it is wanted.
    pub(in super::super) result: Option<&'a mut [u8; 16]>,
    /// What to decrypt under the last key, in place: CBC, each with a zero IV, each of whole blocks.
    pub(in super::super) sections: &'a mut [SecretBytes],
}

impl Job<'_> {
    /// How many steps of derivation there are.
    pub(super) fn steps(&self) -> u32 {
        (self.counter & !self.node).count_ones()
    }

    /// How many blocks there are to decrypt.
    pub(super) fn blocks(&self) -> usize {
        self.sections.iter().map(|section| section.len() / BLOCK).sum()
    }

    /// Hands out the blocks from a place in all sections together on, [`AT_ONCE`] at most.
    pub(super) fn sealed(&self, from: usize, mut take: impl FnMut(usize, u64)) {
        let mut first = 0;
        for section in &*self.sections {
            let (blocks, _) = section.expose().as_chunks();
            for at in places(first, blocks.len(), from) {
                take(at - from, u64::from_be_bytes(blocks[at - first]));
            }
            first += blocks.len();
        }
    }

    /// Puts those blocks, decrypted, in their places: the last first, since each is added to the one before it as that
    /// was sent.
    pub(super) fn open(&mut self, from: usize, opened: impl Fn(usize) -> u64) {
        let mut first = self.blocks();
        for section in self.sections.iter_mut().rev() {
            let (blocks, _) = section.expose_mut().as_chunks_mut();
            first -= blocks.len();
            for at in places(first, blocks.len(), from).rev() {
                let place = at - first;
                let before = place.checked_sub(1).map_or(0, |before| u64::from_be_bytes(blocks[before]));
                blocks[place] = (opened(at - from) ^ before).to_be_bytes();
            }
        }
    }

    /// Does it without the others.
    pub(super) fn alone(&mut self) {
        let mut node = Node::new(self.key);
        for counter in super::super::below(self.node, self.counter) {
            node.step(self.register | u64::from(counter));
        }
        if let Some(key) = self.working {
            node.vary(variant(key));
            if is_sealed(key) {
                node.seal_itself();
            }
        }
        if let Some(result) = self.result.as_deref_mut() {
            node.write(result);
        }
        if !self.sections.is_empty() {
            let triple = node.triple();
            for section in &mut *self.sections {
                triple.cbc_decrypt(&[0; BLOCK], section.expose_mut().as_chunks_mut().0);
            }
        }
    }
}

/// Which of a section's places lie among the [`AT_ONCE`] from a place on.
fn places(first: usize, len: usize, from: usize) -> Range<usize> {
    first.max(from)..(first + len).min(from + AT_ONCE)
}

/// The bits of each half a variant inverts: one byte (X9.24-1:2009 A.4.1).
pub(in super::super) const fn variant(key: TdesKey) -> u64 {
    match key {
        TdesKey::Pin => 0xFF,
        TdesKey::MacRequest => 0xFF << 8,
        TdesKey::MacResponse => 0xFF << 24,
        TdesKey::DataRequest | TdesKey::DataRequestVariant => 0xFF << 16,
        TdesKey::DataResponse | TdesKey::DataResponseVariant => 0xFF << 32,
    }
}

/// Whether a working key is its variant encrypted under itself.
pub(in super::super) const fn is_sealed(key: TdesKey) -> bool {
    match key {
        TdesKey::DataRequest | TdesKey::DataResponse => true,
        TdesKey::Pin
        | TdesKey::MacRequest
        | TdesKey::MacResponse
        | TdesKey::DataRequestVariant
        | TdesKey::DataResponseVariant => false,
    }
}
