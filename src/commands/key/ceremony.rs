//! `warifu key ceremony` and `warifu key destroy`: what takes two people. First the dialogue, then the registry, then the
//! HSM, then the transcript; each step can be taken again, so that a ceremony that was cut off is simply held again.

mod witness;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use warifu_actors::store::{BdkRecord, KeyReason};
use warifu_core::custody::{Environment, KeyProof, Purpose, State};
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_hsm::pkcs11::{Slot, bdk_label, kbpk_label, provision};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, Hsm as _, HsmError};

use super::new_file::NewFile;
use super::{configured, identified};
use crate::ceremony::{
    Admitted, CeremonyError, DESTROYED, Dialogue, Door, Gathered, Language, MADE_IN_HSM, MADE_OF_COMPONENTS,
    MADE_OF_DRAWN, NotAdmitted, Plan, Source, attend, gather, kind,
};
use crate::commands::device::date;
use crate::commands::output::{remark, say};
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{self, close_slot, open_slot_counted};
use crate::{custody, process};
use witness::{Attended, Subject, Witness};

/// Fewest people it takes.
const FEWEST: u8 = 2;

/// What is spoken with whom.
#[derive(Args)]
pub(super) struct Company {
    /// What is spoken.
    #[arg(long, value_enum, default_value_t = Language::En)]
    lang: Language,
    /// Read the answers from standard input, one a line: in the test environment only.
    #[arg(long)]
    script: bool,
}

/// The people of a ceremony.
#[derive(Args)]
pub(super) struct People {
    /// How many custodians take part.
    #[arg(
        long,
        value_name = "N",
        default_value_t = FEWEST,
        value_parser = clap::value_parser!(u8).range(i64::from(FEWEST)..=9)
    )]
    custodians: u8,
    /// Where the signed transcript goes.
    #[arg(long, value_name = "FILE")]
    transcript: PathBuf,
    #[command(flatten)]
    company: Company,
}

#[derive(Args)]
pub(super) struct Ceremony {
    /// The key's id. A base derivation key is a [[bdk]] of the configuration, which says its scheme and length.
    #[arg(value_parser = BdkId::parse)]
    id: BdkId,
    /// Make a key block protection key instead: what an injection facility shares with this HSM. AES.
    #[arg(long)]
    kbpk: bool,
    /// Length of a protection key.
    #[arg(long, value_name = "BITS", requires = "kbpk", default_value = "256", value_parser = ["128", "192", "256"])]
    bits: String,
    /// Where the key comes from.
    #[arg(long, value_enum, default_value_t = Origin::Components)]
    from: Origin,
    /// The check value the key must have; asked for at the end if not given.
    #[arg(long, value_name = "HEX")]
    kcv: Option<String>,
    /// The one merchant whose devices are loaded from it; without it, any.
    #[arg(long, value_parser = MerchantId::parse)]
    merchant: Option<MerchantId>,
    /// When it should have been replaced: servers warn from 30 days before.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    expires: Option<i64>,
    #[command(flatten)]
    people: People,
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Origin {
    /// Each custodian brings a component on paper.
    Components,
    /// The HSM draws a component for each custodian to take to whoever loads the devices.
    Drawn,
    /// The HSM makes it, and nobody ever knows it. AES only.
    Hsm,
}

#[derive(Args)]
pub(super) struct Destroy {
    /// The key's id.
    #[arg(value_parser = BdkId::parse)]
    id: BdkId,
    #[command(flatten)]
    people: People,
}

impl Company {
    /// Whoever answers, and the door they come in by. Nothing is typed before it is known that it will not be swapped out.
    pub(super) async fn assemble(&self, desk: &Desk) -> Result<(Dialogue, Door), Failure> {
        let dialogue = match (self.script, desk.config.server.environment) {
            (true, Environment::Test) => Dialogue::Script,
            (true, Environment::Live) => {
                return Err(Failure::new(Exit::Usage, "--script is for the test environment: people make live keys"));
            }
            (false, _) => Dialogue::with_people().ok_or_else(|| {
                Failure::new(Exit::Usage, "custodians answer at a terminal; --script is for the test environment")
            })?,
        };
        process::lock_memory().or_exit(Exit::Usage, "keep components out of swap; give this account CAP_IPC_LOCK")?;
        let roster = desk.store.custodians().await.stored("list the custodians")?;
        let door = Door::new(roster, &desk.config.tls.client_ca).or_exit(Exit::Usage, "use tls.client_ca")?;
        Ok((dialogue, door))
    }

