//! For how long what was read of the registry is still true.
//!
//! The registry counts its changes, and a server looks at the count several times a second. While the look before was
//! recent and found nothing new, rows read since then stand; a server that cannot look reads every row again. So a
//! change made anywhere is in force everywhere within [`LEASE`], and a server that nobody told to look keeps nothing.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use tokio::time::Instant;

use super::Store;
use super::bulk::{Kind, Rows, Write};
use super::error::{Failure, StoreError};

/// How long after a look at the count the registry is taken to be as it was.
pub const LEASE: Duration = Duration::from_millis(900);
/// How long a row is kept in any case: whoever changes one without this program does not count it.
const LONGEST: Duration = Duration::from_secs(10);

/// What is known of the registry's changes.
pub(super) struct Lease {
    begun: Instant,
    /// How often a change was noticed here.
    epoch: AtomicU64,
    /// The count as it was last seen.
    seen: AtomicI64,
    /// Milliseconds from the beginning to the last look, and one more; 0 before the first.
    looked: AtomicU64,
}

/// When a row was read.
#[derive(Clone, Copy)]
pub(super) struct Read {
    epoch: u64,
    at: Instant,
}

impl Lease {
    pub(super) fn new() -> Self {
        let (epoch, seen, looked) = (AtomicU64::new(0), AtomicI64::new(0), AtomicU64::new(0));
        Self { begun: Instant::now(), epoch, seen, looked }
    }

    /// To be called before a row is read: what is changed later ends it.
    pub(super) fn read_now(&self) -> Read {
        Read { epoch: self.epoch.load(Ordering::Acquire), at: Instant::now() }
    }

    /// Whether a row read then still stands.
    pub(super) fn covers(&self, read: Read) -> bool {
        let Some(looked) = self.looked.load(Ordering::Acquire).checked_sub(1) else { return false };
        let looked = self.begun + Duration::from_millis(looked);
        self.epoch.load(Ordering::Acquire) == read.epoch && looked.elapsed() < LEASE && read.at.elapsed() < LONGEST
    }

    /// The registry was changed by this process.
    pub(super) fn end(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The count was read, by a statement sent at `at`.
    fn looked(&self, count: i64, at: Instant) {
        if self.seen.swap(count, Ordering::AcqRel) != count {
            self.end();
        }
        let since = u64::try_from(at.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX - 1);
        self.looked.store(since + 1, Ordering::Release);
    }
}

impl Store {
    /// How often the registry was changed. Whoever asks this again and again need not read what has not changed.
    pub async fn look_at_registry(&self) -> Result<i64, StoreError> {
        let at = Instant::now();
        let statement = Statement::from_string(self.backend(), "SELECT generation FROM registry WHERE id = 1");
        let statement = &statement;
        let row = self.reading_pool().read(|db| async move { db.query_one_raw(statement.clone()).await }).await?;
        let row = row.ok_or(StoreError::Corrupt("registry"))?;
        let count = row.try_get("", "generation").map_err(Failure::from)?;
        self.lease().looked(count, at);
        Ok(count)
    }
}

/// Counts a change, in the transaction that makes it.
pub(super) fn count() -> Write {
    let mut rows = Rows::new(&[("more", Kind::Int)]);
    rows.push([1_i64.into()]);
    Write::new("UPDATE registry SET generation = generation + v.more FROM", rows, "WHERE registry.id = 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_covered_before_the_first_look_nor_long_after_the_last() {
        let lease = Lease::new();
        let read = lease.read_now();
        assert!(!lease.covers(read));
        lease.looked(1, Instant::now());
        assert!(!lease.covers(read), "the first look is news");
        let read = lease.read_now();
        assert!(lease.covers(read));
        tokio::time::advance(LEASE).await;
        assert!(!lease.covers(read));
        lease.looked(1, Instant::now());
        assert!(lease.covers(read));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_took_long_covers_from_when_it_was_sent() {
        let lease = Lease::new();
        lease.looked(1, Instant::now());
        let read = lease.read_now();
        let sent = Instant::now();
        tokio::time::advance(LEASE).await;
        lease.looked(1, sent);
        assert!(!lease.covers(read));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_here_or_elsewhere_ends_what_was_read_before_it() {
        let lease = Lease::new();
        lease.looked(1, Instant::now());
        let read = lease.read_now();
        lease.end();
        assert!(!lease.covers(read));
        let read = lease.read_now();
        lease.looked(2, Instant::now());
        assert!(!lease.covers(read));
        assert!(lease.covers(lease.read_now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_is_read_again_sometimes_whatever_the_count_says() {
        let lease = Lease::new();
        let read = lease.read_now();
        lease.end();
        tokio::time::advance(LONGEST).await;
        lease.looked(1, Instant::now());
        assert!(!lease.covers(read));
        let old = lease.read_now();
        tokio::time::advance(LONGEST).await;
        lease.looked(1, Instant::now());
        assert!(!lease.covers(old));
    }
}
