//! The round keys of one key, each ready as the cipher beside it asks for it.
//!
//! One step down the tree lasts as long as its key schedule, so that is what is kept short: see [`Trail`].

use std::arch::x86_64::{
    __m128i, _mm_aesenclast_si128, _mm_alignr_epi8, _mm_and_si128, _mm_move_epi64, _mm_set_epi32, _mm_set1_epi32,
    _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_slli_si128, _mm_srli_si128, _mm_unpackhi_epi64, _mm_unpacklo_epi64,
    _mm_xor_si128,
};

/// The first 16 bytes of a key, and the rest with zeros behind it.
pub(super) type Halves = [__m128i; 2];

/// The round keys 1 to 9 in turn; returns the last.
#[inline]
#[target_feature(enable = "aes,avx")]
pub(super) fn rounds_128([key, _]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
    let mut trail = Trail::to(key);
    each(1, trail.grow::<1>(trail.last(), 0x01));
    each(2, trail.grow::<2>(trail.last(), 0x02));
    each(3, trail.grow::<3>(trail.last(), 0x04));
    each(4, trail.grow::<4>(trail.last(), 0x08));
    each(5, trail.grow::<5>(trail.last(), 0x10));
    each(6, trail.grow::<6>(trail.last(), 0x20));
    each(7, trail.grow::<7>(trail.last(), 0x40));
    each(8, trail.grow::<8>(trail.last(), 0x80));
    each(9, trail.grow::<9>(trail.last(), 0x1B));
    trail.grow::<10>(trail.last(), 0x36)
}

/// The round keys 1 to 11 in turn; returns the last. The schedule grows by six words, so two steps give three keys.
/// It is no longer than the rounds of the cipher, so it needs no [`Trail`].
#[inline]
#[target_feature(enable = "aes,avx")]
pub(super) fn rounds_192([mut four, mut two]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
    for (step, constant) in [0x01, 0x04, 0x10, 0x40].into_iter().enumerate() {
        let above = two;
        [four, two] = next_six(four, two, constant);
        each(3 * step + 1, _mm_unpacklo_epi64(above, four));
        each(3 * step + 2, _mm_alignr_epi8::<8>(two, four));
        [four, two] = next_six(four, two, constant << 1);
        if step < 3 {
            each(3 * step + 3, four);
        }
    }
    four
}

/// The round keys 1 to 13 in turn; returns the last. Even and odd ones have trails of their own, and feed each other.
#[inline]
#[target_feature(enable = "aes,avx")]
pub(super) fn rounds_256([low, high]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
    let (mut even, mut odd) = (Trail::to(low), Trail::to(high));
    each(1, high);
    each(2, even.grow::<1>(odd.last(), 0x01));
    each(3, odd.grow::<1>(even.last(), 0));
    each(4, even.grow::<2>(odd.last(), 0x02));
    each(5, odd.grow::<2>(even.last(), 0));
    each(6, even.grow::<3>(odd.last(), 0x04));
    each(7, odd.grow::<3>(even.last(), 0));
    each(8, even.grow::<4>(odd.last(), 0x08));
    each(9, odd.grow::<4>(even.last(), 0));
    each(10, even.grow::<5>(odd.last(), 0x10));
    each(11, odd.grow::<5>(even.last(), 0));
    each(12, even.grow::<6>(odd.last(), 0x20));
    each(13, odd.grow::<6>(even.last(), 0));
    even.grow::<7>(odd.last(), 0x40)
}

/// The last words of the latest four round keys a schedule wrote, each in all four columns, and what the next keys are
/// made of.
///
/// Of the words of a schedule, only the last of each round key feeds the next: it goes through RotWord and SubWord and
/// is added to the last word of the round key four above, since (1 + x)^4 = 1 + x^4. Kept rotated by as many bytes as
/// rounds have passed, a word needs no RotWord, and after four rounds the rotations have come round. So the schedule
/// is one `aesenclast` after another and nothing between: all columns being equal, ShiftRows changes nothing.
struct Trail {
    /// Oldest first; that of round `n` rotated back by `n` bytes.
    words: [__m128i; 4],
    /// Of the latest two rounds: their word in each column, and the word before added to columns 0 and 2.
    sums: [__m128i; 2],
}

