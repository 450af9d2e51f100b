//! Thirty-two keys side by side, with VAES on AVX-512.

use std::arch::x86_64::{
    __m512i, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_shuffle_epi8, _mm512_shuffle_ps,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

super::group::kernels! {
    "aes,vaes,avx512f,avx512bw", __m512i of 4, 2 abreast by pairs,
    _mm512_loadu_si512, _mm512_storeu_si512, _mm512_broadcast_i32x4, _mm512_set1_epi32,
    xor: _mm512_xor_si512, shuffle: _mm512_shuffle_epi8,
    low_words: _mm512_unpacklo_epi32, high_words: _mm512_unpackhi_epi32, low_halves: _mm512_unpacklo_epi64, high_halves: _mm512_unpackhi_epi64,
    even_words: even_words_of, odd_words: odd_words_of,
    enc: _mm512_aesenc_epi128, enclast: _mm512_aesenclast_epi128
}

/// Words 0 and 2 of both.
#[inline]
#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
fn even_words_of(a: __m512i, b: __m512i) -> __m512i {
    _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
}

/// Words 1 and 3 of both.
#[inline]
#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
fn odd_words_of(a: __m512i, b: __m512i) -> __m512i {
    _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
}
