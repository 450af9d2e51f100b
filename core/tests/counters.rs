//! The rules by which a device counts: upwards, legal counters only, and none left out.
#![allow(clippy::unwrap_used, reason = "a broken rule must fail the run")]

use proptest::prelude::*;
use warifu_core::ksn::{Counter, CounterError, Scheme};

/// The least legal number above `counter`, found from the other side: it agrees with `counter` above some zero bit of
/// it, has a one there and zeros below, and the lowest such bit that stays legal gives the least.
fn least_legal_above(scheme: Scheme, counter: u32) -> Option<u32> {
    (0..32)
        .filter(|bit| counter >> bit & 1 == 0)
        .map(|bit| (counter >> bit | 1) << bit)
        .find(|candidate| candidate.count_ones() <= scheme.max_ones())
        .filter(|candidate| *candidate <= scheme.max_counter())
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![Just(Scheme::Aes), Just(Scheme::Tdes)]
}

/// Any value, with those of many one-bits as likely as the others.
fn any_counter() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), any::<(u32, u32)>().prop_map(|(a, b)| a | b), any::<u32>().prop_map(|a| a >> 11)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_next_counter_is_greater_legal_and_skips_nothing_legal(scheme in any_scheme(), counter in any_counter()) {
        let next = scheme.next_counter(counter).map(Counter::get);
        prop_assert_eq!(next, least_legal_above(scheme, counter));
        if let Some(next) = next {
            prop_assert!(next > counter);
            prop_assert_eq!(Counter::new(scheme, next).map(Counter::get), Ok(next));
        }
    }

    #[test]
    fn only_legal_counters_become_counters(scheme in any_scheme(), raw in any_counter()) {
        let expected = match raw {
            0 => Err(CounterError::Zero),
            _ if scheme == Scheme::Tdes && raw >> 21 != 0 => Err(CounterError::TooWide(raw)),
            _ if raw.count_ones() > scheme.max_ones() => Err(CounterError::TooManyOnes {
                counter: raw, ones: raw.count_ones(), allowed: scheme.max_ones(),
            }),
            _ => Ok(raw),
        };
        prop_assert_eq!(Counter::new(scheme, raw).map(Counter::get), expected);
    }
}

#[test]
fn tdes_skips_nothing_legal_over_its_whole_life() {
    let mut legal = (1..=0x001F_FFFF_u32).filter(|raw| raw.count_ones() <= 10);
    let mut at = 0;
    while let Some(next) = Scheme::Tdes.next_counter(at) {
        assert_eq!(legal.next(), Some(next.get()));
        at = next.get();
    }
    assert_eq!(legal.next(), None);
}

#[test]
fn both_schemes_end_at_their_last_legal_counter() {
    for (scheme, last) in [(Scheme::Tdes, 0x001F_F800), (Scheme::Aes, 0xFFFF_0000)] {
        assert!(Counter::new(scheme, last).is_ok());
        assert_eq!(scheme.next_counter(last), None);
        assert_eq!(scheme.next_counter(scheme.max_counter()), None);
    }
}
