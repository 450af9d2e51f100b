//! What this process last made of the rows that batches change, so that a batch need not read them first.
//!
//! Architecture invariant: what is remembered is a guess. Others may have changed the rows since, so every write says
//! what it takes its row for and fails where it is something else, new rows have unique keys, and a batch of which
//! anything would be refused is decided again over what is really there.

use quick_cache::sync::Cache;
use warifu_core::merchant::DeviceId;
use warifu_hsm::Fingerprint;

use super::Store;
use super::decide::{DeviceView, Effects, View, Wanted};
use super::job::{PaymentId, StoredPayment};

/// Most devices.
const DEVICES: usize = 1 << 16;
/// Most payments; they are only of use while they are open.
const PAYMENTS: usize = 1 << 14;

/// Rows as they were last written here.
pub(super) struct Memory {
    pub(super) devices: Cache<DeviceId, DeviceView>,
    payments: Cache<PaymentId, StoredPayment>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { devices: Cache::new(DEVICES), payments: Cache::new(PAYMENTS) }
    }
}

impl Store {
    /// What a batch needs to know, as far as it is known here. What is not is taken for absent.
    pub(super) fn recall(&self, wanted: &Wanted<'_>) -> View {
        let mut view = View::default();
        for id in &wanted.devices {
            view.devices.extend(self.memory().devices.get(*id).map(|device| ((*id).clone(), device)));
        }
        for (merchant, fingerprint) in &wanted.fingerprints {
            let key = ((*merchant).clone(), Fingerprint(*fingerprint));
            view.cards.extend(self.lookups().cards.kept(&key).map(|card| (key, card)));
        }
        // Whoever writes a token says of which generation it is: the row is not written where its vault does not accept that.
        view.vaults.extend(wanted.vaults.iter().map(|(merchant, wanted)| ((*merchant).clone(), *wanted)));
        for id in &wanted.payments {
            view.payments.extend(self.memory().payments.get(id).map(|payment| (*id, payment)));
        }
        view
    }

    /// What a batch has made durable.
    pub(super) fn remember(&self, effects: &Effects) {
        let Memory { devices, payments } = self.memory();
        for changed in &effects.devices {
            devices.insert(changed.key.clone(), changed.after.clone());
        }
        for ((merchant, _), token) in &effects.tokens {
            for fingerprint in token.fingerprints.each() {
                self.lookups().cards.keep((merchant.clone(), fingerprint), token.card.clone());
            }
        }
        for (id, payment) in &effects.new_payments {
            payments.insert(*id, payment.clone());
        }
        for moved in &effects.moved_payments {
            match payments.get(&moved.id).filter(|_| !moved.to.is_settled()) {
                Some(payment) => {
                    payments.insert(moved.id, StoredPayment { state: moved.to, updated_at_ms: moved.at_ms, ..payment });
                }
                None => drop(payments.remove(&moved.id)),
            }
        }
    }

    /// Others have changed what a batch would have changed, or may have.
    pub(super) fn forget(&self, wanted: &Wanted<'_>) {
        wanted.devices.iter().for_each(|id| drop(self.memory().devices.remove(*id)));
        wanted.payments.iter().for_each(|id| drop(self.memory().payments.remove(id)));
    }
}
