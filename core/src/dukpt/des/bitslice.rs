//! DES with every bit of every lane's block in a word of its own, a wire: as many ciphers at once as a word has bits.
//!
//! On wires every permutation and the whole key schedule are only another order of names, and the S-boxes are the
//! circuits of [`super::boxes`].

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::boxes::{s1, s2, s3, s4, s5, s6, s7, s8};
use super::standard::{P, PC2, ROTATED};
use super::word::Word;

/// The wires of a block or a key, in the order of the initial permutation.
pub(super) type Wires<W> = [W; 64];

/// A key's C and D, each twice in a row, so that its rotations are parts of it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Schedule<W: Word> {
    c: [W; 56],
    d: [W; 56],
}

/// Which way a cipher goes.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

/// Where permuted choice 1 finds C and D in a key in the order of the initial permutation.
const C: [usize; 28] = chosen([32, 0, 40, 8]);
const D: [usize; 28] = chosen([56, 16, 48, 12]);

const fn chosen(starts: [usize; 4]) -> [usize; 28] {
    let mut chosen = [0; 28];
    let mut at = 0;
    while at < 28 {
        chosen[at] = starts[at / 8] + at % 8;
        at += 1;
    }
    chosen
}

/// Where P takes each output of the S-boxes.
const TARGETS: [usize; 32] = {
    let mut targets = [0; 32];
    let mut to = 0;
    while to < 32 {
        targets[P[to] - 1] = to;
        to += 1;
    }
    targets
};

impl<W: Word> Schedule<W> {
    /// Room for a schedule.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { c: [W::splat(0); 56], d: [W::splat(0); 56] }
    }

    /// Becomes the schedule of a key.
    #[inline(always)]
    pub(super) fn set(&mut self, key: &Wires<W>) {
        for at in 0..28 {
            (self.c[at], self.c[at + 28]) = (key[C[at]], key[C[at]]);
            (self.d[at], self.d[at + 28]) = (key[D[at]], key[D[at]]);
        }
    }

    /// Becomes the schedule of the key that differs in the bits of a public mask.
    #[inline(always)]
    pub(super) fn invert(&mut self, mask: u64) {
        for at in 0..28 {
            if is_set(mask, C[at]) {
                (self.c[at], self.c[at + 28]) = (!self.c[at], !self.c[at]);
            }
            if is_set(mask, D[at]) {
                (self.d[at], self.d[at + 28]) = (!self.d[at], !self.d[at]);
            }
        }
    }
}

/// Whether a public mask in the order of the initial permutation has a wire's bit.
pub(super) const fn is_set(mask: u64, wire: usize) -> bool {
    mask >> (63 - wire) & 1 == 1
}

/// Encrypts or decrypts blocks from the order of the initial permutation to that order again.
#[inline(always)]
pub(super) fn cipher<W: Word>(block: &mut Wires<W>, key: &Schedule<W>, direction: Direction) {
    let (left, right) = block.split_at_mut(32);
    let mut left: &mut [W; 32] = left.try_into().expect("half of 64 wires");
    let mut right: &mut [W; 32] = right.try_into().expect("half of 64 wires");
    for round in 0..16 {
        let rotated = match direction {
            Direction::Encrypt => ROTATED[round],
            Direction::Decrypt => ROTATED[15 - round],
        };
        let (c, d) = (key.c[rotated..].first_chunk(), key.d[rotated..].first_chunk());
        let (c, d) = (c.expect("twice 28 wires, rotated by 28 at most"), d.expect("as C"));
        add_mixed(left, right, c, d);
        std::mem::swap(&mut left, &mut right);
    }
    std::mem::swap(left, right);
}

/// Adds the cipher function f of the right half to the left half.
#[inline(always)]
fn add_mixed<W: Word>(left: &mut [W; 32], right: &[W; 32], c: &[W; 28], d: &[W; 28]) {
    // Expansion E: a box's own four bits and its neighbours' nearest; its part of the round key from C or D.
    macro_rules! substitute {
        ($sbox:ident, $number:literal, $half:ident, $first:literal) => {
            let inputs: [W; 6] = std::array::from_fn(|input| {
                right[(4 * $number + 31 + input) % 32] ^ $half[PC2[6 * $number + input] - $first]
            });
            let outputs = $sbox(inputs);
            for (output, wire) in outputs.into_iter().enumerate() {
                let to = TARGETS[4 * $number + output];
                left[to] = left[to] ^ wire;
            }
        };
    }
    substitute!(s1, 0, c, 1);
    substitute!(s2, 1, c, 1);
    substitute!(s3, 2, c, 1);
    substitute!(s4, 3, c, 1);
    substitute!(s5, 4, d, 29);
    substitute!(s6, 5, d, 29);
    substitute!(s7, 6, d, 29);
    substitute!(s8, 7, d, 29);
}
