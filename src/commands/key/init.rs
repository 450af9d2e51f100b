//! `warifu key init`: the keys every server needs, in a token that has none.

use clap::Args;
use warifu_hsm::pkcs11::provision;
use warifu_hsm::{CallTally, Hsm as _, HsmError};

use super::people::{People, still_admitted};
use super::witness::{Attended, Subject, Witness};
use crate::ceremony::MADE_IN_HSM;
use crate::commands::output::say;
use crate::commands::registry::{Desk, Stored as _};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{close_slot, open_slot_counted};

/// A second transcript would say of keys anybody may have put there that the HSM made them.
const TAKEN: &str = "the token has these keys already; if `warifu key init` was cut off before it wrote its transcript, \
                     initialize the token anew and hold it again: nothing was sealed under them yet";

#[derive(Args)]
pub(super) struct Init {
    #[command(flatten)]
    people: People,
}

impl Init {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        // Its labels may be free because the keys that were there are retired.
        if !desk.store.vault_generations().await.stored("list the generations of vault keys")?.is_empty() {
            let why = "this registry has vault keys already: `warifu vault rotate` makes the next ones";
            return Err(Failure::new(Exit::Refused, why));
        }
        let (dialogue, mut door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::service_keys(), None, transcript);
        let words = self.people.language();
        let people = match self.people.attend(&words.service_keys(), dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        if let Err(error) = still_admitted(desk, people.iter().map(|(person, _)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        let attended = people.iter().map(|(person, at_ms)| Attended::present(person, *at_ms)).collect();
        let text = witness.transcript(MADE_IN_HSM, attended, None, None)?;
        let mut calls = CallTally::default();
        let made = open_slot_counted(&desk.config.hsm, &mut calls).and_then(|slot| {
            let made = provision::create_service_keys(&slot).and_then(|()| {
                let mut session = slot.session(&[])?;
                Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
            });
            calls.add(&slot.take_calls());
            calls.add(&close_slot(slot));
            match made {
                Err(HsmError::KeyExists { .. }) => Err(Failure::new(Exit::Refused, TAKEN)),
                made => made.or_exit(Exit::Hsm, "make the keys every server needs"),
            }
        });
        match made {
            Ok(signed) => witness.sign_off(text, signed, &calls).await?,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        }
        say(words.service_keys_made());
        Ok(())
    }
}