    pub(super) fn language(&self) -> Language {
        self.lang
    }
}

impl People {
    async fn assemble(&self, desk: &Desk) -> Result<(Dialogue, Door, NewFile), Failure> {
        let transcript = NewFile::at(&self.transcript)?;
        let (dialogue, door) = self.company.assemble(desk).await?;
        Ok((dialogue, door, transcript))
    }

    fn attend(&self, what: &str, dialogue: Dialogue, door: &mut Door) -> Result<Vec<(Admitted, i64)>, CeremonyError> {
        attend(what, self.custodians.into(), self.company.language(), dialogue, door, now_ms)
    }

    fn plan<'a>(&self, spec: &'a BdkSpec, expected: Option<&str>) -> Plan<'a> {
        Plan {
            key: spec.id.as_str(),
            scheme: spec.scheme,
            len: spec.len,
            custodians: usize::from(self.custodians),
            expected: expected.map(str::to_owned),
            language: self.company.language(),
        }
    }
}

impl Ceremony {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let spec = &self.spec(desk)?;
        let before = self.registered(desk).await?;
        let (dialogue, door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::key(spec), self.merchant.as_ref(), transcript);
        let kcv = match self.from {
            Origin::Hsm => self.make(witness, spec, dialogue, door, before).await?,
            Origin::Components | Origin::Drawn => self.load(witness, spec, dialogue, door, before).await?,
        };
        say(self.people.company.language().done(kcv.as_deref().unwrap_or("-")));
        remark(format_args!("next: warifu key activate {}", self.id));
        Ok(())
    }

    fn purpose(&self) -> Purpose {
        if self.kbpk { Purpose::Kbpk } else { Purpose::Bdk }
    }

    fn spec(&self, desk: &Desk) -> Result<BdkSpec, Failure> {
        if !self.kbpk {
            return configured(desk, &self.id).cloned();
        }
        if self.from == Origin::Hsm {
            return Err(Failure::new(
                Exit::Usage,
                "a protection key is shared with another party: --from components or drawn",
            ));
        }
        let len =
            [KeyLen::K128, KeyLen::K192, KeyLen::K256].into_iter().find(|len| len.bits().to_string() == self.bits);
        let len = len.unwrap_or(KeyLen::K256);
        Ok(BdkSpec { id: self.id.clone(), scheme: Scheme::Aes, len, mode: DecryptionMode::Hardware, proof: None })
    }

    /// The key as a ceremony that was cut off left it in the registry, if one did.
    async fn registered(&self, desk: &Desk) -> Result<Option<BdkRecord>, Failure> {
        let known = desk.store.bdks().await.stored("list the keys")?.into_iter().find(|known| known.id == self.id);
        match known {
            Some(known) if known.state != State::PreActive => Err(Failure::new(
                Exit::Refused,
                format_args!("the key {} is {}: a new key takes a new id", self.id, known.state.name()),
            )),
            Some(known) => {
                custody::belongs(&known, desk.config.server.environment)?;
                let as_asked = known.purpose == self.purpose()
                    && known.merchant == self.merchant
                    && self.expires.is_none_or(|expires| known.expires_at_ms == Some(expires));
                match (as_asked, self.from) {
                    (true, Origin::Components | Origin::Hsm) => Ok(Some(known)),
                    (true, Origin::Drawn) => Err(Failure::new(
                        Exit::Refused,
                        format_args!("the key {} is registered: hold its ceremony again --from components", self.id),
                    )),
                    (false, _) => Err(Failure::new(
                        Exit::Refused,
                        format_args!("the key {} is registered otherwise: see `warifu key show {0}`", self.id),
                    )),
                }
            }
            None => Ok(None),
        }
    }

    /// Puts a key together and into the slot.
    async fn load(
        &self,
        witness: Witness<'_>,
        spec: &BdkSpec,
        dialogue: Dialogue,
        mut door: Door,
        before: Option<BdkRecord>,
    ) -> Result<Option<String>, Failure> {
        let desk = witness.desk;
        let source = match self.from {
            Origin::Drawn => Source::Drawn(self.draw(&witness, spec.len).await?),
            _ => Source::Paper,
        };
        let plan = self.people.plan(spec, self.kcv.as_deref());
        let Gathered { key, kcv, parts } = match gather(&plan, source, dialogue, &mut door, now_ms) {
            Ok(gathered) => gathered,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        let proof = self.purpose().proof(spec.scheme, &key);
        let environment = desk.config.server.environment;
        if custody::refuse_published(environment, self.purpose(), spec.scheme, spec.len, proof).is_err() {
            return Err(witness.gave_up(&CeremonyError::Published).await?);
        }
        if let Err(error) = still_admitted(desk, parts.iter().map(|(person, ..)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        if let Err(failure) = self.register(&witness, spec, proof, Some(kcv), before).await {
            witness.failed(&failure, &CallTally::default()).await?;
            return Err(failure);
        }

        let attended = parts.iter().map(|(person, kcv, at_ms)| Attended::with(person, *kcv, *at_ms)).collect();
        let act = if self.from == Origin::Drawn { MADE_OF_DRAWN } else { MADE_OF_COMPONENTS };
        let text = witness.transcript(act, attended, Some(kcv), Some(proof))?;
        let (loaded, calls) = hsm::use_once(&desk.config.hsm, "load the key", |slot, session| {
            put(slot, self.purpose(), spec, &key, proof)?;
            Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
        });
        drop(key);
        match loaded {
            Ok(signed) => witness.sign_off(text, signed, &calls).await?,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                remark("the key is registered and not in use; hold the ceremony again, or destroy the key");
                return Err(failure);
            }
        }
        Ok(Some(kcv.to_string()))
    }

    /// Components out of the slot's generator.
    async fn draw(&self, witness: &Witness<'_>, len: KeyLen) -> Result<Vec<KeyBytes>, Failure> {
        let (drawn, calls) = hsm::use_once(&witness.desk.config.hsm, "draw components", |_, session| {
            (0..self.people.custodians)
                .map(|_| {
                    let mut outcome = Ok(());
                    let component = KeyBytes::filled(len, |bytes| outcome = session.random(bytes));
                    outcome.map(|()| component)
                })
                .collect()
        });
        witness.note_use("components drawn for a ceremony", &calls).await?;
        drawn
    }

    /// Has the slot make a key, or signs off the one it made before it was cut off.
    async fn make(
        &self,
        witness: Witness<'_>,
        spec: &BdkSpec,
        dialogue: Dialogue,
        mut door: Door,
        before: Option<BdkRecord>,
    ) -> Result<Option<String>, Failure> {
        let desk = witness.desk;
        if self.kcv.is_some() {
            return Err(Failure::new(Exit::Usage, "nobody knows the check value of a key the HSM is yet to make"));
        }
        let words = self.people.company.language();
        let making = words.making(self.id.as_str(), &kind(spec.scheme, spec.len));
        let people = match self.people.attend(&making, dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
        if let Err(error) = still_admitted(desk, people.iter().map(|(person, _)| person)).await? {
            return Err(witness.gave_up(&error.into()).await?);
        }
        let mut calls = CallTally::default();
        let what = "make the key in the HSM";
        let slot = match open_slot_counted(&desk.config.hsm, &mut calls) {
            Ok(slot) => slot,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        };
        let made = async {
            let (proof, kcv, new) = match before {
                Some(before) => match slot.identify(spec) {
                    Ok((proof, kcv)) if proof == before.proof => (proof, kcv, None),
                    _ => {
                        let id = &self.id;
                        let why =
                            format_args!("the key {id} was registered and never made: destroy it, take another id");
                        return Err(Failure::new(Exit::Refused, why));
                    }
                },
                None => {
                    let new = slot.generate_bdk(spec).or_exit(Exit::Hsm, what)?;
                    let (proof, kcv) = new.identify().or_exit(Exit::Hsm, what)?;
                    self.register(&witness, spec, proof, kcv, None).await?;
                    (proof, kcv, Some(new))
                }
            };
            let attended = people.iter().map(|(person, at_ms)| Attended::present(person, *at_ms)).collect();
            let text = witness.transcript(MADE_IN_HSM, attended, kcv, Some(proof))?;
            if let Some(new) = new {
                new.keep().or_exit(Exit::Hsm, what)?;
            }
            let mut session = slot.session(&[]).or_exit(Exit::Hsm, what)?;
            let signed = session.sign(text.as_bytes()).and_then(|signed| Ok((signed, session.audit_public_key()?)));
            Ok((text, signed.or_exit(Exit::Hsm, what)?, kcv))
        };
        let made: Result<_, Failure> = made.await;
        calls.add(&slot.take_calls());
        calls.add(&close_slot(slot));
        match made {
            Ok((text, signed, kcv)) => {
                witness.sign_off(text, signed, &calls).await?;
                Ok(kcv.map(|kcv| kcv.to_string()))
            }
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                Err(failure)
            }
        }
    }

    /// Writes the key into the registry, where it is not in use yet. Before the slot has it: whatever happens from here
    /// on, the registry says what the slot should hold.
    async fn register(
        &self,
        witness: &Witness<'_>,
        spec: &BdkSpec,
        proof: KeyProof,
        kcv: Option<Kcv>,
        before: Option<BdkRecord>,
    ) -> Result<(), Failure> {
        let desk = witness.desk;
        if let Some(before) = before {
            // It may have gone on while people typed.
            let now = self.registered(desk).await?;
            return match before.proof == proof && now.is_some_and(|now| now.proof == proof) {
                true => Ok(()),
                false => Err(Failure::new(
                    Exit::Refused,
                    format_args!("the key {} is registered already, and is another one", self.id),
                )),
            };
        }
        let looking = "look for the key in the HSM";
        let (vacant, calls) =
            hsm::use_once(&desk.config.hsm, looking, |slot, _| slot.is_vacant(self.purpose(), &self.id));
        witness.note_use("key looked for before a ceremony", &calls).await?;
        if !vacant? {
            return Err(Failure::new(
                Exit::Refused,
                "the HSM holds a key under this label that no registry knows; nothing was changed",
            ));
        }
        let new = BdkRecord {
            id: self.id.clone(),
            purpose: self.purpose(),
            scheme: spec.scheme,
            len: spec.len,
            environment: desk.config.server.environment,
            merchant: self.merchant.clone(),
            kcv: kcv.map(|kcv| kcv.to_string()),
            proof,
            state: State::PreActive,
            created_at_ms: now_ms(),
            activated_at_ms: None,
            expires_at_ms: self.expires,
        };
        desk.registry.register_bdk(&new).await.stored("register the key")
    }
}

/// Whether the people who were let in may still take part, now that they have typed.
async fn still_admitted<'a>(
    desk: &Desk,
    mut people: impl Iterator<Item = &'a Admitted>,
) -> Result<Result<(), NotAdmitted>, Failure> {
    let roster = desk.store.custodians().await.stored("list the custodians")?;
    Ok(people.try_for_each(|person| person.still(&roster)))
}

