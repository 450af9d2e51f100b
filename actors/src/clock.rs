//! What time it is, asked of one place.
//!
//! Wall time only: how long something may take is measured by tokio's clock, which tests can stop.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970 UTC.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that follows tokio's from a given start: where tokio's clock is stopped, so is this one.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeClock {
    start_ms: u64,
    started: tokio::time::Instant,
}

impl RuntimeClock {
    /// Starts at `start_ms` milliseconds since 1970 UTC.
    pub fn starting_at(start_ms: u64) -> Self {
        Self { start_ms, started: tokio::time::Instant::now() }
    }
}

impl Clock for RuntimeClock {
    fn now_ms(&self) -> u64 {
        self.start_ms.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The two-digit year and the month of a time, as expiry dates are written.
pub fn year_and_month(at_ms: u64) -> (u8, u8) {
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    let date = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    (u8::try_from(date.year().rem_euclid(100)).unwrap_or(0), date.month().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_the_year_and_month_of_an_expiry_date() {
        assert_eq!(year_and_month(0), (70, 1));
        assert_eq!(year_and_month(1_795_000_000_000), (26, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_clock_follows_a_stopped_clock() {
        let clock = RuntimeClock::starting_at(1_000);
        assert_eq!(clock.now_ms(), 1_000);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now_ms(), 4_000);
    }
}
