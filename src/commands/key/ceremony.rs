//! `warifu key ceremony`: a new key. First the dialogue, then the registry, then the HSM, then the transcript; each step can
//! be taken again, so that a ceremony that was cut off is simply held again.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use warifu_actors::store::BdkRecord;
use warifu_core::custody::{KeyProof, Purpose, State};
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_hsm::pkcs11::{NewBdk, Slot, bdk_label, kbpk_label, provision};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, Hsm as _, HsmError};

use super::people::{People, still_admitted};
use super::witness::{Attended, Subject, Witness};
use super::{configured, identified, replaced};
use crate::ceremony::{
    Admitted, CeremonyError, Dialogue, Door, Gathered, Key, MADE_IN_HSM, MADE_OF_COMPONENTS, MADE_OF_COMPONENTS_IN_HSM,
    MADE_OF_DRAWN, MADE_OF_DRAWN_IN_HSM, Place, Source, gather, kind,
};
use crate::commands::device::date;
use crate::commands::output::{remark, say};
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::custody;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{self, close_slot, open_slot_counted};

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
        say(self.people.language().done(kcv.as_deref().unwrap_or("-")));
        remark(format_args!("next: warifu key activate {}", self.id));
        Ok(())
    }

    fn purpose(&self) -> Purpose {
        if self.kbpk { Purpose::Kbpk } else { Purpose::Bdk }
    }

    fn spec(&self, desk: &Desk) -> Result<BdkSpec, Failure> {
        let misused = |why| Err(Failure::new(Exit::Usage, why));
        if self.kcv.is_some() && self.from != Origin::Components {
            return misused("nobody knows the check value of a key that is yet to be made or drawn");
        }
        if !self.kbpk {
            let spec = configured(desk, &self.id)?;
            if self.from == Origin::Hsm && spec.scheme == Scheme::Tdes {
                return misused("an HSM makes no TDES key for DUKPT: --from components or drawn");
            }
            return Ok(spec.clone());
        }
        if self.from == Origin::Hsm {
            return misused("a protection key is shared with another party: --from components or drawn");
        }
        let len =
            [KeyLen::K128, KeyLen::K192, KeyLen::K256].into_iter().find(|len| len.bits().to_string() == self.bits);
        let len = len.unwrap_or(KeyLen::K256);
        Ok(BdkSpec { id: self.id.clone(), scheme: Scheme::Aes, len, mode: DecryptionMode::Hardware, proof: None })
    }

    /// The key as a ceremony that was cut off left it in the registry, if one did.
    async fn registered(&self, desk: &Desk) -> Result<Option<Arc<BdkRecord>>, Failure> {
        match desk.store.bdk(&self.id).await.stored("look the key up")? {
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
        before: Option<Arc<BdkRecord>>,
    ) -> Result<Option<String>, Failure> {
        let desk = witness.desk;
        let source = match self.from {
            Origin::Drawn => Source::Drawn(self.draw(&witness, spec.len).await?),
            _ => Source::Paper,
        };
        let (place, slot) = self.place(&witness, spec).await?;
        let plan = self.people.plan(self.purpose(), spec, self.kcv.as_deref());
        let gathered = gather(&plan, source, place, dialogue, &mut door, now_ms);
        let Gathered { key, proof, kcv, parts } = match gathered {
            Ok(gathered) => gathered,
            Err(error) => {
                leave(&witness, slot).await?;
                return Err(witness.gave_up(&error).await?);
            }
        };
        let right = self.still_right(desk, spec, proof, &parts).await;
        if !matches!(right, Ok(Ok(()))) {
            drop(key);
            leave(&witness, slot).await?;
            return match right? {
                Err(error) => Err(witness.gave_up(&error).await?),
                Ok(()) => Ok(None),
            };
        }
        if let Err(failure) = self.register(&witness, spec, proof, Some(kcv), before).await {
            drop(key);
            leave(&witness, slot).await?;
            witness.failed(&failure, &CallTally::default()).await?;
            return Err(failure);
        }

        let attended = parts.iter().map(|(person, kcv, at_ms)| Attended::with(person, *kcv, *at_ms)).collect();
        let act = match (self.from, &key) {
            (Origin::Drawn, Key::Host(_)) => MADE_OF_DRAWN,
            (Origin::Drawn, Key::Slot(_)) => MADE_OF_DRAWN_IN_HSM,
            (_, Key::Host(_)) => MADE_OF_COMPONENTS,
            (_, Key::Slot(_)) => MADE_OF_COMPONENTS_IN_HSM,
        };
        let text = witness.transcript(act, attended, Some(kcv), Some(proof))?;
        let what = "load the key";
        let (loaded, calls) = match key {
            Key::Host(key) => hsm::use_once(&desk.config.hsm, what, |slot, session| {
                put(slot, self.purpose(), spec, &key, proof)?;
                Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
            }),
            Key::Slot(new) => {
                let kept = |slot: &Slot| {
                    keep(slot, spec, *new, proof)?;
                    let mut session = slot.session(&[])?;
                    Ok((session.sign(text.as_bytes())?, session.audit_public_key()?))
                };
                let loaded = slot.as_ref().ok_or(HsmError::StillInUse).and_then(kept);
                (loaded.or_exit(Exit::Hsm, what), slot.map(close).unwrap_or_default())
            }
        };
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

    /// Where components become the key: in the slot, which is then open, if it can do that; else here.
    async fn place(&self, witness: &Witness<'_>, spec: &BdkSpec) -> Result<(Place, Option<Slot>), Failure> {
        let aes_bdk = self.purpose() == Purpose::Bdk && spec.scheme == Scheme::Aes;
        if !aes_bdk {
            return Ok((Place::Host, None));
        }
        let mut calls = CallTally::default();
        let slot = match open_slot_counted(&witness.desk.config.hsm, &mut calls) {
            Ok(slot) => slot,
            Err(failure) => {
                witness.failed(&failure, &calls).await?;
                return Err(failure);
            }
        };
        let combiner = slot.combiner(spec.len).or_exit(Exit::Hsm, "look whether the HSM combines components");
        match combiner {
            Ok(Some(combiner)) => {
                witness.note_use("the HSM combines components", &slot.take_calls()).await?;
                Ok((Place::Slot(Box::new(combiner), spec.id.clone()), Some(slot)))
            }
            other => {
                witness.note_use("the HSM does not combine components", &close(slot)).await?;
                other.map(|_| (Place::Host, None))
            }
        }
    }

    /// Whether a key may be made of what these people brought, now that they have typed.
    async fn still_right(
        &self,
        desk: &Desk,
        spec: &BdkSpec,
        proof: KeyProof,
        parts: &[(Admitted, Kcv, i64)],
    ) -> Result<Result<(), CeremonyError>, Failure> {
        let environment = desk.config.server.environment;
        if custody::refuse_published(environment, self.purpose(), spec.scheme, spec.len, proof).is_err() {
            return Ok(Err(CeremonyError::Published));
        }
        let admitted = still_admitted(desk, parts.iter().map(|(person, ..)| person)).await?;
        Ok(admitted.map_err(CeremonyError::from))
    }

    /// Components out of the slot's generator.
    async fn draw(&self, witness: &Witness<'_>, len: KeyLen) -> Result<Vec<KeyBytes>, Failure> {
        let (drawn, calls) = hsm::use_once(&witness.desk.config.hsm, "draw components", |_, session| {
            (0..self.people.custodians())
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
        before: Option<Arc<BdkRecord>>,
    ) -> Result<Option<String>, Failure> {
        let desk = witness.desk;
        let words = self.people.language();
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
            let (proof, kcvs, new) = match before {
                Some(before) => match slot.identify(spec) {
                    Ok((proof, kcvs)) if proof == before.proof => (proof, kcvs, None),
                    Ok(_) => return Err(replaced(&self.id)),
                    Err(HsmError::KeyMissing { .. }) => {
                        let id = &self.id;
                        let why =
                            format_args!("the key {id} was registered and never made: destroy it, take another id");
                        return Err(Failure::new(Exit::Refused, why));
                    }
                    Err(error) => return Err(error).or_exit(Exit::Hsm, what),
                },
                None => {
                    let new = slot.generate_bdk(spec).or_exit(Exit::Hsm, what)?;
                    let (proof, kcvs) = new.identify().or_exit(Exit::Hsm, what)?;
                    self.register(&witness, spec, proof, kcvs.first().copied(), None).await?;
                    (proof, kcvs, Some(new))
                }
            };
            let kcv = kcvs.first().copied();
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
        calls.add(&close(slot));
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
        before: Option<Arc<BdkRecord>>,
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

/// Closes a slot in which a key was being put together, and writes its calls down.
async fn leave(witness: &Witness<'_>, slot: Option<Slot>) -> Result<(), Failure> {
    match slot {
        Some(slot) => witness.note_use("components combined in the HSM, for nothing", &close(slot)).await,
        None => Ok(()),
    }
}

/// Closes a slot, and tells all calls nobody else tells.
fn close(slot: Slot) -> CallTally {
    let mut calls = slot.take_calls();
    calls.add(&close_slot(slot));
    calls
}

/// Keeps a key that came into being in the slot, unless an earlier try did, and has the slot prove it.
fn keep(slot: &Slot, spec: &BdkSpec, new: NewBdk, proof: KeyProof) -> Result<(), HsmError> {
    if !slot.is_vacant(Purpose::Bdk, &spec.id)? {
        return prove(slot, Purpose::Bdk, spec, proof);
    }
    new.keep()?;
    prove(slot, Purpose::Bdk, spec, proof).inspect_err(|error| {
        if is_another(error) {
            let _ = provision::destroy_bdk(slot, &spec.id);
        }
    })
}

/// Has the slot prove that it holds this very key.
fn prove(slot: &Slot, purpose: Purpose, spec: &BdkSpec, proof: KeyProof) -> Result<(), HsmError> {
    match identified(slot, purpose, spec)? {
        (found, _) if found == proof => Ok(()),
        (found, _) => {
            let label = match purpose {
                Purpose::Bdk => bdk_label(&spec.id),
                Purpose::Kbpk => kbpk_label(&spec.id),
            };
            Err(HsmError::KeyReplaced { label, found, registered: proof, is: None })
        }
    }
}

/// Puts the key into the slot, unless an earlier try did, and has the slot prove it. Nothing that is there is destroyed, but
/// one of the two objects of a TDES key, which a try left that was cut off between them: it was never in use.
fn put(slot: &Slot, purpose: Purpose, spec: &BdkSpec, key: &KeyBytes, proof: KeyProof) -> Result<(), HsmError> {
    let prove = || prove(slot, purpose, spec, proof);
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
    prove().inspect_err(|error| {
        if is_another(error) {
            let _ = match purpose {
                Purpose::Bdk => provision::destroy_bdk(slot, &spec.id),
                Purpose::Kbpk => provision::destroy_kbpk(slot, &spec.id),
            };
        }
    })
}

/// Whether a key that was made a moment ago is not what it was made of. An HSM that only fails to say so may have made the right
/// one: it is proven when the ceremony is held again.
const fn is_another(error: &HsmError) -> bool {
    matches!(error, HsmError::KeyReplaced { .. })
}
