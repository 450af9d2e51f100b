//! The key schedule for [`super::pair`]: the 16 round keys of one DES key, placed where the round wants them.
//!
//! A bit of the round keys follows one place of C or D through its rotations (FIPS 46-3, appendix 1). So the 28 bits
//! from that place on, as one row of a bit matrix, hold that bit for every rotation there is, and transposing the matrix
//! of all 48 places gives whole round keys, a row for each rotation.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::standard::{PC2, ROTATED};
use super::word::{Baseline, Word};

/// The lower nibble of every byte.
const LOW_NIBBLES: u64 = 0x0F0F_0F0F_0F0F_0F0F;

/// What a round adds to its input: first to the four bits of a nibble, then to the outer neighbours of the nibble, at
/// bit 0 the one before it and at bit 3 the one after.
pub(super) type RoundKey = [u64; 2];

/// The round keys of one DES key, both blocks of a pair under it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Schedule {
    /// First the matrix, then what the rounds add to a nibble.
    inner: [u64; 32],
    /// What they add to its neighbours.
    outer: [u64; 32],
}

/// Where one of the 24 used rows of the matrix starts in C and in D, both counted from 0.
#[derive(Clone, Copy)]
struct Row {
    at: usize,
    in_c: usize,
    in_d: usize,
}

/// The rows: the key bit of input `input` of S-box `sbox` (of S1 to S4 in C, of S5 to S8 in D) belongs to the nibbles of
/// its byte, S1's being the highest.
const ROWS: [Row; 24] = {
    let mut rows = [Row { at: 0, in_c: 0, in_d: 0 }; 24];
    let mut index = 0;
    while index < 24 {
        let (sbox, input) = (index / 6, index % 6);
        let bit = match input {
            0 => 4,
            5 => 7,
            inner => 4 - inner,
        };
        rows[index] = Row { at: 8 * (3 - sbox) + bit, in_c: PC2[index] - 1, in_d: PC2[index + 24] - 29 };
        index += 1;
    }
    rows
};

/// The difference between the round keys of two keys with this public difference, for the second block of a pair: the
/// schedule only moves bits.
pub(super) const fn difference(key: u64) -> [RoundKey; 16] {
    let (c, d) = permuted_choice_1(key);
    let mut rounds = [[0; 2]; 16];
    let mut round = 0;
    while round < 16 {
        let mut row = 0;
        while row < 24 {
            let Row { at, in_c, in_d } = ROWS[row];
            let c_bit = c >> (27 - (in_c + ROTATED[round]) % 28) & 1;
            let d_bit = d >> (27 - (in_d + ROTATED[round]) % 28) & 1;
            let inner = at % 8 < 4;
            let to = if inner { at + 4 } else { at };
            rounds[round][if inner { 0 } else { 1 }] |= (c_bit << 32 | d_bit) << to;
            row += 1;
        }
        round += 1;
    }
    rounds
}

/// The rows in the order they lie in. Written out, because a loop over them is not unrolled, and its shifts are then not
/// constants.
macro_rules! rows {
    ($c:expr, $d:expr; $($lies:literal)*) => { [$(row::<$lies>($c, $d)),*] };
}

impl Schedule {
    /// Room for a schedule.
    pub(super) const fn new() -> Self {
        Self { inner: [0; 32], outer: [0; 32] }
    }

    /// The schedule of a key.
    pub(super) fn of(key: u64) -> Self {
        let mut schedule = Self::new();
        schedule.set(key);
        schedule
    }

