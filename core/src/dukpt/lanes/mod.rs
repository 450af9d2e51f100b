//! AES under keys that are used once: the cost of DUKPT is one key schedule after another, so here the schedule runs
//! beside the block it is for, and the keys of many records beside each other.
//!
//! Architecture invariant: what the instructions of the processor give is what the portable code gives; a path that
//! fails to is not used. What of it is `unsafe` is in `x86` alone.

mod batch;
mod portable;
mod proof;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(not(target_arch = "x86_64"))]
#[path = "none.rs"]
mod x86;

use std::sync::OnceLock;

use self::batch::Lanes;
pub(crate) use self::batch::{Batch, Errand};
use self::x86::Detected;
use crate::key::{KeyLen, MAX_KEY_LEN};

/// The place of a key of any length: zeros behind a short one.
pub(crate) type Key = [u8; MAX_KEY_LEN];
/// A cipher block.
pub(crate) type Block = [u8; 16];

/// Two blocks of derivation data that differ in their second byte, 1 or 2: what the first holds, as two numbers.
#[derive(Clone, Copy)]
pub(crate) struct Data {
    pub(crate) head: u64,
    pub(crate) tail: u64,
}

impl Data {
    /// The head and the tail of each block.
    pub(crate) fn words(self) -> [[u64; 2]; 2] {
        [[self.head, self.tail], [self.head ^ (1 ^ 2) << 48, self.tail]]
    }

    /// The first of the blocks in memory.
    fn first_block(self) -> Block {
        let [first, _] = self.blocks();
        first
    }

    /// The blocks in memory.
    pub(crate) fn blocks(self) -> [Block; 2] {
        self.words().map(|[head, tail]| (u128::from(head) << 64 | u128::from(tail)).to_be_bytes())
    }

    /// For the node at another counter.
    fn at(self, counter: u32) -> Self {
        Self { tail: self.tail & !u64::from(u32::MAX) | u64::from(counter), ..self }
    }
}

/// A way to compute AES, from the one every processor has to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The `aes` crate: constant time on every processor.
    Portable,
    /// x86-64 with AES-NI and AVX.
    AesNi,
    /// The same on two lanes in each register: VAES and AVX2.
    Vaes256,
    /// On four: VAES, AVX-512F and AVX-512BW.
    Vaes512,
}

impl Path {
    /// All of them, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::AesNi, Self::Vaes256, Self::Vaes512];

    /// The widest this processor has. Asked of the processor, and proved against the portable one, once.
    pub fn best() -> Self {
        Trusted::best().path()
    }

    /// Whether this processor has it, and agrees there with the portable one.
    pub fn is_available(self) -> bool {
        Trusted::new(self).is_some()
    }
}

/// A path that was proved here.
#[derive(Clone, Copy)]
pub(crate) struct Trusted(Option<Detected>);

impl Trusted {
    /// The portable path, which all others are compared with.
    const PORTABLE: Self = Self(None);

