//! `warifu key destroy`: the end of a key that is out of use.

use clap::Args;
use warifu_actors::store::KeyReason;
use warifu_core::custody::{Purpose, State};
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::provision;
use warifu_hsm::{BdkSpec, DecryptionMode};

use super::people::{People, still_admitted};
use super::witness::{Attended, Subject, Witness};
use super::{configured, known};
use crate::ceremony::DESTROYED;
use crate::commands::output::say;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::{custody, hsm};

#[derive(Args)]
pub(super) struct Destroy {
    /// The key's id.
    #[arg(value_parser = BdkId::parse)]
    id: BdkId,
    #[command(flatten)]
    people: People,
}

impl Destroy {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let known = known(desk, &self.id).await?;
        custody::belongs(&known, desk.config.server.environment)?;
        if known.state != State::Destroyed {
            known.state.become_state(State::Destroyed).or_exit(Exit::Refused, "destroy the key")?;
        }
        if configured(desk, &known.id).is_ok() {
            return Err(Failure::new(
                Exit::Refused,
                format_args!(
                    "servers still look for the key {0}: take its [[bdk]] out of every configuration, and restart them first",
                    known.id
                ),
            ));
        }
        let mode = DecryptionMode::Hardware;
        let spec = BdkSpec { id: known.id.clone(), scheme: known.scheme, len: known.len, mode, proof: None };
        let (dialogue, mut door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::key(&spec), known.merchant.as_ref(), transcript);
        let words = self.people.language();
        let people = match self.people.attend(&words.destroying(known.id.as_str()), dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        if let Err(error) = still_admitted(desk, people.iter().map(|(person, _)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        // The registry first: a key that is half destroyed is destroyed again, never used again.
        if known.state != State::Destroyed {
            let moved = desk.registry.set_bdk_state(&known.id, State::Destroyed, KeyReason::Planned, now_ms()).await;
            moved.stored("destroy the key")?;
        }
        let attended = people.iter().map(|(person, at_ms)| Attended::present(person, *at_ms)).collect();
        let text = witness.transcript(DESTROYED, attended, None, Some(known.proof))?;
        let (destroyed, calls) = hsm::use_once(&desk.config.hsm, "destroy the key", |slot, session| {
            match known.purpose {
                Purpose::Bdk => provision::destroy_bdk(slot, &known.id)?,
                Purpose::Kbpk => provision::destroy_kbpk(slot, &known.id)?,
            }
            Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
        });
        match destroyed {
            Ok(signed) => witness.sign_off(text, signed, &calls).await?,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        }
        say(self.people.language().destroyed(known.id.as_str()));
        Ok(())
    }
}
