//! What a slot is and can do, found by trying: for the operator who chooses a module, and for the one at night.

use std::fmt;
use std::time::Duration;

use cryptoki::slot::{SlotInfo, TokenInfo};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;

use crate::pkcs11::{Slot, pace, trial};
use crate::{DecryptionMode, HsmError};

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
    /// Every mode, for each scheme and key length.
    pub modes: Vec<ModeFinding>,
    /// Whether keys derived from a key that may not leave can be made to leave.
    pub extraction: Extraction,
}

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFacts {
    /// The file.
    pub path: String,
    /// Its description.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its own version.
    pub version: String,
    /// The version of PKCS#11 it follows.
    pub pkcs11: String,
}

/// What a slot and its token say of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// The slot's number, which may change from start to start.
    pub id: u64,
    /// Its description.
    pub description: String,
    /// The token's label.
    pub token_label: String,
    /// The token's model.
    pub model: String,
    /// Who made the token.
    pub manufacturer: String,
    /// The token's serial number.
    pub serial: String,
}

/// Whether real keys may be put into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A token in software: keys are in the memory and files of a computer.
    NotForProduction,
    /// The module calls it a hardware slot. Whether it is a certified one is for its papers to say.
    HardwareSlot,
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It gave the known answer.
    Works,
    /// It did not; what was said instead.
    Fails(String),
}

/// A mechanism that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MechanismFinding {
    /// Its name in PKCS#11, or the function's where no mechanism is named.
    pub name: &'static str,
    /// What cannot be done without it.
    pub needed_for: &'static str,
    /// What came of it.
    pub finding: Finding,
}

/// A mode that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeFinding {
    /// The mode.
    pub mode: DecryptionMode,
    /// For which DUKPT.
    pub scheme: Scheme,
    /// For keys of which length.
    pub len: KeyLen,
    /// Whether frames can be opened so.
    pub finding: Finding,
}

/// Whether the slot carries "not extractable" over to derived keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extraction {
    /// It does: a derived key leaves no more than the key above it.
    Enforced,
    /// It does not: whoever has the PIN can derive initial keys and read them. The slot's own policy, if it has one,
    /// must close this; `hybrid` and `host-derived` depend on it being open.
    NotEnforced,
}

/// How fast a slot is.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Each operation by itself.
    pub timings: Vec<Timing>,
    /// Frames a second in so many sessions at once.
    pub sessions: Vec<(usize, f64)>,
}

/// How long an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Which.
    pub operation: &'static str,
    /// Half of them take longer.
    pub median: Duration,
    /// One in a hundred takes longer.
    pub p99: Duration,
}

/// Numbers of sessions that are measured.
const SESSIONS: [usize; 5] = [1, 2, 4, 8, 16];
/// Share of the best rate that is as good.
const AS_GOOD: f64 = 0.9;

impl Pace {
    /// The fewest sessions that are about as fast as any number of them.
    pub fn proposed_derivers(&self) -> usize {
        let best = self.sessions.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let enough = self.sessions.iter().find(|(_, rate)| *rate >= AS_GOOD * best);
        enough.map_or(1, |(sessions, _)| *sessions)
    }
}

/// Measures a slot, which takes some seconds. `before` is told what is measured next.
///
/// # Errors
/// When the slot cannot do one of the operations, or answers no more.
pub fn measure(slot: &Slot, mut before: impl FnMut(&str)) -> Result<Pace, HsmError> {
    before("each operation by itself");
    let timings = pace::operations(slot)?;
    let mut sessions = Vec::new();
    for many in SESSIONS {
        before(&format!("frames in {many} sessions at once"));
        sessions.push((many, pace::frames_a_second(slot, many)?));
    }
    Ok(Pace { timings, sessions })
}

