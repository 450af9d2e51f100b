//! One key at a time with AES-NI: the round keys come into being as they are used and, but for decryption, never leave
//! the registers.
//!
//! One step down the tree lasts as long as its key schedule, so that is what is kept short: see [`Trail`].

use std::arch::x86_64::{
    __m128i, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aesimc_si128,
    _mm_alignr_epi8, _mm_and_si128, _mm_insert_epi32, _mm_move_epi64, _mm_set_epi32, _mm_set_epi64x, _mm_set1_epi32,
    _mm_setzero_si128, _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_slli_si128, _mm_srli_si128, _mm_unpackhi_epi64,
    _mm_unpacklo_epi64, _mm_xor_si128,
};

use super::memory::{load, store};
use crate::dukpt::below;
use crate::dukpt::lanes::{Block, Data, Key};
use crate::key::KeyLen;

/// The first 16 bytes of a key, and the rest with zeros behind it.
type Halves = [__m128i; 2];

/// Writes to `derived` the encryption of one block of `data` under `key`, or of both for a longer new key.
#[target_feature(enable = "aes,avx")]
pub(super) fn derive(len: KeyLen, key: &Key, data: Data, new_len: KeyLen, derived: &mut Key) {
    let key = halves(key);
    let blocks = both(data);
    match (len, new_len) {
        (KeyLen::K128, KeyLen::K128) => put_short(encrypt_128(key, [blocks[0]]), derived),
        (KeyLen::K128, _) => put_new(encrypt_128(key, blocks), new_len, derived),
        (KeyLen::K192, _) => put_new(encrypt_192(key, blocks), new_len, derived),
        (KeyLen::K256, _) => put_new(encrypt_256(key, blocks), new_len, derived),
    }
}

/// The same for two new keys: under one key, so by one key schedule.
#[target_feature(enable = "aes,avx")]
pub(super) fn derive_two(len: KeyLen, key: &Key, data: [Data; 2], new_len: KeyLen, derived: [&mut Key; 2]) {
    let key = halves(key);
    let ([a, b], [c, d]) = (both(data[0]), both(data[1]));
    let [one, other] = derived;
    if let (KeyLen::K128, KeyLen::K128) = (len, new_len) {
        let [a, c] = encrypt_128(key, [a, c]);
        put_short([a], one);
        return put_short([c], other);
    }
    let blocks = [a, b, c, d];
    let [a, b, c, d] = match len {
        KeyLen::K128 => encrypt_128(key, blocks),
        KeyLen::K192 => encrypt_192(key, blocks),
        KeyLen::K256 => encrypt_256(key, blocks),
    };
    put_new([a, b], new_len, one);
    put_new([c, d], new_len, other);
}

/// Replaces `key`, the node at `from`, by each node on the way down to `to`. `data` are those of any node of the tree.
#[target_feature(enable = "aes,avx")]
pub(super) fn walk(len: KeyLen, key: &mut Key, data: Data, from: u32, to: u32) {
    let mut node = halves(key);
    let data = both(data);
    match len {
        KeyLen::K128 => {
            for counter in below(from, to) {
                [node[0]] = encrypt_128(node, [at(data[0], counter)]);
            }
        }
        KeyLen::K192 => {
            for counter in below(from, to) {
                node = encrypt_192(node, data.map(|block| at(block, counter)));
            }
        }
        KeyLen::K256 => {
            for counter in below(from, to) {
                node = encrypt_256(node, data.map(|block| at(block, counter)));
            }
        }
    }
    put_new(node, len, key);
}

/// Adds each block of `message` to `state` and encrypts it: the chain of a CBC-MAC.
#[target_feature(enable = "aes,avx")]
pub(super) fn chain(len: KeyLen, key: &Key, state: &mut Block, message: &[Block]) {
    let key = halves(key);
    let mut chained = load(state);
    for block in message {
        chained = _mm_xor_si128(chained, load(block));
        [chained] = match len {
            KeyLen::K128 => encrypt_128(key, [chained]),
            KeyLen::K192 => encrypt_192(key, [chained]),
            KeyLen::K256 => encrypt_256(key, [chained]),
        };
    }
    store(chained, state);
}

