//! The known answers a path has to give before it may compute a key: those of the portable one, to the same questions.
//!
//! Nothing here is secret.

use super::{Block, Data, Key, Trusted};
use crate::key::KeyLen;

const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
/// A legal counter with one-bits at both ends, and one step of the way to it.
const COUNTER: u32 = 0x8421_0401;
const ANCESTOR: u32 = 0x8000_0000;

/// Whether every operation, with every length of key, gives the answer of the portable path.
pub(super) fn agrees_with_portable(candidate: Trusted) -> bool {
    LENS.into_iter().all(|len| {
        let answers = |path: Trusted| (derived(path, len), walked(path, len), chained(path, len), decrypted(path, len));
        answers(candidate) == answers(Trusted::PORTABLE)
    })
}

/// Bytes without a pattern in which a fault could hide: a byte is 7 times the one before, and 3.
fn bytes<const LEN: usize>(seed: u8) -> [u8; LEN] {
    let mut last = seed;
    [(); LEN].map(|()| {
        last = last.wrapping_mul(7).wrapping_add(3);
        last
    })
}

fn key(len: KeyLen) -> Key {
    let mut key = bytes(0x5A);
    key[len.bytes()..].fill(0);
    key
}

fn data() -> Data {
    Data { head: 0x0101_8000_0002_0080, tail: 0x9012_3456_0000_0000 }
}

fn derived(path: Trusted, len: KeyLen) -> [Key; 3] {
    LENS.map(|new_len| {
        let mut derived = bytes(0x33);
        path.derive(len, &key(len), data(), new_len, &mut derived);
        derived
    })
}

fn walked(path: Trusted, len: KeyLen) -> [Key; 2] {
    [0, ANCESTOR].map(|from| {
        let mut node = key(len);
        path.walk(len, &mut node, data(), from, COUNTER);
        node
    })
}

fn chained(path: Trusted, len: KeyLen) -> Block {
    let mut state = bytes(0x77);
    path.chain(len, &key(len), &mut state, &[bytes(1), bytes(2), bytes(3)]);
    state
}

fn decrypted(path: Trusted, len: KeyLen) -> [Block; 5] {
    let mut blocks = [1, 2, 3, 4, 5].map(bytes);
    path.cbc_decrypt(len, &key(len), &bytes(0x99), &mut blocks);
    blocks
}
