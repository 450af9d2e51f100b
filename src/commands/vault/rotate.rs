//! `warifu vault rotate`: the next generation of vault keys.

use clap::Args;
use warifu_actors::store::{VaultGenerationRecord, VaultGenerationState};
use warifu_core::custody::KeyProof;
use warifu_hsm::pkcs11::provision::VaultKeys;
use warifu_hsm::{CallTally, Hsm as _, VaultGeneration};

use super::{Standing, moving, register_first};
use crate::ceremony::MADE_IN_HSM;
use crate::commands::key::people::{People, still_admitted};
use crate::commands::key::witness::{Attended, Subject, Witness};
use crate::commands::output::remark;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{self, close_slot, open_slot_counted};

#[derive(Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    people: People,
}

impl Rotate {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let standing = Standing::of(&desk.store).await?;
        let newest = standing.newest();
        if standing.merchants.is_empty() {
            return Err(Failure::new(Exit::Refused, "there is no merchant: nothing is sealed"));
        }
        if let Some(merchant) = standing.unfinished().next() {
            return Err(Failure::new(
                Exit::Refused,
                format_args!(
                    "the vault of {} has not moved to generation {newest} yet: `warifu vault resume` brings that to its end",
                    merchant.id
                ),
            ));
        }
        self.make(desk, &standing, newest.next()).await?;
        moving::move_all(desk, &Standing::of(&desk.store).await?).await
    }

    /// Makes the keys, in the presence of all custodians.
    async fn make(self, desk: &Desk, standing: &Standing, next: VaultGeneration) -> Result<(), Failure> {
        let (dialogue, mut door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::vault_keys(next), None, transcript);
        let words = self.people.language();
        let people = match self.people.attend(&words.rotating(next.number()), dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        if let Err(error) = still_admitted(desk, people.iter().map(|(person, _)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        // What was begun is this registry's: then the slot had nothing under these labels. Whoever takes it up keeps others
        // from doing so, and from using what they made until now.
        let begun = standing.generations.iter().find(|known| known.generation == next);
        if begun.is_none() {
            self.look(desk, &witness, next, standing.generations.is_empty()).await?;
        }
        let making = VaultGenerationRecord {
            generation: next,
            state: VaultGenerationState::Making,
            proof: None,
            created_at_ms: now_ms(),
        };
        note(desk, begun, &making).await?;
        let (made, calls) = Self::make_keys(desk, &making, begun.is_some()).await;
        let proof = match made {
            Ok(proof) => proof,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        };
        witness.note_use("vault keys made", &calls).await?;
        let attended = people.iter().map(|(person, at_ms)| Attended::present(person, *at_ms)).collect();
        let text = witness.transcript(MADE_IN_HSM, attended, None, Some(proof))?;
        let (signed, calls) = hsm::use_once(&desk.config.hsm, "sign the transcript", |_, session| {
            Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
        });
        match signed {
            Ok(signed) => witness.sign_off(text, signed, &calls).await?,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        }
        let ready = VaultGenerationRecord { state: VaultGenerationState::Ready, proof: Some(proof), ..making.clone() };
        note(desk, Some(&making), &ready).await?;
        remark(words.rotation_begins());
        Ok(())
    }

    /// The keys themselves. What an earlier try left goes first: it was never in use.
    async fn make_keys(
        desk: &Desk,
        making: &VaultGenerationRecord,
        taken_up: bool,
    ) -> (Result<KeyProof, Failure>, CallTally) {
        let next = making.generation;
        let mut calls = CallTally::default();
        let slot = match open_slot_counted(&desk.config.hsm, &mut calls) {
            Ok(slot) => slot,
            Err(failure) => return (Err(failure), calls),
        };
        let what = "make the next vault keys";
        let make = async || {
            let left = if taken_up { Some(VaultKeys::left(&slot, next).or_exit(Exit::Hsm, what)?) } else { None };
            // The HSM may have taken its time: another command may have taken it up meanwhile, and be done.
            still_making(desk, making).await?;
            if let Some(left) = left {
                left.destroy().or_exit(Exit::Hsm, what)?;
            }
            let new = VaultKeys::create(&slot, next).or_exit(Exit::Hsm, what)?;
            // It may have taken its time again, and two keys under one label would stop every server.
            if let Err(failure) = still_making(desk, making).await {
                new.destroy().or_exit(Exit::Hsm, "destroy vault keys that another command has made, too")?;
                return Err(failure);
            }
            slot.session(&[]).and_then(|mut session| session.fingerprint_proof(next)).or_exit(Exit::Hsm, what)
        };
        let made = make().await;
        calls.add(&slot.take_calls());
        calls.add(&close_slot(slot));
        (made, calls)
    }

    /// Makes sure that the slot has nothing under the next labels, and registers the first keys if nobody has.
    async fn look(
        &self,
        desk: &Desk,
        witness: &Witness<'_>,
        next: VaultGeneration,
        first: bool,
    ) -> Result<(), Failure> {
        let (looked, calls) = hsm::use_once(&desk.config.hsm, "look at the vault keys", |slot, session| {
            let vacant = slot.is_vault_vacant(next)?;
            let proof = if first { Some(session.fingerprint_proof(VaultGeneration::FIRST)?) } else { None };
            Ok((vacant, proof))
        });
        witness.note_use("vault keys looked at", &calls).await?;
        let (vacant, proof) = looked?;
        if !vacant {
            return Err(Failure::new(
                Exit::Refused,
                format_args!("the HSM has vault keys of generation {next} already, which are not this registry's"),
            ));
        }
        match proof {
            Some(proof) => register_first(desk, proof).await,
            None => Ok(()),
        }
    }
}

/// Whether nobody else has taken up what this command is making.
async fn still_making(desk: &Desk, making: &VaultGenerationRecord) -> Result<(), Failure> {
    let known = desk.store.vault_generations().await.stored("look whether the vault keys are still to be made")?;
    match known.contains(making) {
        true => Ok(()),
        false => Err(Failure::new(Exit::Refused, "another command makes the vault keys")),
    }
}

async fn note(desk: &Desk, seen: Option<&VaultGenerationRecord>, new: &VaultGenerationRecord) -> Result<(), Failure> {
    let noted = desk.registry.note_vault_generation(seen, new, now_ms()).await;
    noted.stored("register the vault keys, which another command makes at the same time")
}