/// Decrypts CBC in place.
#[target_feature(enable = "aes,avx")]
pub(super) fn cbc_decrypt(len: KeyLen, key: &Key, iv: &Block, blocks: &mut [Block]) {
    let key = halves(key);
    match len {
        KeyLen::K128 => {
            let mut keys = [key[0]; 11];
            keys[10] = rounds_128(key, |round, key| keys[round] = _mm_aesimc_si128(key));
            decrypt(&keys, iv, blocks);
        }
        KeyLen::K192 => {
            let mut keys = [key[0]; 13];
            keys[12] = rounds_192(key, |round, key| keys[round] = _mm_aesimc_si128(key));
            decrypt(&keys, iv, blocks);
        }
        KeyLen::K256 => {
            let mut keys = [key[0]; 15];
            keys[14] = rounds_256(key, |round, key| keys[round] = _mm_aesimc_si128(key));
            decrypt(&keys, iv, blocks);
        }
    }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn decrypt<const KEYS: usize>(keys: &[__m128i; KEYS], iv: &Block, blocks: &mut [Block]) {
    let mut before = load(iv);
    let (wide, rest) = blocks.as_chunks_mut::<3>();
    for blocks in wide {
        before = decrypt_abreast(keys, before, blocks);
    }
    let (single, _) = rest.as_chunks_mut::<1>();
    for block in single {
        before = decrypt_abreast(keys, before, block);
    }
}

/// Decrypts `WIDE` blocks side by side. Returns the last of them as it was, which the next is chained to.
#[inline]
#[target_feature(enable = "aes,avx")]
fn decrypt_abreast<const KEYS: usize, const WIDE: usize>(
    keys: &[__m128i; KEYS],
    before: __m128i,
    blocks: &mut [Block; WIDE],
) -> __m128i {
    let sealed = blocks.each_ref().map(|block| load(block));
    let mut states = sealed.map(|block| _mm_xor_si128(block, keys[KEYS - 1]));
    for key in keys[1..KEYS - 1].iter().rev() {
        states = states.map(|state| _mm_aesdec_si128(state, *key));
    }
    let mut chained = before;
    for ((block, state), sealed) in blocks.iter_mut().zip(states).zip(sealed) {
        store(_mm_aesdeclast_si128(state, _mm_xor_si128(keys[0], chained)), block);
        chained = sealed;
    }
    chained
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn encrypt_128<const N: usize>(key: Halves, blocks: [__m128i; N]) -> [__m128i; N] {
    let mut states = blocks.map(|block| _mm_xor_si128(block, key[0]));
    let last = rounds_128(key, |_, key| states = states.map(|state| _mm_aesenc_si128(state, key)));
    states.map(|state| _mm_aesenclast_si128(state, last))
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn encrypt_192<const N: usize>(key: Halves, blocks: [__m128i; N]) -> [__m128i; N] {
    let mut states = blocks.map(|block| _mm_xor_si128(block, key[0]));
    let last = rounds_192(key, |_, key| states = states.map(|state| _mm_aesenc_si128(state, key)));
    states.map(|state| _mm_aesenclast_si128(state, last))
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn encrypt_256<const N: usize>(key: Halves, blocks: [__m128i; N]) -> [__m128i; N] {
    let mut states = blocks.map(|block| _mm_xor_si128(block, key[0]));
    let last = rounds_256(key, |_, key| states = states.map(|state| _mm_aesenc_si128(state, key)));
    states.map(|state| _mm_aesenclast_si128(state, last))
}

/// The round keys 1 to 9 in turn; returns the last.
#[inline]
#[target_feature(enable = "aes,avx")]
fn rounds_128([key, _]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
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
fn rounds_192([mut four, mut two]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
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
fn rounds_256([low, high]: Halves, mut each: impl FnMut(usize, __m128i)) -> __m128i {
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

/// The two blocks of derivation data.
#[inline]
#[target_feature(enable = "aes,avx")]
fn both(data: Data) -> Halves {
    data.words().map(|[head, tail]| _mm_set_epi64x(tail.swap_bytes().cast_signed(), head.swap_bytes().cast_signed()))
}

/// Derivation data with their last four bytes, the counter, replaced.
#[inline]
#[target_feature(enable = "aes,avx")]
fn at(data: __m128i, counter: u32) -> __m128i {
    _mm_insert_epi32::<3>(data, counter.swap_bytes().cast_signed())
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn halves(key: &Key) -> Halves {
    let (halves, _) = key.as_chunks::<16>();
    [load(&halves[0]), load(&halves[1])]
}

/// Writes a key of 16 bytes.
#[inline]
#[target_feature(enable = "aes,avx")]
fn put_short([low]: [__m128i; 1], key: &mut Key) {
    put([low, _mm_setzero_si128()], key);
}

/// Writes a key cut to its length.
#[inline]
#[target_feature(enable = "aes,avx")]
fn put_new([low, high]: Halves, len: KeyLen, key: &mut Key) {
    let high = match len {
        KeyLen::K128 => _mm_setzero_si128(),
        KeyLen::K192 => _mm_move_epi64(high),
        KeyLen::K256 => high,
    };
    put([low, high], key);
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn put([low, high]: Halves, key: &mut Key) {
    let (halves, _) = key.as_chunks_mut::<16>();
    store(low, &mut halves[0]);
    store(high, &mut halves[1]);
}
