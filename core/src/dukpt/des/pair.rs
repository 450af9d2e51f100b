//! Two DES blocks side by side in two 64-bit words: the left halves and the right halves.
//!
//! Byte `i` of a word, counted from the highest, has the nibble of S-box `i + 1` of both blocks: the second block's
//! above the first's. All 16 S-boxes are computed at once: each of the six inputs becomes a word of nibbles all ones or
//! all zeros, and a polynomial in the six words gives all outputs. Its 64 coefficients have in each nibble those
//! of the S-box the nibble belongs to.
//!
//! Between two ciphers the final and the initial permutation cancel, so blocks stay in the order of the initial
//! permutation until someone outside wants them.

use super::schedule::RoundKey;
use super::standard::{BOXES, P, sbox};
use super::word::{Baseline, Word};

/// The lowest bit of every nibble.
const ONES: u64 = 0x1111_1111_1111_1111;
/// The nibbles of the first block.
const FIRST: u64 = 0x0F0F_0F0F_0F0F_0F0F;

/// Halves of two blocks.
pub(super) type Pair = [u64; 2];

/// At which bit of its nibble each S-box puts its outputs 1 to 4, that is [`P`]'s inputs. Free to choose; chosen,
/// by trying, so that P becomes ten rotations.
const PLACES: [[usize; 4]; 8] =
    [[3, 2, 1, 0], [3, 0, 1, 2], [1, 0, 2, 3], [2, 0, 1, 3], [0, 1, 3, 2], [0, 3, 1, 2], [0, 1, 3, 2], [3, 0, 2, 1]];

/// P as rotations to the left, each for the bits of one mask.
const ROTATIONS: [(usize, u64); 10] = {
    let mut rotations = [(7, 0), (9, 0), (18, 0), (24, 0), (31, 0), (33, 0), (39, 0), (40, 0), (48, 0), (56, 0)];
    let mut found = 0;
    let mut to = 0;
    while to < 32 {
        let from = P[to] - 1;
        let target = 8 * (7 - to / 4) + (3 - to % 4);
        let source = 8 * (7 - from / 4) + PLACES[from / 4][from % 4];
        let mut at = 0;
        while at < 10 {
            if (target + 64 - source) % 64 == rotations[at].0 {
                rotations[at].1 |= 0x11 << target;
                found += 1;
            }
            at += 1;
        }
        to += 1;
    }
    assert!(found == 32, "every output of an S-box is moved by one of the rotations");
    rotations
};

/// The coefficients of the S-boxes' polynomials over the six inputs (algebraic normal form): of index `0b100000` the
/// first input's alone.
const COEFFICIENTS: [u64; 64] = {
    let mut table = [0; 64];
    let mut input = 0;
    while input < 64 {
        let mut number = 0;
        while number < 8 {
            let value = sbox(&BOXES[number], input);
            let mut output = 0;
            while output < 4 {
                table[input] |= (value >> (3 - output) & 1) << (8 * (7 - number) + PLACES[number][output]);
                output += 1;
            }
            number += 1;
        }
        table[input] |= table[input] << 4;
        input += 1;
    }
    // The Möbius transform makes coefficients of values.
    let mut width = 1;
    while width < 64 {
        let mut index = 0;
        while index < 64 {
            if index & width != 0 {
                table[index] ^= table[index ^ width];
            }
            index += 1;
        }
        width *= 2;
    }
    table
};

/// Encrypts pairs, all under the same round keys, from the order of the initial permutation to that order again.
/// The round keys in reverse decrypt.
#[inline(always)]
pub(super) fn cipher<const N: usize>(pairs: &mut [Pair; N], rounds: impl Iterator<Item = RoundKey>) {
    for key in rounds {
        for pair in &mut *pairs {
            let [left, right] = *pair;
            *pair = [right, left ^ mixed(right, key)];
        }
    }
    pairs.iter_mut().for_each(|pair| pair.reverse());
}

/// Two blocks in the order of the initial permutation, as a pair.
pub(super) const fn pair(first: u64, second: u64) -> Pair {
    [in_bytes(first >> 32) | in_bytes(second >> 32) << 4, in_bytes(first) | in_bytes(second) << 4]
}

/// One block in the order of the initial permutation, twice.
pub(super) const fn doubled(block: u64) -> Pair {
    pair(block, block)
}

/// The first block and the second.
pub(super) const fn blocks([left, right]: Pair) -> (u64, u64) {
    (in_nibbles(left) << 32 | in_nibbles(right), in_nibbles(left >> 4) << 32 | in_nibbles(right >> 4))
}

/// Adds two pairs.
pub(super) const fn added(one: Pair, other: Pair) -> Pair {
    [one[0] ^ other[0], one[1] ^ other[1]]
}

/// The cipher function f of FIPS 46-3: expansion E, the round key, the S-boxes, P.
#[inline(always)]
#[expect(clippy::manual_rotate, reason = "the amounts are counted in `usize`, as the tables are")]
fn mixed(right: u64, [inner, outer]: RoundKey) -> u64 {
    let own = right ^ inner;
    let before = right.rotate_right(8) ^ outer;
    let after = right.rotate_left(8) ^ outer;
    let boxes = substituted::<Baseline>([
        filled(before),
        filled(own >> 3),
        filled(own >> 2),
        filled(own >> 1),
        filled(own),
        filled(after >> 3),
    ]);
    ROTATIONS.iter().fold(0, |word, &(by, mask)| word | (boxes << by | boxes >> (64 - by)) & mask)
}

/// Every nibble all ones or all zeros, as its lowest bit is.
#[inline(always)]
const fn filled(bits: u64) -> u64 {
    let bits = bits & ONES;
    (bits << 4).wrapping_sub(bits)
}

/// The S-boxes: their polynomials, one input at a time, each halving what is left. The steps of one halving do not
/// depend on each other, so vectors do several at once.
#[inline(always)]
fn substituted<W: Word>([a, b, c, d, e, f]: [u64; 6]) -> u64 {
    // Room for the narrowest word; a wider one uses the first of these only.
    let mut terms = [W::splat(0); 32];
    let mut left = 32 / W::WIDTH;
    let input = W::splat(a);
    for (at, term) in terms[..left].iter_mut().enumerate() {
        let (low, high) = (&COEFFICIENTS[at * W::WIDTH..], &COEFFICIENTS[32 + at * W::WIDTH..]);
        *term = W::load(low) ^ input & W::load(high);
    }
    for input in [b, c, d, e].map(W::splat) {
        left /= 2;
        let (low, high) = terms[..2 * left].split_at_mut(left);
        low.iter_mut().zip(high).for_each(|(low, high)| *low = *low ^ input & *high);
    }
    let mut last = [0; 2];
    terms.iter().zip(last.chunks_exact_mut(W::WIDTH)).for_each(|(term, last)| term.store(last));
    last[0] ^ f & last[1]
}

/// The nibbles of the low 32 bits, each in a byte of its own.
const fn in_bytes(half: u64) -> u64 {
    let half = half & 0xFFFF_FFFF;
    let half = (half | half << 16) & 0x0000_FFFF_0000_FFFF;
    let half = (half | half << 8) & 0x00FF_00FF_00FF_00FF;
    (half | half << 4) & FIRST
}

/// The low nibble of each byte, together in 32 bits.
const fn in_nibbles(half: u64) -> u64 {
    let half = half & FIRST;
    let half = (half | half >> 4) & 0x00FF_00FF_00FF_00FF;
    let half = (half | half >> 8) & 0x0000_FFFF_0000_FFFF;
    (half | half >> 16) & 0xFFFF_FFFF
}
