//! `warifu vault retire`: the end of vault keys nothing is sealed under any more.

use std::cmp::Reverse;

use clap::Args;
use warifu_actors::store::{VaultGenerationRecord, VaultGenerationState};
use warifu_hsm::pkcs11::provision;

use super::Standing;
use crate::ceremony::DESTROYED;
use crate::commands::key::people::{People, still_admitted};
use crate::commands::key::witness::{Attended, Subject, Witness};
use crate::commands::output::say;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Exit, Failure};
use crate::hsm;

#[derive(Args)]
pub(super) struct Retire {
    #[command(flatten)]
    people: People,
}

impl Retire {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let standing = Standing::of(&desk.store).await?;
        unneeded(&standing)?;
        let newest = standing.newest();
        let old = standing.generations.iter().filter(|known| known.generation < newest);
        // Where all are, the last one is destroyed again: it may have been cut off.
        let old = old.min_by_key(|old| (old.state == VaultGenerationState::Destroyed, Reverse(old.generation)));
        let Some(old) = old else {
            return Err(Failure::new(Exit::Refused, "there are no vault keys but those in use"));
        };
        let (dialogue, mut door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::vault_keys(old.generation), None, transcript);
        let words = self.people.language();
        let people = match self.people.attend(&words.retiring(old.generation.number()), dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        if let Err(error) = still_admitted(desk, people.iter().map(|(person, _)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        // Minutes have passed.
        unneeded(&Standing::of(&desk.store).await?)?;
        if old.state != VaultGenerationState::Destroyed {
            let gone = VaultGenerationRecord { state: VaultGenerationState::Destroyed, ..old.clone() };
            let noted = desk.registry.note_vault_generation(Some(old), &gone, now_ms()).await;
            noted.stored("destroy the vault keys")?;
        }
        let attended = people.iter().map(|(person, at_ms)| Attended::present(person, *at_ms)).collect();
        let text = witness.transcript(DESTROYED, attended, None, old.proof)?;
        let (destroyed, calls) = hsm::use_once(&desk.config.hsm, "destroy the vault keys", |slot, session| {
            // And those of a command that was cut off.
            let gone = standing.generations.iter().filter(|known| known.state == VaultGenerationState::Destroyed);
            for generation in gone.map(|known| known.generation).chain([old.generation]) {
                provision::destroy_vault_keys(slot, generation)?;
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
        say(words.retired(old.generation.number()));
        Ok(())
    }
}

/// Whether every vault is at rest under the newest keys.
fn unneeded(standing: &Standing) -> Result<(), Failure> {
    match standing.unfinished().next() {
        None => Ok(()),
        Some(merchant) => Err(Failure::new(
            Exit::Refused,
            format_args!("the vault of {} still needs them: `warifu vault resume` first", merchant.id),
        )),
    }
}
