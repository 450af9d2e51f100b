//! Keys whose time is near: told again and again, and never a reason to refuse a payment. Taking a key out of use is an
//! operator's decision.

use std::time::Duration;

use tokio::sync::watch;
use warifu_core::custody::{Purpose, State};
use warifu_core::merchant::BdkId;

use crate::auditor::AuditLog;
use crate::refused::with_source;
use crate::store::{BdkRecord, Store};

/// How often the registry is read for it.
const EVERY: Duration = Duration::from_secs(30);
/// From how long before its time a key is told of.
const NOTICE: Duration = Duration::from_hours(30 * 24);

/// How a key of this server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHealth {
    /// Its id.
    pub id: BdkId,
    /// Where it is in its life.
    pub state: State,
    /// Its end, as far as one is set and near.
    pub end: Option<End>,
}

/// How near a key's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So many whole days away.
    InDays(u64),
    /// It should have been replaced.
    Past,
}

impl KeyHealth {
    fn of(bdk: &BdkRecord, now_ms: u64) -> Self {
        let left = bdk.expires_at_ms.map(|end| i128::from(end) - i128::from(now_ms));
        let end = match left {
            Some(left) if left <= 0 => Some(End::Past),
            Some(left) => u64::try_from(left)
                .ok()
                .map(Duration::from_millis)
                .filter(|left| *left <= NOTICE)
                .map(|left| End::InDays(left.as_secs() / Duration::from_hours(24).as_secs())),
            None => None,
        };
        Self { id: bdk.id.clone(), state: bdk.state, end: end.filter(|_| in_use(bdk)) }
    }
}

const fn in_use(bdk: &BdkRecord) -> bool {
    matches!(bdk.state, State::PreActive | State::Active | State::Suspended)
}

/// Reads the registry now and then, until nobody asks any more. `ours` are the keys this server is configured with.
pub(super) async fn watch(store: Store, log: AuditLog, ours: Vec<BdkId>, told: watch::Sender<Vec<KeyHealth>>) {
    loop {
        match store.bdks().await {
            Ok(all) => {
                let now_ms = log.clock().now_ms();
                let keys = watched(all, &ours);
                for bdk in &keys {
                    measure(bdk, now_ms);
                }
                let health: Vec<_> = keys.iter().map(|bdk| KeyHealth::of(bdk, now_ms)).collect();
                told.send_if_modified(|known| {
                    let news = *known != health;
                    if news {
                        health.iter().filter(|key| key.end.is_some() && !known.contains(key)).for_each(warn);
                        *known = health;
                    }
                    news
                });
            }
            Err(error) => tracing::warn!(error = with_source(&error), "the registry of keys could not be read"),
        }
        tokio::select! {
            () = told.closed() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// This server's keys; and the protection keys in use of their environment, since no server is configured with those.
fn watched(all: Vec<BdkRecord>, ours: &[BdkId]) -> Vec<BdkRecord> {
    let environments: Vec<_> = all.iter().filter(|key| ours.contains(&key.id)).map(|key| key.environment).collect();
    let protects =
        |key: &BdkRecord| key.purpose == Purpose::Kbpk && in_use(key) && environments.contains(&key.environment);
    all.into_iter().filter(|key| ours.contains(&key.id) || protects(key)).collect()
}

/// A server has a handful of keys, so a key's id may be a label.
fn measure(bdk: &BdkRecord, now_ms: u64) {
    if let Some(end) = bdk.expires_at_ms {
        let left = (i128::from(end) - i128::from(now_ms)) / 1000;
        let left = f64::from(i32::try_from(left).unwrap_or(i32::MAX));
        // No alarm is due for what is out of use, and a gauge cannot be taken back: no comparison holds for this number.
        let left = if in_use(bdk) { left } else { f64::NAN };
        metrics::gauge!("warifu_key_expires_seconds", "key" => bdk.id.to_string()).set(left);
    }
}

fn warn(key: &KeyHealth) {
    match key.end {
        Some(End::InDays(days)) => tracing::warn!(key = %key.id, days, "a key is to be replaced soon"),
        Some(End::Past) => tracing::warn!(key = %key.id, "a key should have been replaced"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use warifu_core::custody::{Environment, KeyProof};
    use warifu_core::key::KeyLen;
    use warifu_core::ksn::Scheme;

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn key(state: State, expires_at_ms: Option<i64>) -> BdkRecord {
        BdkRecord {
            id: BdkId::parse("b").unwrap(),
            purpose: Purpose::Bdk,
            scheme: Scheme::Aes,
            len: KeyLen::K128,
            environment: Environment::Live,
            merchant: None,
            kcv: None,
            proof: KeyProof([0; 16]),
            state,
            created_at_ms: 0,
            activated_at_ms: None,
            expires_at_ms,
        }
    }

    #[test]
    fn the_end_of_a_key_is_told_from_thirty_days_before() {
        let end = |expires| KeyHealth::of(&key(State::Active, expires), 1).end;
        assert_eq!(end(None), None);
        assert_eq!(end(Some(30 * DAY_MS + 2)), None);
        assert_eq!(end(Some(30 * DAY_MS + 1)), Some(End::InDays(30)));
        assert_eq!(end(Some(DAY_MS)), Some(End::InDays(0)));
        assert_eq!(end(Some(1)), Some(End::Past));
        assert_eq!(end(Some(i64::MIN)), Some(End::Past));
    }

    #[test]
    fn protection_keys_of_the_same_environment_are_watched_too() {
        let ours = BdkId::parse("b").unwrap();
        let of = |id: &str, purpose, environment, state| BdkRecord {
            id: BdkId::parse(id).unwrap(),
            purpose,
            environment,
            ..key(state, None)
        };
        let all = vec![
            key(State::Active, None),
            of("other", Purpose::Bdk, Environment::Live, State::Active),
            of("factory", Purpose::Kbpk, Environment::Live, State::Active),
            of("bench", Purpose::Kbpk, Environment::Test, State::Active),
            of("old", Purpose::Kbpk, Environment::Live, State::Deactivated),
        ];
        let watched: Vec<_> = watched(all, &[ours]).into_iter().map(|key| key.id.to_string()).collect();
        assert_eq!(watched, ["b", "factory"]);
    }

    #[test]
    fn nobody_is_warned_of_a_key_out_of_use() {
        assert_eq!(KeyHealth::of(&key(State::Deactivated, Some(1)), 5).end, None);
    }
}
