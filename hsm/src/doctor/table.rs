//! The findings as a table for people.

use std::fmt;

use warifu_core::ksn::Scheme;

use super::{Finding, ModeFinding, Need, Report};

impl ModeFinding {
    /// The keys it is about: `AES-128 DUKPT`.
    pub fn keys(&self) -> String {
        match self.scheme {
            Scheme::Aes => format!("AES-{} DUKPT", self.len.bits()),
            Scheme::Tdes => "TDES DUKPT".to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, slot, .. } = self;
        writeln!(
            f,
            "module      {} {} by {} ({}), PKCS#11 {}",
            module.description, module.version, module.manufacturer, module.path, module.pkcs11
        )?;
        writeln!(
            f,
            "token       {:?}, {} by {}, serial {}, firmware {}",
            slot.token_label, slot.model, slot.manufacturer, slot.serial, slot.firmware
        )?;
        writeln!(f, "slot        {} {}", slot.id, slot.description)?;
        writeln!(f, "standing    {}", self.standing)?;
        if let Some(way) = self.mac_check {
            writeln!(f, "MACs        {way}")?;
        }
        writeln!(f)?;
        for mechanism in &self.mechanisms {
            write!(f, "{:<28}{:<30}", mechanism.name, mechanism.needed_for)?;
            match (mechanism.need, &mechanism.finding) {
                (Need::Nobody, Finding::Fails(_)) => writeln!(f, "not here: done on the host")?,
                (_, finding) => writeln!(f, "{finding}")?,
            }
        }
        writeln!(f)?;
        for mode in &self.modes {
            write!(f, "{:<28}{:<30}{}", mode.mode.name(), mode.keys(), mode.finding)?;
            if mode.missing.is_empty() {
                writeln!(f)?;
            } else {
                writeln!(f, "; missing: {}", mode.missing.join(", "))?;
            }
        }
        writeln!(f)?;
        for found in &self.restrictions {
            writeln!(f, "{:<28}{:<30}{found}", found.restriction.name(), found.restriction.means())?;
        }
        Ok(())
    }
}
