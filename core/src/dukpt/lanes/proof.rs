//! The known answers a path has to give before it may compute a key: those of the portable one, to the same questions.
//!
//! Nothing here is secret.

use super::batch::MOST_LANES;
use super::{Batch, Block, Data, Errand, Key, Trusted};
use crate::key::{KeyBytes, KeyLen};

const LENS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
/// A legal counter with one-bits at both ends, and one step of the way to it.
const COUNTER: u32 = 0x8421_0401;
const ANCESTOR: u32 = 0x8000_0000;

/// Whether every operation, with every length of key, gives the answer of the portable path.
pub(super) fn agrees_with_portable(candidate: Trusted) -> bool {
    LENS.into_iter().all(|len| {
        let answers = |path: Trusted| {
            (derived(path, len), two(path, len), walked(path, len), chained(path, len), decrypted(path, len))
        };
        answers(candidate) == answers(Trusted::PORTABLE) && many_as_one_by_one(candidate, len)
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

fn two(path: Trusted, len: KeyLen) -> [[Key; 2]; 3] {
    LENS.map(|new_len| {
        let (mut one, mut other) = (bytes(0x33), bytes(0x44));
        path.derive_two(len, &key(len), [data(), data().at(COUNTER)], new_len, [&mut one, &mut other]);
        [one, other]
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

/// A batch that fills every lane, each with a key, a counter and a length of way of its own.
fn many_as_one_by_one(candidate: Trusted, len: KeyLen) -> bool {
    let keys: [Key; MOST_LANES] = {
        let mut seed = 0;
        [(); MOST_LANES].map(|()| {
            seed += 1;
            let mut key: Key = bytes(seed);
            key[len.bytes()..].fill(0);
            key
        })
    };
    let mut counters = [u32::MAX; MOST_LANES];
    for at in 1..MOST_LANES {
        counters[at] = counters[at - 1] >> 1;
    }
    let errand =
        |number: usize| Errand { key: &keys[number], from: 0, tail: u64::from(counters[number]) | 0x0123_4567 << 32 };
    let batch = Batch { len, node_head: data().head, last: Some((data().head ^ 0xB000 << 32, len)) };
    let answers = |path: Trusted| {
        let mut places = [(); MOST_LANES].map(|()| KeyBytes::filled(len, |_| {}));
        path.run(batch, 0..MOST_LANES, errand, &mut places);
        places
    };
    answers(candidate).iter().zip(&answers(Trusted::PORTABLE)).all(|(ours, theirs)| ours.ct_eq(theirs))
}
