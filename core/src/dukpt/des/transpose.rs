//! Between numbers of 64 bits, one for each lane, and wires, one for each bit.
//!
//! Lane `i * W::WIDTH + w` is bit `i` of the `w`th 64 bits of a word.

use zeroize::Zeroizing;

use super::bitslice::Wires;
use super::standard::INITIAL;
use super::word::{MAX_WIDTH, Word};

/// A number for each lane; of a word that is not the widest, the first ones count.
pub(super) type Numbers = [u64; 64 * MAX_WIDTH];

/// The wires of the numbers, the highest bit's first.
#[inline(always)]
pub(super) fn spread<W: Word>(numbers: &Numbers, wires: &mut Wires<W>) {
    for (wire, row) in wires.iter_mut().zip(numbers.chunks_exact(W::WIDTH)) {
        *wire = W::load(row);
    }
    transpose(wires);
    wires.reverse();
}

/// The wires of blocks or keys, in the order of the initial permutation.
#[inline(always)]
pub(super) fn permute<W: Word>(blocks: &Numbers, wires: &mut Wires<W>) {
    let mut natural = Zeroizing::new([W::splat(0); 64]);
    spread(blocks, &mut natural);
    for (wire, from) in wires.iter_mut().zip(INITIAL) {
        *wire = natural[from];
    }
}

/// The blocks or keys of wires in the order of the initial permutation.
#[inline(always)]
pub(super) fn restore<W: Word>(wires: &Wires<W>, blocks: &mut Numbers) {
    let mut natural = Zeroizing::new([W::splat(0); 64]);
    for (wire, from) in wires.iter().zip(INITIAL) {
        natural[63 - from] = *wire;
    }
    transpose(&mut natural);
    for (wire, row) in natural.iter().zip(blocks.chunks_exact_mut(W::WIDTH)) {
        wire.store(row);
    }
}

/// All ones in the lanes chosen, all zeros in the others.
#[inline(always)]
pub(super) fn mask<W: Word>(chosen: impl Fn(usize) -> bool) -> W {
    let row: [u64; MAX_WIDTH] = std::array::from_fn(|w| {
        let lane = |at: usize| w < W::WIDTH && chosen(at * W::WIDTH + w);
        (0..64).fold(0, |word, at| word | u64::from(lane(at)) << at)
    });
    W::load(&row)
}

/// Transposes 64 rows of 64 bits.
#[inline(always)]
fn transpose<W: Word>(rows: &mut [W; 64]) {
    exchange::<W, 32>(rows, 0x0000_0000_FFFF_FFFF);
    exchange::<W, 16>(rows, 0x0000_FFFF_0000_FFFF);
    exchange::<W, 8>(rows, 0x00FF_00FF_00FF_00FF);
    exchange::<W, 4>(rows, 0x0F0F_0F0F_0F0F_0F0F);
    exchange::<W, 2>(rows, 0x3333_3333_3333_3333);
    exchange::<W, 1>(rows, 0x5555_5555_5555_5555);
}

/// Exchanges two quarters of each block of `2 * BY` rows and columns.
#[inline(always)]
fn exchange<W: Word, const BY: usize>(rows: &mut [W; 64], mask: u64) {
    let mask = W::splat(mask);
    for block in rows.chunks_exact_mut(2 * BY) {
        let (upper, lower) = block.split_at_mut(BY);
        for (upper, lower) in upper.iter_mut().zip(lower) {
            let differ = (upper.down::<BY>() ^ *lower) & mask;
            *lower = *lower ^ differ;
            *upper = *upper ^ differ.up::<BY>();
        }
    }
}
