//! How many refused callers are written down one by one: anybody can knock, and nobody may fill the log by it.

use std::time::Duration;

use tokio::time::Instant;

/// Records within one period; the next one tells how many were left out.
const EACH_PERIOD: u32 = 20;
/// The period.
const PERIOD: Duration = Duration::from_secs(60);

/// Counts refused callers.
#[derive(Debug, Default)]
pub struct Refusals {
    since: Option<Instant>,
    written: u32,
    unwritten: u64,
}

impl Refusals {
    /// Whether this one is written down: then with how many that were not, before it.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written >= EACH_PERIOD {
            self.unwritten += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_next_period_tells_of_it() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        for _ in 0..EACH_PERIOD {
            assert_eq!(refusals.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(refusals.admit(start), None);
        }
        assert_eq!(refusals.admit(start + PERIOD), Some(1000));
        assert_eq!(refusals.admit(start + PERIOD), Some(0));
    }
}
