//! What a slot is and can do, found by trying: for the operator who chooses a module, for the server before it trusts one,
//! and for the one at night.

mod facts;
mod finding;
mod pace;
mod restriction;
mod shortfall;
mod table;

use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;

pub use facts::{ModuleFacts, SlotFacts, Standing};
pub use finding::{Finding, MechanismFinding, ModeFinding, Need};
pub use pace::{Pace, Timing, measure};
pub use restriction::{Enforcement, Restriction, RestrictionFinding};
pub use shortfall::Shortfall;

pub use crate::pkcs11::MacCheck;
use crate::pkcs11::{Slot, trial};
use crate::{BdkSpec, DecryptionMode, HsmError};

/// Key lengths of AES DUKPT.
const LENGTHS: [KeyLen; 3] = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
/// The mechanism every AES DUKPT needs.
const DERIVATION: &str = "CKM_AES_ECB_ENCRYPT_DATA";
/// The mechanism TDES DUKPT needs.
const TDES: &str = "CKM_DES3_ECB";
/// What `hybrid` and `host-derived` need beside mechanisms: a slot that gives them out.
const READABLE: &str = "derived keys that can be read";

/// The findings. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The module.
    pub module: ModuleFacts,
    /// The slot and the token in it.
    pub slot: SlotFacts,
    /// Whether real keys may be put there.
    pub standing: Standing,
    /// Every mechanism that is needed, tried.
    pub mechanisms: Vec<MechanismFinding>,
    /// How frames' MACs are checked, if they can be.
    pub mac_check: Option<MacCheck>,
    /// Every mode, for each scheme and key length.
    pub modes: Vec<ModeFinding>,
    /// Every restriction a key can be made with, put on one and tried.
    pub restrictions: Vec<RestrictionFinding>,
}

/// Examines a slot. Everything is tried in one session, with public test keys that live as long as it.
///
/// # Errors
/// When the slot does not answer at all; a mechanism that fails is a finding.
pub fn examine(slot: &Slot) -> Result<Report, HsmError> {
    let (module, id, slot_info, token) = slot.facts()?;
    let session = slot.plain_session()?;
    let derivation = LENGTHS.iter().map(|len| Finding::of(trial::derivation(&session, *len)));
    let mut mechanisms = vec![MechanismFinding {
        name: DERIVATION,
        needed_for: "AES DUKPT inside the slot",
        need: Need::Mode,
        finding: derivation.reduce(Finding::and).unwrap_or(Finding::Works),
    }];
    mechanisms.extend(trial::TRIALS.iter().map(|trial| MechanismFinding {
        name: trial.mechanism,
        needed_for: trial.needed_for,
        need: trial.need,
        finding: Finding::of(trial.run(&session)),
    }));
    let mut modes = Vec::new();
    for len in LENGTHS {
        for mode in DecryptionMode::ALL {
            let finding = Finding::of(trial::mode(&session, mode, len));
            modes.push(ModeFinding { mode, scheme: Scheme::Aes, len, finding, missing: Vec::new() });
        }
    }
    let tdes = mechanisms.iter().find(|found| found.name == TDES).map(|found| found.finding.clone());
    modes.push(ModeFinding {
        mode: DecryptionMode::HostDerived,
        scheme: Scheme::Tdes,
        len: KeyLen::K128,
        finding: tdes.unwrap_or_else(|| Finding::Fails("it was not tried".to_owned())),
        missing: Vec::new(),
    });
    let restrictions = Restriction::ALL.map(|restriction| restriction.tried(&session)).to_vec();
    for mode in &mut modes {
        mode.missing = missing(mode, &mechanisms, &restrictions);
    }
    Ok(Report {
        module,
        standing: Standing::of(&slot_info, &token),
        slot: SlotFacts::of(id, &slot_info, &token),
        mechanisms,
        mac_check: trial::mac_check(&session).ok(),
        modes,
        restrictions,
    })
}

