//! The order of the bytes of a register whose permutations are put off: the shuffles into it and out of it.

/// The indices by which a shuffle brings a register whose bytes are `rotations` RotWords and `shifts` ShiftRows behind
/// into its own order.
pub(super) const fn leave(rotations: usize, shifts: usize) -> [u8; 16] {
    let mut indices = [0; 16];
    let mut at = 0;
    while at < 16 {
        indices[at] = BYTES[source(at, rotations, shifts)];
        at += 1;
    }
    indices
}

/// The indices of the shuffle that [`leave`] undoes.
pub(super) const fn enter(rotations: usize, shifts: usize) -> [u8; 16] {
    let mut indices = [0; 16];
    let mut at = 0;
    while at < 16 {
        indices[source(at, rotations, shifts)] = BYTES[at];
        at += 1;
    }
    indices
}

/// Where a byte comes from: RotWord takes a row from the row below, the inverse of ShiftRows row `r` from `r` columns
/// to the left.
const fn source(at: usize, rotations: usize, shifts: usize) -> usize {
    let row = (at + rotations) % 4;
    let column = (at / 4 + row * (4 - shifts % 4)) % 4;
    4 * column + row
}

/// The numbers of the bytes as a shuffle reads them.
const BYTES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The indices by which a shuffle brings word `from` of four, and those after it, each to the end of a block of its own,
/// first byte first, with zeros before it.
pub(super) const fn places<const PIECES: usize>(from: usize) -> [[u8; 16]; PIECES] {
    const NONE: u8 = 0x80;
    let mut indices = [[NONE; 16]; PIECES];
    let mut piece = 0;
    while piece < PIECES {
        let word = 4 * ((from + piece) % 4);
        let [.., a, b, c, d] = &mut indices[piece];
        (*a, *b, *c, *d) = (BYTES[word + 3], BYTES[word + 2], BYTES[word + 1], BYTES[word]);
        piece += 1;
    }
    indices
}
