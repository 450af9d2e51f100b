//! Eight keys side by side, with VAES on AVX2.

use std::arch::x86_64::{
    __m256i, _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_broadcastsi128_si256, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_shuffle_epi8, _mm256_shuffle_ps,
    _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

super::group::kernels! {
    "aes,avx2,vaes", __m256i of 2, 1 abreast by ones,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm256_broadcastsi128_si256, _mm256_set1_epi32,
    xor: _mm256_xor_si256, shuffle: _mm256_shuffle_epi8,
    low_words: _mm256_unpacklo_epi32, high_words: _mm256_unpackhi_epi32, low_halves: _mm256_unpacklo_epi64, high_halves: _mm256_unpackhi_epi64,
    even_words: even_words_of, odd_words: odd_words_of,
    enc: _mm256_aesenc_epi128, enclast: _mm256_aesenclast_epi128
}

/// Words 0 and 2 of both.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn even_words_of(a: __m256i, b: __m256i) -> __m256i {
    _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)))
}

/// Words 1 and 3 of both.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn odd_words_of(a: __m256i, b: __m256i) -> __m256i {
    _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)))
}