impl Trail {
    /// As if `key` had been made by three rounds above it.
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn to(key: __m128i) -> Self {
        let neighbours = _mm_xor_si128(key, _mm_srli_si128::<4>(key));
        let opposite = _mm_xor_si128(key, _mm_shuffle_epi32::<0b01_00_11_10>(key));
        let all = _mm_xor_si128(opposite, _mm_shuffle_epi32::<0b10_11_00_01>(opposite));
        let words = [
            rotated::<3, 0>(all),
            rotated::<2, 1>(opposite),
            rotated::<1, 2>(neighbours),
            _mm_shuffle_epi32::<0b11_11_11_11>(key),
        ];
        Self { words, sums: [_mm_srli_si128::<4>(neighbours), _mm_unpackhi_epi64(key, key)] }
    }

    /// The word that feeds the next round key.
    fn last(&self) -> __m128i {
        self.words[3]
    }

    /// The key of round `ROUND`, fed by `word`.
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn grow<const ROUND: i32>(&mut self, word: __m128i, constant: i32) -> __m128i {
        let [oldest, second, third, above] = self.words;
        let constant = _mm_set1_epi32(constant << (ROUND % 4 * 8));
        let word = if ROUND == 1 {
            // The oldest word of a new key is the last to be ready.
            _mm_xor_si128(_mm_aesenclast_si128(word, constant), oldest)
        } else {
            _mm_aesenclast_si128(word, _mm_xor_si128(oldest, constant))
        };
        let sum = _mm_xor_si128(turned::<ROUND, 0>(word), in_even_columns(turned::<ROUND, 1>(above)));
        let key = _mm_xor_si128(sum, _mm_move_epi64(self.sums[0]));
        self.words = [second, third, above, word];
        self.sums = [self.sums[1], sum];
        key
    }
}

/// The next six words of AES-192: every word plus those before it, plus the substituted last one.
#[inline]
#[target_feature(enable = "aes,avx")]
fn next_six(four: __m128i, two: __m128i, constant: i32) -> Halves {
    let word = _mm_aesenclast_si128(rotated::<1, 1>(two), _mm_set1_epi32(constant));
    let sums = _mm_xor_si128(four, _mm_slli_si128::<4>(four));
    let sums = _mm_xor_si128(sums, _mm_slli_si128::<8>(sums));
    let more = _mm_xor_si128(_mm_xor_si128(two, _mm_slli_si128::<4>(two)), _mm_shuffle_epi32::<0b11_11_11_11>(sums));
    [_mm_xor_si128(sums, word), _mm_xor_si128(more, word)]
}

/// The word at `COLUMN`, turned `BY` times by RotWord, in all four columns.
#[inline]
#[target_feature(enable = "aes,avx")]
fn rotated<const BY: u32, const COLUMN: i32>(key: __m128i) -> __m128i {
    let turn = const { 0x0302_0100_u32.rotate_right(8 * BY).cast_signed() + 0x0404_0404 * COLUMN };
    _mm_shuffle_epi8(key, _mm_set1_epi32(turn))
}

/// Every word turned by RotWord, `ROUND` less `BACK` times.
#[inline]
#[target_feature(enable = "aes,avx")]
fn turned<const ROUND: i32, const BACK: i32>(key: __m128i) -> __m128i {
    let turn = const { 0x0302_0100_u32.rotate_right(((ROUND - BACK) % 4 * 8).cast_unsigned()).cast_signed() };
    let [first, second, third] = [0x0404_0404, 0x0808_0808, 0x0C0C_0C0C].map(|column| turn + column);
    _mm_shuffle_epi8(key, _mm_set_epi32(third, second, first, turn))
}

/// Zeros in columns 1 and 3.
#[inline]
#[target_feature(enable = "aes,avx")]
fn in_even_columns(key: __m128i) -> __m128i {
    _mm_and_si128(key, _mm_set_epi32(0, -1, 0, -1))
}
