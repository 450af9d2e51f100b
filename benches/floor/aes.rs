//! The fewest operations X9.24-3 leaves for an AES record, chained as it chains them: one key expansion and one block
//! for each one-bit of the counter, the same for the data key, and the record under it.
//!
//! Independent of the product: the classic key expansion by `aeskeygenassist`, every key in a register.

use std::arch::x86_64::{
    __m128i, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aesimc_si128,
    _mm_aeskeygenassist_si128, _mm_set1_epi32, _mm_setzero_si128, _mm_shuffle_epi32, _mm_slli_si128, _mm_srli_si128,
    _mm_unpacklo_epi64, _mm_xor_si128,
};
use std::hint::black_box;

use warifu_core::key::KeyLen;

/// Steps down from an all-zero key, then three blocks decrypted; the result goes to the black box.
#[allow(unsafe_code, reason = "asked of the processor first")]
pub(crate) fn record(len: KeyLen, steps: u32) {
    assert!(is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx"), "the floor is one of AES-NI");
    // SAFETY: the processor has the instructions.
    unsafe { of_length(len, steps) }
}

#[target_feature(enable = "aes,avx")]
fn of_length(len: KeyLen, steps: u32) {
    match len {
        KeyLen::K128 => chain(steps, |[low, _]| expand_128(low)),
        KeyLen::K192 => chain(steps, |key| expand_192(key)),
        KeyLen::K256 => chain(steps, |key| expand_256(key)),
    }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn chain<const KEYS: usize>(steps: u32, expand: impl Fn([__m128i; 2]) -> [__m128i; KEYS]) {
    let mut key = black_box([_mm_setzero_si128(); 2]);
    for step in 0..steps {
        let keys = expand(key);
        key[0] = encrypt(&keys, _mm_set1_epi32(step.cast_signed()));
        if KEYS > 11 {
            key[1] = encrypt(&keys, _mm_set1_epi32(!step.cast_signed()));
        }
    }
    let keys = expand(key);
    let sealed = black_box([_mm_setzero_si128(); 3]);
    let mut states = sealed.map(|block| _mm_xor_si128(block, keys[KEYS - 1]));
    for key in keys[1..KEYS - 1].iter().rev() {
        let key = _mm_aesimc_si128(*key);
        states = states.map(|state| _mm_aesdec_si128(state, key));
    }
    let [a, b, c] = states.map(|state| _mm_aesdeclast_si128(state, keys[0]));
    black_box([a, _mm_xor_si128(b, sealed[0]), _mm_xor_si128(c, sealed[1])]);
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn encrypt<const KEYS: usize>(keys: &[__m128i; KEYS], block: __m128i) -> __m128i {
    let mut state = _mm_xor_si128(block, keys[0]);
    for key in &keys[1..KEYS - 1] {
        state = _mm_aesenc_si128(state, *key);
    }
    _mm_aesenclast_si128(state, keys[KEYS - 1])
}

/// Each word plus those before it.
#[inline]
#[target_feature(enable = "aes,avx")]
fn sums(key: __m128i) -> __m128i {
    let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    _mm_xor_si128(key, _mm_slli_si128::<8>(key))
}

/// The next four words, from those `NK` words above and the word before, column `COLUMN` of `word`.
#[inline]
#[target_feature(enable = "aes,avx")]
fn next<const CONSTANT: i32, const COLUMNS: i32>(key: __m128i, word: __m128i) -> __m128i {
    _mm_xor_si128(sums(key), _mm_shuffle_epi32::<COLUMNS>(_mm_aeskeygenassist_si128::<CONSTANT>(word)))
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn expand_128(k0: __m128i) -> [__m128i; 11] {
    let k1 = next::<0x01, 0xFF>(k0, k0);
    let k2 = next::<0x02, 0xFF>(k1, k1);
    let k3 = next::<0x04, 0xFF>(k2, k2);
    let k4 = next::<0x08, 0xFF>(k3, k3);
    let k5 = next::<0x10, 0xFF>(k4, k4);
    let k6 = next::<0x20, 0xFF>(k5, k5);
    let k7 = next::<0x40, 0xFF>(k6, k6);
    let k8 = next::<0x80, 0xFF>(k7, k7);
    let k9 = next::<0x1B, 0xFF>(k8, k8);
    let k10 = next::<0x36, 0xFF>(k9, k9);
    [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10]
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn expand_256([k0, k1]: [__m128i; 2]) -> [__m128i; 15] {
    let k2 = next::<0x01, 0xFF>(k0, k1);
    let k3 = next::<0x00, 0xAA>(k1, k2);
    let k4 = next::<0x02, 0xFF>(k2, k3);
    let k5 = next::<0x00, 0xAA>(k3, k4);
    let k6 = next::<0x04, 0xFF>(k4, k5);
    let k7 = next::<0x00, 0xAA>(k5, k6);
    let k8 = next::<0x08, 0xFF>(k6, k7);
    let k9 = next::<0x00, 0xAA>(k7, k8);
    let k10 = next::<0x10, 0xFF>(k8, k9);
    let k11 = next::<0x00, 0xAA>(k9, k10);
    let k12 = next::<0x20, 0xFF>(k10, k11);
    let k13 = next::<0x00, 0xAA>(k11, k12);
    let k14 = next::<0x40, 0xFF>(k12, k13);
    [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14]
}

/// Six words a step, so two steps are three keys.
#[inline]
#[target_feature(enable = "aes,avx")]
fn expand_192([a0, b0]: [__m128i; 2]) -> [__m128i; 13] {
    let (a1, b1) = next_six::<0x01>(a0, b0);
    let (a2, b2) = next_six::<0x02>(a1, b1);
    let (a3, b3) = next_six::<0x04>(a2, b2);
    let (a4, b4) = next_six::<0x08>(a3, b3);
    let (a5, b5) = next_six::<0x10>(a4, b4);
    let (a6, b6) = next_six::<0x20>(a5, b5);
    let (a7, b7) = next_six::<0x40>(a6, b6);
    let (a8, _) = next_six::<0x80>(a7, b7);
    let first = |b, a| _mm_unpacklo_epi64(b, a);
    let second = |a, b| _mm_unpacklo_epi64(_mm_srli_si128::<8>(a), b);
    [
        a0,
        first(b0, a1),
        second(a1, b1),
        a2,
        first(b2, a3),
        second(a3, b3),
        a4,
        first(b4, a5),
        second(a5, b5),
        a6,
        first(b6, a7),
        second(a7, b7),
        a8,
    ]
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn next_six<const CONSTANT: i32>(four: __m128i, two: __m128i) -> (__m128i, __m128i) {
    let four = next::<CONSTANT, 0x55>(four, two);
    let two = _mm_xor_si128(two, _mm_slli_si128::<4>(two));
    (four, _mm_xor_si128(two, _mm_shuffle_epi32::<0xFF>(four)))
}