    /// Becomes the schedule of a key, given in the order of the initial permutation.
    #[inline(always)]
    pub(super) fn set(&mut self, key: u64) {
        let (c, d) = permuted_choice_1(key);
        // Twice in a row, so that the 28 bits from any place on lie together; three bits up, so that every shift is to
        // the right.
        let (c, d) = ((c << 28 | c) << 3, (d << 28 | d) << 3);
        self.inner = rows!(c, d; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
        transpose::<Baseline>(&mut self.inner);
        double::<Baseline>(&mut self.inner, &mut self.outer);
    }

    /// The round keys, first to last.
    pub(super) fn forward(&self) -> impl Iterator<Item = RoundKey> {
        PLACES.iter().map(|&place| [self.inner[place], self.outer[place]])
    }

    /// The round keys, last to first: they decrypt.
    pub(super) fn backward(&self) -> impl Iterator<Item = RoundKey> {
        PLACES.iter().rev().map(|&place| [self.inner[place], self.outer[place]])
    }
}

/// C and D, 28 bits each. Of a key in the order of the initial permutation, permuted choice 1 is the choice of bytes.
const fn permuted_choice_1(key: u64) -> (u64, u64) {
    let c = (key >> 24 & 0xFF) << 20 | (key >> 56) << 12 | (key >> 16 & 0xFF) << 4 | key >> 52 & 0xF;
    let d = (key & 0xFF) << 20 | (key >> 40 & 0xFF) << 12 | (key >> 8 & 0xFF) << 4 | key >> 48 & 0xF;
    (c, d)
}

/// The row that lies at a place.
#[inline(always)]
const fn row<const LIES: usize>(c: u64, d: u64) -> u64 {
    match const { lying(LIES) } {
        Some(Row { in_c, in_d, .. }) => (c >> (27 - in_c)) << 32 | (d >> (27 - in_d)) & 0xFFFF_FFFF,
        None => 0,
    }
}

/// Which row lies at a place.
const fn lying(place_of: usize) -> Option<Row> {
    let mut index = 0;
    while index < 24 {
        if place(ROWS[index].at) == place_of {
            return Some(ROWS[index]);
        }
        index += 1;
    }
    None
}

/// Where a row of the matrix lies: those 16 apart together, so that a word of two has no exchange inside it but the first.
const fn place(row: usize) -> usize {
    2 * (row % 16) + row / 16
}

/// Where each round's key lies.
const PLACES: [usize; 16] = {
    let mut places = [0; 16];
    let mut round = 0;
    while round < 16 {
        places[round] = place(31 - ROTATED[round]);
        round += 1;
    }
    places
};

/// Takes the two nibbles of every byte apart and doubles them, for the two blocks of a pair.
#[inline(always)]
fn double<W: Word>(rows: &mut [u64; 32], upper: &mut [u64; 32]) {
    let low = W::splat(LOW_NIBBLES);
    for (row, upper) in rows.chunks_exact_mut(W::WIDTH).zip(upper.chunks_exact_mut(W::WIDTH)) {
        let word = W::load(row);
        for (nibbles, place) in [(word & low, row), (word.down::<4>() & low, upper)] {
            (nibbles | nibbles.up::<4>()).store(place);
        }
    }
}

/// Transposes the upper and the lower 32 columns of 32 rows, each as a matrix of its own.
#[inline(always)]
fn transpose<W: Word>(rows: &mut [u64; 32]) {
    for pair in rows.as_chunks_mut::<2>().0 {
        let differ = (pair[0] >> 16 ^ pair[1]) & 0x0000_FFFF_0000_FFFF;
        *pair = [pair[0] ^ differ << 16, pair[1] ^ differ];
    }
    exchange::<W, 8>(rows, 0x00FF_00FF_00FF_00FF);
    exchange::<W, 4>(rows, LOW_NIBBLES);
    exchange::<W, 2>(rows, 0x3333_3333_3333_3333);
    exchange::<W, 1>(rows, 0x5555_5555_5555_5555);
}

/// Exchanges two quarters of each block of `2 * BY` rows and columns.
#[inline(always)]
fn exchange<W: Word, const BY: usize>(rows: &mut [u64; 32], mask: u64) {
    let mask = W::splat(mask);
    // Rows 16 apart lie together, so these lie twice as far apart as they are.
    for block in rows.chunks_exact_mut(4 * BY) {
        let (upper, lower) = block.split_at_mut(2 * BY);
        for (upper, lower) in upper.chunks_exact_mut(W::WIDTH).zip(lower.chunks_exact_mut(W::WIDTH)) {
            let (one, other) = (W::load(upper), W::load(lower));
            let differ = (one.down::<BY>() ^ other) & mask;
            (other ^ differ).store(lower);
            (one ^ differ.up::<BY>()).store(upper);
        }
    }
}
