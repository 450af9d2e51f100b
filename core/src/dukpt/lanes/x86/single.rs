//! One key at a time with AES-NI: the round keys come into being as they are used and, but for decryption, never leave
//! the registers.

use std::arch::x86_64::{
    __m128i, _mm_aesdec_si128, _mm_aesdeclast_si128, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aesimc_si128,
    _mm_insert_epi32, _mm_move_epi64, _mm_set_epi64x, _mm_setzero_si128, _mm_xor_si128,
};

use super::memory::{load, store};
use super::schedule::{Halves, rounds_128, rounds_192, rounds_256};
use crate::dukpt::below;
use crate::dukpt::lanes::{Block, Data, Key};
use crate::key::KeyLen;

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
