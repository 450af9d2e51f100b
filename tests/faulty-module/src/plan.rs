//! What is to go wrong: read from text, and asked of every call.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use cryptoki_sys::{
    CK_RV, CKR_CANT_LOCK, CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY, CKR_DEVICE_REMOVED, CKR_FUNCTION_CANCELED,
    CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR, CKR_HOST_MEMORY, CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID,
    CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID,
    CKR_TOKEN_NOT_PRESENT, CKR_USER_NOT_LOGGED_IN, CKR_VENDOR_DEFINED,
};

use crate::function::{Function, Reach};

/// What a sick HSM says at random. None of them is an answer: a wrong MAC, a wrong PIN or bad data are never made up.
const SICKNESSES: [CK_RV; 17] = [
    CKR_DEVICE_ERROR,
    CKR_DEVICE_MEMORY,
    CKR_DEVICE_REMOVED,
    CKR_FUNCTION_FAILED,
    CKR_FUNCTION_CANCELED,
    CKR_GENERAL_ERROR,
    CKR_HOST_MEMORY,
    CKR_CANT_LOCK,
    CKR_SESSION_HANDLE_INVALID,
    CKR_SESSION_CLOSED,
    CKR_TOKEN_NOT_PRESENT,
    CKR_USER_NOT_LOGGED_IN,
    CKR_OBJECT_HANDLE_INVALID,
    CKR_KEY_HANDLE_INVALID,
    CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_VENDOR_DEFINED + 1,
];

/// What is to go wrong, and what of it already has.
#[derive(Debug, Default)]
pub struct Plan {
    rules: Vec<Rule>,
    random: Option<Random>,
    is_gone: bool,
    /// Calls since this plan came into force.
    calls: BTreeMap<Function, u64>,
}

/// A line of a plan that nobody understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Its number, from 1.
    pub number: usize,
    /// What it says.
    pub line: String,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not made, and gives this.
    Error(CK_RV),
    /// It takes longer.
    Delay(Duration),
    /// It comes back when the plan changes.
    Hang,
    /// Its session is closed first.
    Lose,
    /// A bit of this byte of what it gives is wrong.
    Wrong(usize),
    /// There is no token.
    Gone,
}

#[derive(Debug)]
struct Rule {
    function: Function,
    when: When,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Nth(u64),
    Each(u64),
}

/// Faults at random, the same for the same seed and order of calls.
#[derive(Debug)]
struct Random {
    state: u64,
    per_mille: u64,
}

impl Plan {
    /// What happens to the next call of a function.
    pub(crate) fn next(&mut self, function: Function) -> Option<Fault> {
        let calls = self.calls.entry(function).or_default();
        *calls += 1;
        let number = *calls;
        let rule = self.rules.iter().find(|rule| rule.function == function && rule.when.is(number));
        match rule.map(|rule| rule.fault) {
            // Nobody is quicker to say that the token is gone than to say anything else.
            Some(fault @ (Fault::Delay(_) | Fault::Hang)) => Some(fault),
            _ if self.is_gone && function.reach() != Reach::Library => Some(Fault::Gone),
            Some(fault) => Some(fault),
            None if function.reach() == Reach::Library => None,
            None => self.random.as_mut().and_then(Random::next).map(Fault::Error),
        }
    }

    /// Whether there is a token.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["slot", "gone"] => self.is_gone = true,
            ["random", seed, per_mille] => {
                let per_mille = per_mille.parse::<u64>().ok().filter(|share| (1..=1000).contains(share))?;
                self.random = Some(Random { state: seed.parse().ok()?, per_mille });
            }
            [function, "every", times, fault @ ..] => self.rule(function, When::Each(count(times)?), fault)?,
            [function, nth, fault @ ..] => self.rule(function, When::Nth(count(nth)?), fault)?,
            _ => return None,
        }
        Some(())
    }

    fn rule(&mut self, function: &str, when: When, fault: &[&str]) -> Option<()> {
        let function = Function::named(function)?;
        let has_session = matches!(function.reach(), Reach::Session | Reach::Bytes);
        let fault = match fault {
            ["error", code] => {
                Fault::Error(CK_RV::from_str_radix(code.strip_prefix("0x")?, 16).ok().filter(|c| *c > 0)?)
            }
            ["delay", time] => Fault::Delay(Duration::from_millis(count(time.strip_suffix("ms")?)?)),
            ["hang"] => Fault::Hang,
            ["lose"] if has_session => Fault::Lose,
            ["wrong", byte] if function.reach() == Reach::Bytes => Fault::Wrong(byte.parse().ok()?),
            _ => return None,
        };
        self.rules.push(Rule { function, when, fault });
        Some(())
    }
}

