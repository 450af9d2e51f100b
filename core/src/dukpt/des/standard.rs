//! The tables of FIPS 46-3, appendix 1, as printed, and the two permutations that need no table.
//!
//! Bits are numbered from 1 for the highest, as in the standard.

/// Rows of the S-boxes S1 to S8.
pub(super) const BOXES: [[u64; 64]; 8] = [
    [
        14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, 0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8, 4,
        1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, 15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13,
    ],
    [
        15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, 3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5, 0,
        14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, 13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9,
    ],
    [
        10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, 13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1, 13,
        6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, 1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12,
    ],
    [
        7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, 13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9, 10,
        6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, 3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14,
    ],
    [
        2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, 14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6, 4,
        2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, 11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3,
    ],
    [
        12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, 10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8, 9,
        14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, 4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13,
    ],
    [
        4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, 13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6, 1,
        4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, 6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12,
    ],
    [
        13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, 1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2, 7,
        11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, 2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11,
    ],
];

/// The permutation P of the S-boxes' outputs.
pub(super) const P: [usize; 32] = [
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4,
    25,
];

/// Permuted choice 2: which bits of C (1 to 28) and D (29 to 56) are a round's key.
pub(super) const PC2: [usize; 48] = [
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2, 41, 52, 31, 37, 47, 55, 30,
    40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
];

/// How far C and D are rotated to the left for each of the 16 rounds, the rounds before it included.
pub(super) const ROTATED: [usize; 16] = [1, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19, 21, 23, 25, 27, 28];

/// The value of an S-box for six input bits.
pub(super) const fn sbox(rows: &[u64; 64], input: usize) -> u64 {
    let row = (input >> 4 & 2) | (input & 1);
    let column = input >> 1 & 15;
    rows[row * 16 + column]
}

/// The initial permutation. Its table is a transposition of the block's 8 by 8 bits with rows and columns in another
/// order, so five exchanges of bits between the halves are enough.
pub(super) const fn initial_permutation(block: u64) -> u64 {
    let (left, right) = (block >> 32, block & 0xFFFF_FFFF);
    let (left, right) = exchange(left, right, 4, 0x0F0F_0F0F);
    let (left, right) = exchange(left, right, 16, 0x0000_FFFF);
    let (right, left) = exchange(right, left, 2, 0x3333_3333);
    let (right, left) = exchange(right, left, 8, 0x00FF_00FF);
    let (left, right) = exchange(left, right, 1, 0x5555_5555);
    left << 32 | right
}

/// The inverse of the initial permutation.
pub(super) const fn final_permutation(block: u64) -> u64 {
    let (left, right) = (block >> 32, block & 0xFFFF_FFFF);
    let (left, right) = exchange(left, right, 1, 0x5555_5555);
    let (right, left) = exchange(right, left, 8, 0x00FF_00FF);
    let (right, left) = exchange(right, left, 2, 0x3333_3333);
    let (left, right) = exchange(left, right, 16, 0x0000_FFFF);
    let (left, right) = exchange(left, right, 4, 0x0F0F_0F0F);
    left << 32 | right
}

/// The initial permutation as a table, counted from 0: which bit of a block comes to each place.
pub(super) const INITIAL: [usize; 64] = {
    let mut table = [0; 64];
    let mut from = 0;
    while from < 64 {
        let to = initial_permutation(1 << (63 - from)).leading_zeros();
        let mut at = 0;
        let mut counted = 0;
        while counted < to {
            at += 1;
            counted += 1;
        }
        table[at] = from;
        from += 1;
    }
    table
};

/// Exchanges the bits `mask << by` of one word with the bits `mask` of another.
const fn exchange(one: u64, other: u64, by: u32, mask: u64) -> (u64, u64) {
    let differ = (one >> by ^ other) & mask;
    (one ^ differ << by, other ^ differ)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: [usize; 64] = [
        58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4, 62, 54, 46, 38, 30, 22, 14, 6, 64, 56, 48, 40,
        32, 24, 16, 8, 57, 49, 41, 33, 25, 17, 9, 1, 59, 51, 43, 35, 27, 19, 11, 3, 61, 53, 45, 37, 29, 21, 13, 5, 63,
        55, 47, 39, 31, 23, 15, 7,
    ];

    #[test]
    fn the_initial_permutation_is_the_table_of_the_standard_and_the_final_one_undoes_it() {
        for (to, from) in IP.into_iter().enumerate() {
            assert_eq!(INITIAL[to], from - 1);
            let (to, from) = (1u64 << (63 - to), 1u64 << (64 - from));
            assert_eq!(initial_permutation(from), to);
            assert_eq!(final_permutation(to), from);
        }
    }
}
