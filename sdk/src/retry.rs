//! How long to go on asking, and how long to pause between.

use std::time::Duration;

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Longest wait for one attempt.
    pub(crate) attempt: Duration,
    /// Longest wait for all attempts and pauses together.
    pub(crate) total: Duration,
    /// Pauses between attempts.
    pub(crate) pauses: Pauses,
}

/// Pauses that double from `first` to `longest`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// Pauses of one run of failures.
#[derive(Debug)]
pub(crate) struct Backoff {
    pauses: Pauses,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(pauses: Pauses) -> Self {
        Self { pauses, next: pauses.first.min(pauses.longest) }
    }

    /// The next pause: between half and the whole of the doubled one before. `random` spreads callers that failed
    /// at the same moment, so that they do not come back at the same moment.
    pub(crate) fn pause(&mut self, random: u32) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.pauses.longest);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// As [`Backoff::pause`], with the system's randomness. Without any, every pause is whole.
    pub(crate) fn draw(&mut self) -> Duration {
        self.pause(getrandom::u32().unwrap_or(u32::MAX))
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.pauses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_cap_and_stay_within_half_of_it() {
        let pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_millis(500) };
        let (mut least, mut most) = (Backoff::new(pauses), Backoff::new(pauses));
        for whole in [100, 200, 400, 500, 500] {
            assert_eq!(least.pause(0), Duration::from_millis(whole / 2));
            assert_eq!(most.pause(u32::MAX), Duration::from_millis(whole));
        }
        most.reset();
        assert_eq!(most.pause(u32::MAX), Duration::from_millis(100));
    }
}
