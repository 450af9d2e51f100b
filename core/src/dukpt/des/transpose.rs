//! Between blocks, one for each lane, and wires, one for each bit.
//!
//! Lane `i * W::WIDTH + w` is bit `i` of the `w`th 64 bits of a word.

use super::bitslice::Wires;
use super::word::{MAX_WIDTH, Word};

/// The wires of one 64-bit number for each lane, the highest bit's first.
#[inline(always)]
pub(super) fn wires<W: Word>(number: impl Fn(usize) -> u64) -> Wires<W> {
    let mut wires = [W::splat(0); 64];
    for (at, wire) in wires.iter_mut().enumerate() {
        let row: [u64; MAX_WIDTH] = std::array::from_fn(|w| if w < W::WIDTH { number(at * W::WIDTH + w) } else { 0 });
        *wire = W::load(&row);
    }
    transpose(&mut wires);
    wires.reverse();
    wires
}

/// Hands each lane's number to `take`, the other way of [`wires`]. Leaves something else in the wires.
#[inline(always)]
pub(super) fn numbers<W: Word>(wires: &mut Wires<W>, mut take: impl FnMut(usize, u64)) {
    wires.reverse();
    transpose(wires);
    for (at, wire) in wires.iter().enumerate() {
        let mut row = [0; MAX_WIDTH];
        wire.store(&mut row);
        row.into_iter().take(W::WIDTH).enumerate().for_each(|(w, number)| take(at * W::WIDTH + w, number));
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
