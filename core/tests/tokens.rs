//! A million tokens, as a store would accept them.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use warifu_core::card::luhn;
use warifu_core::token::Token;

/// Random bytes that are the same in every run: SHA-256 in counter mode.
fn draws() -> impl Iterator<Item = [u8; 8]> {
    (0u64..).flat_map(|block| {
        let hash: [u8; 32] = Sha256::digest(block.to_be_bytes()).into();
        let (eights, _) = hash.as_chunks::<8>();
        <[[u8; 8]; 4]>::try_from(eights).expect("32 bytes are four times eight")
    })
}

#[test]
fn a_million_tokens_are_sixteen_digits_start_with_nine_fail_luhn_and_differ() {
    let mut seen = HashSet::with_capacity(1_000_000);
    let mut drawn = 0u32;
    for random in draws() {
        drawn += 1;
        let Some(token) = Token::draw(random, None) else { continue };
        let digits = token.as_str();
        assert_eq!(digits.len(), 16);
        assert!(digits.bytes().all(|digit| digit.is_ascii_digit()));
        assert!(digits.starts_with('9'));
        assert!(!luhn(digits.as_bytes()), "{digits} could be a card number");
        assert!(seen.insert(token), "{digits} came twice");
        if seen.len() == 1_000_000 {
            break;
        }
    }
    // Nine in ten are not Luhn-valid, and 10^15 of 2^50 values are digits: about 0.8 of the draws become tokens.
    assert!(drawn < 1_300_000, "{drawn} draws for a million tokens");
    println!("tokens: 1000000 generated, 16 digits, first digit 9, 0 Luhn-valid, 0 duplicates, {drawn} draws");
}

#[test]
fn every_digit_is_used_equally() {
    let mut counts = [[0u32; 10]; 15];
    for token in draws().filter_map(|random| Token::draw(random, None)).take(100_000) {
        for (place, digit) in token.as_str().bytes().skip(1).enumerate() {
            counts[place][usize::from(digit - b'0')] += 1;
        }
    }
    // 10,000 of each expected; six standard deviations are 570.
    for (place, digits) in counts.iter().enumerate() {
        for (digit, count) in digits.iter().enumerate() {
            assert!(count.abs_diff(10_000) < 570, "digit {digit} stands {count} times in place {}", place + 2);
        }
    }
}
