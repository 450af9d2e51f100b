//! What the contract is held against.

use warifu_core::ksn::Scheme;
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{BdkSpec, DecryptionMode, Hsm, HsmFactory};

use crate::MODULE;
use crate::support::device::Device;
use crate::support::slot::{self, test_key};

/// A backend with one base derivation key.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) spec: BdkSpec,
    pub(crate) backend: Backend,
    factory: Box<dyn HsmFactory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Software,
    Module,
}

impl Subject {
    pub(crate) fn session(&self) -> Box<dyn Hsm> {
        self.factory.session().unwrap()
    }

    pub(crate) fn device(&self, serial: u16) -> Device {
        Device::new(&self.spec, serial)
    }

    /// Whether verification and every key of the tree are in a slot, and show in the tally.
    pub(crate) fn works_in_slot(&self) -> bool {
        self.backend == Backend::Module && self.spec.mode != DecryptionMode::HostDerived
    }
}

/// All of them: both backends, each scheme, length and mode.
pub(crate) fn all() -> Vec<Subject> {
    let shared = MODULE.shared();
    let mut subjects = Vec::new();
    for spec in slot::specs() {
        let software = SoftwareSlot::new(vec![(spec.clone(), test_key(&spec))]).unwrap();
        subjects.push(Subject {
            name: format!("software {}", spec.id),
            spec: spec.clone(),
            backend: Backend::Software,
            factory: Box::new(software),
        });
        subjects.push(Subject {
            name: format!("{MODULE:?} {}", spec.id),
            spec: spec.clone(),
            backend: Backend::Module,
            factory: Box::new(shared.factory(vec![spec], Vec::new())),
        });
    }
    assert_eq!(subjects.len(), 20);
    subjects
}

/// One of each backend, for what does not depend on base derivation keys.
pub(crate) fn backends() -> Vec<Subject> {
    let hardware_aes128 =
        |subject: &Subject| subject.spec.scheme == Scheme::Aes && subject.spec.mode == DecryptionMode::Hardware;
    let mut backends: Vec<_> = all().into_iter().filter(hardware_aes128).collect();
    backends.dedup_by_key(|subject| subject.backend);
    backends.truncate(2);
    assert_eq!(
        backends.iter().map(|subject| subject.backend).collect::<Vec<_>>(),
        [Backend::Software, Backend::Module]
    );
    backends
}
