//! Registers to and from memory, the only pointers; and the stack that kernels for one key leave.

use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};
use std::ptr;

#[inline]
#[target_feature(enable = "avx")]
pub(super) fn load(block: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are readable there, and the instruction asks for no alignment.
    unsafe { _mm_loadu_si128(ptr::from_ref(block).cast()) }
}

#[inline]
#[target_feature(enable = "avx")]
pub(super) fn load_words(words: &[u32; 4]) -> __m128i {
    // SAFETY: 16 bytes are readable there, and the instruction asks for no alignment.
    unsafe { _mm_loadu_si128(ptr::from_ref(words).cast()) }
}

#[inline]
#[target_feature(enable = "avx")]
pub(super) fn store(register: __m128i, block: &mut [u8; 16]) {
    // SAFETY: 16 bytes are writable there, and the instruction asks for no alignment.
    unsafe { _mm_storeu_si128(ptr::from_mut(block).cast(), register) }
}

/// Overwrites the stack just left by a kernel for one key, to which the compiler may have spilled part of a key or a
/// state: at most the red zone, 128 bytes.
#[inline(never)]
#[target_feature(enable = "avx")]
pub(super) fn wipe_spilled() {
    let zeros = [0_u8; 192];
    zeroize::optimization_barrier(&zeros);
}

/// The same after a decryption, for whose round keys there are not registers enough: 168 bytes more.
#[inline(never)]
#[target_feature(enable = "avx")]
pub(super) fn wipe_round_keys() {
    let zeros = [0_u8; 384];
    zeroize::optimization_barrier(&zeros);
}
