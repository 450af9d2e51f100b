//! The doctor's findings as one JSON object: what scripts ask first at its top, the details in lists.

use std::time::Duration;

use serde_json::{Map, Value, json};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_hsm::doctor::{
    Enforcement, Finding, MacCheck, MechanismFinding, ModeFinding, Pace, Report, Restriction, RestrictionFinding,
    Shortfall, Standing,
};
use warifu_hsm::{BdkSpec, DecryptionMode};

use super::Examined;
use crate::rpc::scheme_name;

impl Examined {
    pub(super) fn described(&self) -> Value {
        let Self { report, bdks, pace, audit_key } = self;
        let modes = DecryptionMode::ALL.into_iter().map(|mode| (mode.name().to_owned(), report.runs(mode).into()));
        let shortfalls = self.shortfalls();
        let mut described = json!({
            "usable": shortfalls.is_empty(),
            "shortfalls": shortfalls,
            "modes": modes.collect::<Map<_, _>>(),
            "enforces_non_extractable": report.enforces(Restriction::DerivedKeysStay),
            "refuses_to_wrap_non_extractable": report.enforces(Restriction::KeysAreNotWrapped),
            "honours_allowed_mechanisms": report.enforces(Restriction::AllowedMechanisms),
            "honours_derive_template": report.enforces(Restriction::DeriveTemplate),
            "not_for_production": report.standing == Standing::NotForProduction,
            "fit_for_production": report.standing == Standing::HardwareSlot,
            "standing": report.standing.to_string(),
            "configured": bdks.iter().map(|bdk| configured(report, bdk)).collect::<Vec<_>>(),
            "module": {
                "path": report.module.path,
                "description": report.module.description,
                "manufacturer": report.module.manufacturer,
                "version": report.module.version,
                "pkcs11": report.module.pkcs11,
            },
            "slot": {
                "id": report.slot.id,
                "description": report.slot.description,
                "token_label": report.slot.token_label,
                "model": report.slot.model,
                "manufacturer": report.slot.manufacturer,
                "serial": report.slot.serial,
                "firmware": report.slot.firmware,
            },
            "mac_check": report.mac_check.as_ref().map(MacCheck::to_string),
            "mechanisms": report.mechanisms.iter().map(mechanism).collect::<Vec<_>>(),
            "mode_details": report.modes.iter().map(mode).collect::<Vec<_>>(),
            "restrictions": report.restrictions.iter().map(restriction).collect::<Vec<_>>(),
            "audit_public_key": audit_key,
        });
        if let Some(pace) = pace {
            described["pace"] = paced(pace);
        }
        described
    }
}

/// A key of the configuration.
fn configured(report: &Report, bdk: &BdkSpec) -> Value {
    let shortfall = report.shortfall(bdk);
    json!({
        "bdk": bdk.id.as_str(),
        "mode": bdk.mode.name(),
        "scheme": scheme_name(bdk.scheme),
        "bits": bits(bdk.scheme, bdk.len),
        "can_run": shortfall.is_none(),
        "missing": match &shortfall {
            Some(Shortfall::Mode { missing, .. }) => missing.clone(),
            Some(Shortfall::Service { .. }) | None => Vec::new(),
        },
        "failure": shortfall.as_ref().map(Shortfall::to_string),
    })
}

fn mechanism(found: &MechanismFinding) -> Value {
    json!({
        "name": found.name,
        "needed_for": found.needed_for,
        "works": found.finding == Finding::Works,
        "failure": failure(&found.finding),
    })
}

fn mode(found: &ModeFinding) -> Value {
    json!({
        "mode": found.mode.name(),
        "scheme": scheme_name(found.scheme),
        "bits": bits(found.scheme, found.len),
        "works": found.finding == Finding::Works,
        "missing": found.missing,
        "failure": failure(&found.finding),
    })
}

fn restriction(found: &RestrictionFinding) -> Value {
    let said = match &found.enforcement {
        Enforcement::Enforced | Enforcement::NotEnforced => None,
        Enforcement::NotSupported(said) | Enforcement::Untried(said) => Some(said),
    };
    json!({
        "name": found.restriction.name(),
        "means": found.restriction.means(),
        "finding": found.enforcement.name(),
        "said": said,
    })
}

fn failure(finding: &Finding) -> Option<&str> {
    match finding {
        Finding::Works => None,
        Finding::Fails(what) => Some(what),
    }
}

fn bits(scheme: Scheme, len: KeyLen) -> u16 {
    if scheme == Scheme::Tdes { 128 } else { len.bits() }
}

fn paced(pace: &Pace) -> Value {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let timings = pace.timings.iter();
    let timings = timings.map(|timing| {
        json!({ "operation": timing.operation, "median_us": micros(timing.median), "p99_us": micros(timing.p99) })
    });
    let sessions = pace.sessions.iter();
    let sessions = sessions.map(|(sessions, rate)| json!({ "sessions": sessions, "frames_per_second": rate }));
    json!({
        "operations": timings.collect::<Vec<_>>(),
        "sessions": sessions.collect::<Vec<_>>(),
        "proposed_derivers": pace.proposed_derivers(),
    })
}
