//! Eight keys side by side, with AES-NI.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_loadu_si128,
    _mm_set1_epi32, _mm_shuffle_epi8, _mm_shuffle_ps, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64,
    _mm_unpacklo_epi32, _mm_unpacklo_epi64, _mm_xor_si128,
};
use std::convert::identity;

super::group::kernels! {
    "aes,avx", __m128i of 1, 2 abreast by pairs,
    _mm_loadu_si128, _mm_storeu_si128, identity, _mm_set1_epi32,
    xor: _mm_xor_si128, shuffle: _mm_shuffle_epi8,
    low_words: _mm_unpacklo_epi32, high_words: _mm_unpackhi_epi32, low_halves: _mm_unpacklo_epi64, high_halves: _mm_unpackhi_epi64,
    even_words: even_words_of, odd_words: odd_words_of,
    enc: _mm_aesenc_si128, enclast: _mm_aesenclast_si128
}

/// Words 0 and 2 of both.
#[inline]
#[target_feature(enable = "aes,avx")]
fn even_words_of(a: __m128i, b: __m128i) -> __m128i {
    _mm_castps_si128(_mm_shuffle_ps::<0b10_00_10_00>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
}

/// Words 1 and 3 of both.
#[inline]
#[target_feature(enable = "aes,avx")]
fn odd_words_of(a: __m128i, b: __m128i) -> __m128i {
    _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
}