/// Puts the key into the slot, unless an earlier try did, and has the slot prove it. Nothing that is there is destroyed, but
/// one of the two objects of a TDES key, which a try left that was cut off between them: it was never in use.
fn put(slot: &Slot, purpose: Purpose, spec: &BdkSpec, key: &KeyBytes, proof: KeyProof) -> Result<(), HsmError> {
    let prove = || match identified(slot, purpose, spec)? {
        (found, _) if found == proof => Ok(()),
        (found, _) => {
            let label = match purpose {
                Purpose::Bdk => bdk_label(&spec.id),
                Purpose::Kbpk => kbpk_label(&spec.id),
            };
            Err(HsmError::KeyReplaced { label, found, registered: proof, is: None })
        }
    };
    if !slot.is_vacant(purpose, &spec.id)? {
        match prove() {
            Err(HsmError::KeyMissing { .. }) if spec.scheme == Scheme::Tdes => provision::destroy_bdk(slot, &spec.id)?,
            proven => return proven,
        }
    }
    match purpose {
        Purpose::Bdk => provision::import_bdk(slot, spec, key)?,
        Purpose::Kbpk => provision::import_kbpk(slot, &spec.id, key)?,
    }
    prove().inspect_err(|_| {
        // It was made a moment ago, and is not what it was made of.
        let _ = match purpose {
            Purpose::Bdk => provision::destroy_bdk(slot, &spec.id),
            Purpose::Kbpk => provision::destroy_kbpk(slot, &spec.id),
        };
    })
}

#[derive(Args)]
pub(super) struct Init {
    #[command(flatten)]
    people: People,
}

impl Init {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let (dialogue, mut door, transcript) = self.people.assemble(desk).await?;
        let witness = Witness::new(desk, Subject::service_keys(), None, transcript);
        let words = self.people.company.language();
        let people = match self.people.attend(&words.service_keys(), dialogue, &mut door) {
            Ok(people) => people,
            Err(error) => return Err(witness.gave_up(&error).await?),
        };
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
            made.or_exit(Exit::Hsm, "make the keys every server needs")
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

impl Destroy {
    pub(super) async fn hold(self, desk: &Desk) -> Result<(), Failure> {
        let known = desk.store.bdks().await.stored("look the key up")?.into_iter().find(|known| known.id == self.id);
        let known = known.ok_or_else(|| Failure::new(Exit::Refused, "there is no such key"))?;
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
        let words = self.people.company.language();
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
        say(self.people.company.language().destroyed(known.id.as_str()));
        Ok(())
    }
}
