//! How the house is doing, from what it knows anyway: asking costs nothing.

use std::time::Duration;

use warifu_hsm::DecryptionMode;

use super::{House, KeyHealth};
use crate::auditor::{Admit, AuditLog, Auditor};
use crate::gate::Gate;
use crate::key_deriver::KeyDeriver;
use crate::store::Store;

/// How often the store is felt for.
const PULSE: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const PULSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a part works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vital {
    /// It does.
    Up,
    /// It does not at the moment.
    Down,
}

/// How the house is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The data store answers.
    pub store: Vital,
    /// An HSM session is open.
    pub hsm: Vital,
    /// The HSM takes the PIN, as far as known; down until the next start once it refused it.
    pub hsm_pin: Vital,
    /// The audit log can be written, as far as known.
    pub audit: Vital,
    /// The acquirer answered when it was last asked.
    pub acquirer: Vital,
    /// The decryption modes its keys are used in, strictest first.
    pub modes: Vec<DecryptionMode>,
    /// Its base derivation keys, as the registry had them half a minute ago or later.
    pub keys: Vec<KeyHealth>,
    /// Whether `host-derived` decryption is allowed.
    pub accept_non_p2pe: bool,
    /// Whether the server is stopping.
    pub draining: bool,
}

impl Health {
    /// Whether the house can take payments.
    pub fn is_ready(&self) -> bool {
        [self.store, self.hsm, self.hsm_pin, self.audit].iter().all(|vital| *vital == Vital::Up) && !self.draining
    }
}

impl From<bool> for Vital {
    fn from(up: bool) -> Self {
        if up { Self::Up } else { Self::Down }
    }
}

impl House {
    /// How the house is doing.
    pub fn health(&self) -> Health {
        let inner = &self.0;
        let has = |mode: &DecryptionMode| inner.settings.bdks.iter().any(|bdk| bdk.mode == *mode);
        Health {
            store: (*inner.store_up.borrow()).into(),
            hsm: inner.derivers.iter().any(KeyDeriver::is_up).into(),
            hsm_pin: (!inner.derivers.iter().any(KeyDeriver::is_locked_out)).into(),
            audit: is_writable(&inner.log).into(),
            acquirer: (*inner.acquirer_up.borrow()).into(),
            modes: DecryptionMode::ALL.into_iter().filter(has).collect(),
            keys: inner.keys.borrow().clone(),
            accept_non_p2pe: inner.settings.accept_non_p2pe,
            draining: *inner.draining.borrow(),
        }
    }
}

fn is_writable(log: &AuditLog) -> bool {
    *log.owed().borrow() == 0 && log.writer().tree().borrow().last_durable_at.is_some()
}

/// Feels for the store again and again, and proves a log writable again that was not.
pub(super) async fn pulse(store: Store, log: AuditLog, auditor: Gate<Auditor>, up: tokio::sync::watch::Sender<bool>) {
    loop {
        tokio::select! {
            () = up.closed() => return,
            () = tokio::time::sleep(PULSE) => {}
        }
        let answered = matches!(tokio::time::timeout(PULSE_TIMEOUT, store.ping()).await, Ok(Ok(())));
        if answered && !is_writable(&log) && auditor.ask(Admit).await.is_ok() {
            tracing::info!("the audit log can be written again");
        }
        up.send_if_modified(|up| std::mem::replace(up, answered) != answered);
        let size = log.writer().tree().borrow().tree.size();
        metrics::gauge!("warifu_audit_records").set(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
    }
}