impl FromStr for Plan {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let mut plan = Self::default();
        for (index, line) in text.lines().enumerate() {
            let says_nothing = line.trim().is_empty() || line.trim_start().starts_with('#');
            if !says_nothing {
                plan.add(line).ok_or_else(|| NotUnderstood { number: index + 1, line: line.to_owned() })?;
            }
        }
        Ok(plan)
    }
}

impl When {
    const fn is(self, number: u64) -> bool {
        match self {
            Self::Nth(nth) => number == nth,
            Self::Each(times) => number.is_multiple_of(times),
        }
    }
}

impl Random {
    /// SplitMix64 (Steele, Lea, Flood 2014): any seed will do.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn next(&mut self) -> Option<CK_RV> {
        if self.draw() % 1000 >= self.per_mille {
            return None;
        }
        let kinds = u64::try_from(SICKNESSES.len()).ok()?;
        SICKNESSES.get(usize::try_from(self.draw() % kinds).ok()?).copied()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(code) => write!(f, "error {code:#x}"),
            Self::Delay(time) => write!(f, "delay {}ms", time.as_millis()),
            Self::Hang => write!(f, "hang"),
            Self::Lose => write!(f, "lose"),
            Self::Wrong(byte) => write!(f, "wrong {byte}"),
            Self::Gone => write!(f, "gone"),
        }
    }
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the plan is not understood: {:?}", self.number, self.line)
    }
}

impl std::error::Error for NotUnderstood {}

/// A number of calls or milliseconds, at least one.
fn count(text: &str) -> Option<u64> {
    text.parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(plan: &str, function: Function, calls: usize) -> Vec<Option<Fault>> {
        let mut plan: Plan = plan.parse().unwrap_or_else(|error| panic!("{error}"));
        (0..calls).map(|_| plan.next(function)).collect()
    }

    #[test]
    fn the_nth_call_and_each_so_many_fail_and_no_other() {
        let error = Some(Fault::Error(0x30));
        assert_eq!(faults("C_Sign 2 error 0x30", Function::C_Sign, 3), [None, error, None]);
        assert_eq!(faults("C_Sign every 2 error 0x30", Function::C_Sign, 4), [None, error, None, error]);
        assert_eq!(faults("C_Sign every 1 error 0x30", Function::C_Verify, 2), [None, None]);
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let plan = "# a slow HSM\n\nC_Sign 1 delay 20ms\nC_Sign every 1 hang\n";
        let slow = Some(Fault::Delay(Duration::from_millis(20)));
        assert_eq!(faults(plan, Function::C_Sign, 2), [slow, Some(Fault::Hang)]);
    }

    #[test]
    fn a_token_that_is_gone_answers_nothing_and_the_library_still_does() {
        assert_eq!(faults("slot gone", Function::C_OpenSession, 1), [Some(Fault::Gone)]);
        assert_eq!(faults("slot gone", Function::C_Decrypt, 1), [Some(Fault::Gone)]);
        assert_eq!(faults("slot gone", Function::C_Finalize, 1), [None]);
        let plan = "slot gone\nC_Sign 1 error 0x30\nC_Sign 2 hang";
        assert_eq!(faults(plan, Function::C_Sign, 3), [Some(Fault::Gone), Some(Fault::Hang), Some(Fault::Gone)]);
    }

    #[test]
    fn about_as_many_calls_fail_at_random_as_were_asked_for_and_the_same_ones_again() {
        let failed = |calls: &[Option<Fault>]| calls.iter().flatten().count();
        let once = faults("random 7 10", Function::C_Sign, 100_000);
        assert!((800..1200).contains(&failed(&once)), "{}", failed(&once));
        assert_eq!(once, faults("random 7 10", Function::C_Sign, 100_000));
        assert_ne!(once, faults("random 8 10", Function::C_Sign, 100_000));
        assert_eq!(failed(&faults("random 7 1000", Function::C_Finalize, 100)), 0);
    }

    #[test]
    fn what_nobody_understands_is_named() {
        for line in [
            "C_Nothing 1 hang",
            "C_SeedRandom 1 hang",
            "C_Sign",
            "C_Sign 0 hang",
            "C_Sign every hang",
            "C_Sign 1",
            "C_Sign 1 hang now",
            "C_Sign 1 error 30",
            "C_Sign 1 error 0x0",
            "C_Sign 1 delay 5s",
            "C_Verify 1 wrong 3",
            "C_Decrypt 1 wrong",
            "C_GetTokenInfo 1 lose",
            "slot away",
            "random 7",
            "random 7 0",
            "random 7 1001",
        ] {
            let refused = format!("C_Sign 1 hang\n{line}\n").parse::<Plan>().err();
            assert_eq!(refused, Some(NotUnderstood { number: 2, line: line.to_owned() }));
        }
    }
}
