//! Scrubbing the stack: what ciphers and compilers leave below the current frame is overwritten.

use std::hint::black_box;

/// Enough for the deepest call made while a card is being sealed, several times over.
const DEPTH: usize = 128 * 1024;

/// Runs `work`, then overwrites the stack it used.
///
/// Wiping a buffer does not reach the copies that moves, spilled registers and a cipher's own variables leave in
/// dead stack frames. The next call at the same depth lies over them, so it is made large and filled with zeros.
pub fn scrubbed<R>(work: impl FnOnce() -> R) -> R {
    let result = apart(work);
    overwrite();
    result
}

#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut dead = [0u8; DEPTH];
    black_box(&mut dead);
}
