//! A trickle: so many at once, and then so many a second. What comes faster is not taken.

use std::time::{Duration, Instant};

/// How much may still come.
#[derive(Debug)]
pub(crate) struct Trickle {
    left: u32,
    burst: u32,
    every: Duration,
    counted: Instant,
}

impl Trickle {
    /// `burst` at once, and one more after each `every`, which is not zero.
    pub(crate) fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { left: burst, burst, every, counted: now }
    }

    /// Whether one more may come now.
    pub(crate) fn takes(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        let gained = u32::try_from(passed.as_nanos() / self.every.as_nanos().max(1)).unwrap_or(u32::MAX);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(self.burst);
            // What is left of the last part of the time counts on, unless there is no room for what it would give.
            self.counted = if self.left == self.burst { now } else { self.counted + self.every * gained };
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_a_trickle() {
        let begun = Instant::now();
        let mut trickle = Trickle::new(3, Duration::from_millis(100), begun);
        assert_eq!([0; 5].map(|_| trickle.takes(begun)), [true, true, true, false, false]);
        let passed = (1..=100).filter(|step| trickle.takes(begun + Duration::from_millis(25) * *step)).count();
        assert_eq!(passed, 25, "one in a hundred milliseconds");
        let later = begun + Duration::from_secs(3600);
        assert_eq!([0; 4].map(|_| trickle.takes(later)), [true, true, true, false], "rest is not saved up");
    }
}