    /// The widest.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Trusted> = OnceLock::new();
        *BEST.get_or_init(|| Path::ALL.into_iter().rev().find_map(Self::new).unwrap_or(Self::PORTABLE))
    }

    /// This one, or the widest below it that can be trusted.
    pub(crate) fn at_most(path: Path) -> Self {
        Path::ALL.into_iter().rev().filter(|lower| *lower <= path).find_map(Self::new).unwrap_or(Self::PORTABLE)
    }

    /// This one, when the processor has it and it gives what the portable one gives, which is found out once.
    pub(crate) fn new(path: Path) -> Option<Self> {
        static AES_NI: OnceLock<Option<Trusted>> = OnceLock::new();
        static VAES_256: OnceLock<Option<Trusted>> = OnceLock::new();
        static VAES_512: OnceLock<Option<Trusted>> = OnceLock::new();
        let found = match path {
            Path::Portable => return Some(Self::PORTABLE),
            Path::AesNi => &AES_NI,
            Path::Vaes256 => &VAES_256,
            Path::Vaes512 => &VAES_512,
        };
        *found.get_or_init(|| {
            let candidate = Self(Some(Detected::new(path)?));
            proof::agrees_with_portable(candidate).then_some(candidate)
        })
    }

    fn path(self) -> Path {
        self.0.map_or(Path::Portable, Detected::path)
    }

    /// Writes to `derived` the encryption of one block of `data` under `key`, or of both for a new key longer than one.
    pub(crate) fn derive(self, len: KeyLen, key: &Key, data: Data, new_len: KeyLen, derived: &mut Key) {
        match self.0 {
            Some(detected) => detected.derive(len, key, data, new_len, derived),
            None => portable::derive(len, key, data, new_len, derived),
        }
    }

    /// The same for two new keys of one length from one key.
    pub(crate) fn derive_two(self, len: KeyLen, key: &Key, data: [Data; 2], new_len: KeyLen, derived: [&mut Key; 2]) {
        match self.0 {
            Some(detected) => detected.derive_two(len, key, data, new_len, derived),
            None => portable::derive_two(len, key, data, new_len, derived),
        }
    }

    /// Replaces `key`, the node at `from`, by each node on the way down to `to`. `data` are those of any node of the
    /// tree.
    pub(crate) fn walk(self, len: KeyLen, key: &mut Key, data: Data, from: u32, to: u32) {
        match self.0 {
            Some(detected) => detected.walk(len, key, data, from, to),
            None => portable::walk(len, key, data, from, to),
        }
    }

    /// Adds each block of `message` to `state` and encrypts it: the chain of a CBC-MAC.
    pub(crate) fn chain(self, len: KeyLen, key: &Key, state: &mut Block, message: &[Block]) {
        match self.0 {
            Some(detected) => detected.chain(len, key, state, message),
            None => portable::chain(len, key, state, message),
        }
    }

    /// Decrypts CBC in place.
    pub(crate) fn cbc_decrypt(self, len: KeyLen, key: &Key, iv: &Block, blocks: &mut [Block]) {
        match self.0 {
            Some(detected) => detected.cbc_decrypt(len, key, iv, blocks),
            None => portable::cbc_decrypt(len, key, iv, blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];

    fn short(mut key: Key, len: KeyLen) -> Key {
        key[len.bytes()..].fill(0);
        key
    }

    /// The paths this processor has, the portable one first.
    fn paths() -> impl Iterator<Item = Trusted> {
        Path::ALL.into_iter().filter_map(Trusted::new)
    }

    #[test]
    fn every_path_of_this_processor_was_tried() {
        assert!(Path::Portable.is_available());
        assert_eq!(Path::ALL.into_iter().filter(|path| path.is_available()).max(), Some(Path::best()));
        for path in Path::ALL {
            // Where the processor has the instructions, a path that is not available failed its proof.
            assert_eq!(path.is_available(), path == Path::Portable || Detected::new(path).is_some());
        }
    }

    proptest! {
        #[test]
        fn every_path_gives_what_the_portable_one_gives(
            key in any::<Key>(), head in any::<u64>(), tail in any::<u64>(), pick in 0usize..3, new in 0usize..3,
            from in any::<u32>(), to in any::<u32>(), state in any::<Block>(), blocks in prop::collection::vec(any::<Block>(), 0..9),
        ) {
            let (len, new_len, data) = (LENS[pick], LENS[new], Data { head, tail });
            let key = short(key, len);
            let from = to & !((1_u32 << (from % 32)) - 1);
            let answers = |path: Trusted| {
                let (mut derived, mut node, mut chained, mut clear) = ([0xAA; 32], key, state, blocks.clone());
                let (mut one, mut other) = ([0xAA; 32], [0x55; 32]);
                path.derive(len, &key, data, new_len, &mut derived);
                path.derive_two(len, &key, [data, data.at(to)], new_len, [&mut one, &mut other]);
                path.walk(len, &mut node, data, from, to);
                path.chain(len, &key, &mut chained, &blocks);
                path.cbc_decrypt(len, &key, &state, &mut clear);
                (derived, one, other, node, chained, clear)
            };
            let expected = answers(Trusted::PORTABLE);
            for path in paths() {
                prop_assert_eq!(answers(path), expected.clone());
            }
        }
    }
}
