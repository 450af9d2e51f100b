//! The KSN guard: one device counter is used at most once.
//!
//! With a window of 0 counters must only go up. A window of `w` also admits each counter among the last `w`
//! below the high-water mark once, for devices whose frames can overtake each other.

use crate::ksn::Counter;

/// Widest window.
pub const MAX_WINDOW: u8 = 64;

/// What is remembered of a device's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsnGuard {
    /// Highest counter used; 0 when none was.
    pub high_water: u32,
    /// Bit `i` is set when counter `high_water - 1 - i` was used.
    pub used_below: u64,
}

/// A counter that may not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counter was used before or is older than the window")]
pub struct Replay;

impl KsnGuard {
    /// Uses `counter`, or says that it cannot be used any more.
    pub fn admit(self, counter: Counter, window: u8) -> Result<Self, Replay> {
        let counter = counter.get();
        if counter > self.high_water {
            let step = counter - self.high_water;
            // The old mark becomes a used bit; a first use has no old mark.
            let old_mark = if self.high_water == 0 { 0 } else { bit(step - 1) };
            let shifted = if step >= 64 { 0 } else { self.used_below << step };
            return Ok(Self { high_water: counter, used_below: shifted | old_mark });
        }
        let below = self.high_water - counter;
        if below == 0 || below > u32::from(window.min(MAX_WINDOW)) {
            return Err(Replay);
        }
        match bit(below - 1) {
            used if self.used_below & used != 0 => Err(Replay),
            fresh => Ok(Self { used_below: self.used_below | fresh, ..self }),
        }
    }
}

fn bit(index: u32) -> u64 {
    1_u64.checked_shl(index).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::ksn::Scheme;

    fn counter(raw: u32) -> Counter {
        Counter::new(Scheme::Aes, raw).unwrap()
    }

    proptest! {
        #[test]
        fn no_order_of_counters_uses_one_twice(raws in prop::collection::vec(1u32..200, 1..300), window in 0u8..=64) {
            let mut guard = KsnGuard::default();
            let mut used = HashSet::new();
            for raw in raws {
                let Ok(counter) = Counter::new(Scheme::Aes, raw) else { continue };
                let in_window = raw > guard.high_water || guard.high_water - raw <= u32::from(window);
                let expected = in_window && !used.contains(&raw);
                match guard.admit(counter, window) {
                    Ok(next) => {
                        prop_assert!(expected);
                        used.insert(raw);
                        guard = next;
                    }
                    Err(Replay) => prop_assert!(!expected),
                }
            }
        }
    }

    #[test]
    fn without_a_window_counters_only_go_up() {
        let guard = KsnGuard::default().admit(counter(5), 0).unwrap();
        assert_eq!(guard.admit(counter(5), 0), Err(Replay));
        assert_eq!(guard.admit(counter(4), 0), Err(Replay));
        assert!(guard.admit(counter(6), 0).is_ok());
        assert!(guard.admit(counter(4), 1).is_ok());
    }
}
