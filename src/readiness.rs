//! Whether cards can be taken now, and if not, what is in the way.

use warifu_actors::House;
use warifu_actors::house::Vital;

/// What is down; empty when ready.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Readiness(Vec<&'static str>);

impl Readiness {
    /// Asks the house.
    pub(crate) fn of(house: &House) -> Self {
        let health = house.health();
        let parts =
            [("store", health.store), ("hsm", health.hsm), ("hsm-pin", health.hsm_pin), ("audit", health.audit)];
        let mut down: Vec<_> =
            parts.into_iter().filter(|(_, part)| *part == Vital::Down).map(|(name, _)| name).collect();
        if health.draining {
            down.push("draining");
        }
        Self(down)
    }

    /// Nothing is in the way.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in the way.
    pub(crate) fn down(&self) -> &[&'static str] {
        &self.0
    }
}