/// What a mode lives on and this slot has not; empty for a mode that works, or fails for a reason of its own.
fn missing(
    mode: &ModeFinding,
    mechanisms: &[MechanismFinding],
    restrictions: &[RestrictionFinding],
) -> Vec<&'static str> {
    if mode.finding == Finding::Works {
        return Vec::new();
    }
    let needed: &[&'static str] = match (mode.mode, mode.scheme) {
        (_, Scheme::Tdes) => &[TDES],
        (DecryptionMode::Hardware, Scheme::Aes) => &[DERIVATION, "CKM_AES_CMAC", "CKM_AES_CBC"],
        (DecryptionMode::Hybrid, Scheme::Aes) => &[DERIVATION, "CKM_AES_CMAC", READABLE],
        (DecryptionMode::HostDerived, Scheme::Aes) => &[DERIVATION, "CKM_AES_CMAC", READABLE],
    };
    let stays = restrictions
        .iter()
        .any(|found| found.restriction == Restriction::DerivedKeysStay && found.enforcement == Enforcement::Enforced);
    let absent = |name: &&'static str| {
        let tried = mechanisms.iter().find(|found| found.name == *name);
        tried.map_or(*name == READABLE && stays, |found| found.finding != Finding::Works)
    };
    needed.iter().copied().filter(absent).collect()
}

impl Report {
    /// Whether the server can run on the slot: what every server needs works, and one mode does.
    pub fn is_usable(&self) -> bool {
        self.lacking().is_none() && self.modes.iter().any(|mode| mode.finding == Finding::Works)
    }

    /// Whether a mode opens frames of AES devices, whatever the length of their keys.
    pub fn runs(&self, mode: DecryptionMode) -> bool {
        let tried = self.modes.iter().filter(|found| found.mode == mode && found.scheme == Scheme::Aes);
        let works: Vec<bool> = tried.map(|found| found.finding == Finding::Works).collect();
        !works.is_empty() && works.iter().all(|works| *works)
    }

    /// The modes that [run](Self::runs).
    pub fn running(&self) -> impl Iterator<Item = DecryptionMode> + '_ {
        DecryptionMode::ALL.into_iter().filter(move |mode| self.runs(*mode))
    }

    /// Whether a restriction is held to.
    pub fn enforces(&self, restriction: Restriction) -> bool {
        let found = self.restrictions.iter().find(|found| found.restriction == restriction);
        found.is_some_and(|found| found.enforcement == Enforcement::Enforced)
    }

    /// Why the keys of a server cannot be used on this slot as they are registered; empty if they can.
    pub fn shortfalls(&self, bdks: &[BdkSpec]) -> Vec<Shortfall> {
        let service = self.lacking().map(|(mechanism, cause)| Shortfall::Service {
            mechanism: mechanism.name,
            needed_for: mechanism.needed_for,
            cause: cause.to_owned(),
        });
        service.into_iter().chain(bdks.iter().filter_map(|bdk| self.shortfall(bdk))).collect()
    }

    /// Why one key cannot be used as it is registered.
    pub fn shortfall(&self, bdk: &BdkSpec) -> Option<Shortfall> {
        let same = |found: &&ModeFinding| {
            found.mode == bdk.mode && found.scheme == bdk.scheme && (found.len == bdk.len || bdk.scheme == Scheme::Tdes)
        };
        let (missing, cause) = match self.modes.iter().find(same) {
            Some(ModeFinding { finding: Finding::Works, .. }) => return None,
            Some(ModeFinding { finding: Finding::Fails(cause), missing, .. }) => (missing.clone(), cause.clone()),
            None => (Vec::new(), "PKCS#11 has no mechanism for it".to_owned()),
        };
        Some(Shortfall::Mode { bdk: bdk.id.clone(), mode: bdk.mode, missing, cause })
    }

    /// A mechanism every server needs and this slot has not, and what came of trying it.
    fn lacking(&self) -> Option<(&MechanismFinding, &str)> {
        self.mechanisms.iter().filter(|found| found.need == Need::Server).find_map(|found| match &found.finding {
            Finding::Works => None,
            Finding::Fails(cause) => Some((found, cause.as_str())),
        })
    }
}

#[cfg(test)]
mod tests;