/// Examines a slot. Everything is tried in one session, with public test keys that live as long as it.
///
/// # Errors
/// When the slot does not answer at all; a mechanism that fails is a finding.
pub fn examine(slot: &Slot) -> Result<Report, HsmError> {
    let (module, id, slot_info, token) = slot.facts()?;
    let session = slot.plain_session()?;
    let mechanism = |name, needed_for, outcome| MechanismFinding { name, needed_for, finding: finding(outcome) };

    let lengths = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
    let derivations = lengths.map(|len| (len, finding(trial::derivation(&session, len))));
    let all_lengths = derivations.iter().map(|(_, finding)| finding).find(|finding| **finding != Finding::Works);
    let readable = finding(trial::readable_derivation(&session));
    let mut mechanisms = vec![MechanismFinding {
        name: "CKM_AES_ECB_ENCRYPT_DATA",
        needed_for: "AES DUKPT inside the slot",
        finding: all_lengths.cloned().unwrap_or(Finding::Works),
    }];
    mechanisms
        .extend(trial::TRIALS.iter().map(|trial| mechanism(trial.mechanism, trial.needed_for, trial.run(&session))));

    let mut modes = Vec::new();
    for (len, derivation) in &derivations {
        let exported = match derivation {
            Finding::Works => readable.clone(),
            Finding::Fails(_) => derivation.clone(),
        };
        let aes = |mode, finding| ModeFinding { mode, scheme: Scheme::Aes, len: *len, finding };
        modes.push(aes(DecryptionMode::Hardware, derivation.clone()));
        modes.push(aes(DecryptionMode::Hybrid, exported));
        modes.push(aes(DecryptionMode::HostDerived, readable.clone()));
    }
    let des3 = mechanisms.iter().find(|found| found.name == "CKM_DES3_ECB").map(|found| found.finding.clone());
    modes.push(ModeFinding {
        mode: DecryptionMode::HostDerived,
        scheme: Scheme::Tdes,
        len: KeyLen::K128,
        finding: des3.unwrap_or_else(|| Finding::Fails("it was not tried".to_owned())),
    });
    let extraction = if readable == Finding::Works { Extraction::NotEnforced } else { Extraction::Enforced };
    let standing = standing(&slot_info, &token);
    let slot = SlotFacts {
        id,
        description: slot_info.slot_description().to_owned(),
        token_label: token.label().to_owned(),
        model: token.model().to_owned(),
        manufacturer: token.manufacturer_id().to_owned(),
        serial: token.serial_number().to_owned(),
    };
    Ok(Report { module, slot, standing, mechanisms, modes, extraction })
}

/// Software tokens do not set `CKF_HW_SLOT`, and some that do say what they are in their model.
fn standing(slot: &SlotInfo, token: &TokenInfo) -> Standing {
    let soft = token.model().to_ascii_lowercase().contains("soft");
    if slot.hardware_slot() && !soft { Standing::HardwareSlot } else { Standing::NotForProduction }
}

fn finding(outcome: Result<(), HsmError>) -> Finding {
    match outcome {
        Ok(()) => Finding::Works,
        Err(HsmError::SelfTest(what)) => Finding::Fails(what.to_owned()),
        Err(other) => Finding::Fails(other.to_string()),
    }
}

impl Report {
    /// Whether the server can run on the slot: all mechanisms but those of single modes work, and one mode does.
    pub fn is_usable(&self) -> bool {
        let of_one_mode = ["CKM_AES_ECB_ENCRYPT_DATA", "CKM_DES3_ECB"];
        let needed = |mechanism: &&MechanismFinding| !of_one_mode.contains(&mechanism.name);
        self.mechanisms.iter().filter(needed).all(|mechanism| mechanism.finding == Finding::Works)
            && self.modes.iter().any(|mode| mode.finding == Finding::Works)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Fails(what) => write!(f, "FAILS: {what}"),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotForProduction => "NOT FOR PRODUCTION: a token in software",
            Self::HardwareSlot => "a hardware slot, as the module says",
        })
    }
}

impl fmt::Display for Extraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced: derived keys cannot be made readable",
            Self::NotEnforced => "NOT ENFORCED: whoever has the PIN can derive keys and read them",
        })
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36}{:>12}{:>12}", "operation", "median", "p99")?;
        for Timing { operation, median, p99 } in &self.timings {
            writeln!(f, "{operation:<36}{:>12}{:>12}", format!("{median:.1?}"), format!("{p99:.1?}"))?;
        }
        writeln!(f)?;
        writeln!(f, "{:<36}{:>12}", "sessions at once", "frames/s")?;
        for (sessions, rate) in &self.sessions {
            writeln!(f, "{sessions:<36}{rate:>12.0}")?;
        }
        write!(f, "\nproposed    hsm.derivers = {}", self.proposed_derivers())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, slot, .. } = self;
        writeln!(
            f,
            "module      {} {} ({}), PKCS#11 {}",
            module.description, module.version, module.path, module.pkcs11
        )?;
        writeln!(
            f,
            "token       {:?}, {} by {}, serial {}",
            slot.token_label, slot.model, slot.manufacturer, slot.serial
        )?;
        writeln!(f, "slot        {} {}", slot.id, slot.description)?;
        writeln!(f, "standing    {}", self.standing)?;
        writeln!(f, "extraction  {}", self.extraction)?;
        writeln!(f)?;
        for mechanism in &self.mechanisms {
            writeln!(f, "{:<28}{:<30}{}", mechanism.name, mechanism.needed_for, mechanism.finding)?;
        }
        writeln!(f)?;
        for mode in &self.modes {
            let keys = match mode.scheme {
                Scheme::Aes => format!("AES-{} DUKPT", mode.len.bits()),
                Scheme::Tdes => "TDES DUKPT".to_owned(),
            };
            writeln!(f, "{:<28}{:<30}{}", mode.mode.name(), keys, mode.finding)?;
        }
        Ok(())
    }
}
