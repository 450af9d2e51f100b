//! A key ceremony: people who trust each other with parts put a key into the HSM that none of them knows.
//!
//! Architecture invariant: a component exists in locked memory of this process from when it is typed until the HSM has it:
//! at once where the slot combines components, with the others and the key at the end where it does not. All are wiped on every
//! way out but a kill. Nothing is written anywhere before the check value of the whole key was found right.

mod admission;
mod attention;
mod dialogue;
mod transcript;
mod words;

use std::path::Path;

use warifu_core::component::{self, CombineError};
use warifu_core::custody::{KeyProof, Purpose};
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::HsmError;
use warifu_hsm::pkcs11::{Combiner, NewBdk};
use zeroize::Zeroizing;

pub(crate) use admission::{Admitted, Door, NotAdmitted};
pub(crate) use dialogue::{Dialogue, Silence};
pub(crate) use transcript::{
    DESTROYED, FORM, MADE_IN_HSM, MADE_OF_COMPONENTS, MADE_OF_COMPONENTS_IN_HSM, MADE_OF_DRAWN, MADE_OF_DRAWN_IN_HSM,
    Part, Signed, Transcript,
};
pub(crate) use words::Language;

/// Times a component may be typed.
const TRIES: usize = 3;

/// Where components come from.
pub(crate) enum Source {
    /// Each custodian brings one on paper.
    Paper,
    /// The HSM drew them; each custodian writes one down and takes it to the other side.
    Drawn(Vec<KeyBytes>),
}

/// What is to be made.
pub(crate) struct Plan<'a> {
    /// The key's id.
    pub(crate) key: &'a str,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// Its scheme.
    pub(crate) scheme: Scheme,
    /// Its length.
    pub(crate) len: KeyLen,
    /// How many people bring a component.
    pub(crate) custodians: usize,
    /// The check value the key must have; asked for where it is not given.
    pub(crate) expected: Option<String>,
    /// What is spoken.
    pub(crate) language: Language,
}

/// Why there is no key. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CeremonyError {
    /// Nobody answers any more.
    #[error(transparent)]
    Silence(#[from] Silence),
    /// Somebody was not let in.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// A component was not typed right.
    #[error("the component of {0} was not typed right")]
    Component(String),
    /// The components make no key.
    #[error(transparent)]
    Combine(#[from] CombineError),
    /// The slot that combines them failed.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// Everybody knows it.
    #[error("this is a published test key, which no live server uses")]
    Published,
    /// The components make another key than the one expected.
    #[error("the components make a key with the check value {0}, which is not the expected one")]
    AnotherKey(Kcv),
}

/// Where components become a key.
pub(crate) enum Place {
    /// In locked memory of this host.
    Host,
    /// In the slot, each as it comes; the key gets this id.
    Slot(Box<Combiner>, BdkId),
}

/// A key that was put together. A secret.
pub(crate) enum Key {
    /// On this host.
    Host(KeyBytes),
    /// In the slot, where it is not kept yet.
    Slot(Box<NewBdk>),
}

/// A key that was put together, and by whom. A secret.
pub(crate) struct Gathered {
    /// The key.
    pub(crate) key: Key,
    /// What tells it from every other one.
    pub(crate) proof: KeyProof,
    /// Its check value.
    pub(crate) kcv: Kcv,
    /// Who brought which part, in their order.
    pub(crate) parts: Vec<(Admitted, Kcv, i64)>,
}

/// Components on their way to a key.
enum Sum {
    Host(Vec<KeyBytes>),
    Slot(Box<Combiner>, BdkId),
}

impl Sum {
    /// Whether it was brought before is seen by its check value: components that are in the slot cannot be compared.
    fn add(&mut self, component: KeyBytes, kcv: Kcv, before: &[(Admitted, Kcv, i64)]) -> Result<(), CeremonyError> {
        match self {
            Self::Host(components) => components.push(component),
            Self::Slot(..) if before.iter().any(|(_, known, _)| *known == kcv) => return Err(CombineError::Same.into()),
            Self::Slot(combiner, _) => combiner.add(&component)?,
        }
        Ok(())
    }

    fn key(self, plan: &Plan<'_>) -> Result<(Key, KeyProof, Kcv), CeremonyError> {
        match self {
            Self::Host(components) => {
                let key = component::combine(&components, plan.scheme)?;
                let (proof, kcv) = (plan.purpose.proof(plan.scheme, &key), Kcv::of_bdk(plan.scheme, &key));
                Ok((Key::Host(key), proof, kcv))
            }
            Self::Slot(combiner, id) => {
                let new = combiner.finish(&id)?;
                let (proof, kcvs) = new.identify()?;
                let kcv = *kcvs.first().ok_or(HsmError::SelfTest("it does not show a check value any more"))?;
                let zeros = Kcv::aes_cmac(&KeyBytes::filled(plan.len, |_| ()));
                if kcv == zeros { Err(CombineError::Zeros.into()) } else { Ok((Key::Slot(Box::new(new)), proof, kcv)) }
            }
        }
    }
}

/// Has the custodians come one after another, and puts the key together.
///
/// # Errors
/// [`CeremonyError`]: then nothing has happened.
pub(crate) fn gather(
    plan: &Plan<'_>,
    source: Source,
    place: Place,
    dialogue: Dialogue,
    door: &mut Door,
    now_ms: impl Fn() -> i64,
) -> Result<Gathered, CeremonyError> {
    let words = plan.language;
    let _attention = dialogue.attend()?;
    dialogue.tell(&words.opening(&words.making(plan.key, &kind(plan.scheme, plan.len)), plan.custodians))?;
    let mut parts = Vec::new();
    let mut sum = match place {
        Place::Host => Sum::Host(Vec::new()),
        Place::Slot(combiner, id) => Sum::Slot(combiner, id),
    };
    let mut drawn = match source {
        Source::Paper => None,
        Source::Drawn(components) => Some(components.into_iter()),
    };
    for number in 1..=plan.custodians {
        let person = receive(words, dialogue, door, (number, plan.custodians))?;
        let (component, kcv) = match drawn.as_mut().map(Iterator::next) {
            None => take(plan, dialogue, person.id.as_str())?,
            Some(Some(component)) => give(plan, dialogue, component, person.id.as_str())?,
            Some(None) => return Err(CombineError::TooFew.into()),
        };
        sum.add(component, kcv, &parts)?;
        parts.push((person, kcv, now_ms()));
        dialogue.tell(words.taken())?;
        if dialogue == Dialogue::Terminal {
            dialogue.ask("")?;
        }
        dialogue.clear()?;
    }
    let (key, proof, kcv) = sum.key(plan)?;
    dialogue.goes_on()?;
    if drawn.is_some() {
        return Ok(Gathered { key, proof, kcv, parts });
    }
    let expected = match &plan.expected {
        Some(expected) => Zeroizing::new(expected.clone()),
        None => dialogue.ask(words.key_kcv())?,
    };
    let right = match &key {
        Key::Host(key) => agrees(plan.scheme, key, &expected),
        Key::Slot(new) => new.has_check_value(&Zeroizing::new(compact(&expected)))? == Some(true),
    };
    if !right {
        return Err(CeremonyError::AnotherKey(kcv));
    }
    Ok(Gathered { key, proof, kcv, parts })
}

/// Has the custodians come one after another, to be there when something is done that takes two.
///
/// # Errors
/// [`CeremonyError`]: then nothing has happened.
pub(crate) fn attend(
    what: &str,
    custodians: usize,
    language: Language,
    dialogue: Dialogue,
    door: &mut Door,
    now_ms: impl Fn() -> i64,
) -> Result<Vec<(Admitted, i64)>, CeremonyError> {
    let _attention = dialogue.attend()?;
    dialogue.tell(&language.opening(what, custodians))?;
    let turns = (1..=custodians).map(|number| (number, custodians));
    let people = turns.map(|turn| Ok((receive(language, dialogue, door, turn)?, now_ms()))).collect();
    dialogue.goes_on()?;
    people
}

/// The next custodian, recognised.
fn receive(
    words: Language,
    dialogue: Dialogue,
    door: &mut Door,
    (number, of): (usize, usize),
) -> Result<Admitted, CeremonyError> {
    dialogue.tell("")?;
    dialogue.tell(&words.turn(number, of))?;
    for again in (0..TRIES).rev() {
        let certificate = dialogue.ask(words.certificate())?;
        let key = dialogue.ask(words.private_key())?;
        match door.admit(Path::new(certificate.as_str()), Path::new(key.as_str())) {
            Ok(person) => {
                dialogue.tell(&words.welcome(person.id.as_str()))?;
                return Ok(person);
            }
            // A slip of the hand, as against a person who must not be here. What was typed is not repeated: it may be a
            // component, typed too early.
            Err(NotAdmitted::Unreadable) if again > 0 => dialogue.tell(&words.again(words.unreadable()))?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(NotAdmitted::Unreadable.into())
}

/// Shows a drawn component to its custodian, who writes it down and proves that by typing it back.
fn give(plan: &Plan<'_>, dialogue: Dialogue, component: KeyBytes, who: &str) -> Result<(KeyBytes, Kcv), CeremonyError> {
    let words = plan.language;
    let kcv = Kcv::of_bdk(plan.scheme, &component);
    dialogue.show(words.write_down(), component.expose())?;
    dialogue.tell(&words.with_kcv(&kcv.to_string()))?;
    let read = match dialogue {
        Dialogue::Terminal => dialogue.ask(words.written_down()).map(drop),
        Dialogue::Script => Ok(()),
    };
    // Whatever came of it, nobody else sees it.
    dialogue.clear()?;
    read?;
    for _ in 0..TRIES {
        let typed = dialogue.ask_secret(&words.component(2 * plan.len.bytes()))?;
        match component::parse(typed.expose(), plan.scheme, plan.len) {
            Ok(typed) if typed.ct_eq(&component) => return Ok((component, kcv)),
            Ok(_) => dialogue.tell(&words.again(words.another()))?,
            Err(error) => dialogue.tell(&words.again(&error.to_string()))?,
        }
    }
    Err(CeremonyError::Component(who.to_owned()))
}

/// One component, typed until its check value is right.
fn take(plan: &Plan<'_>, dialogue: Dialogue, who: &str) -> Result<(KeyBytes, Kcv), CeremonyError> {
    let words = plan.language;
    for _ in 0..TRIES {
        let typed = dialogue.ask_secret(&words.component(2 * plan.len.bytes()))?;
        let component = match component::parse(typed.expose(), plan.scheme, plan.len) {
            Ok(component) => component,
            Err(error) => {
                dialogue.tell(&words.again(&error.to_string()))?;
                continue;
            }
        };
        let stated = dialogue.ask(words.component_kcv())?;
        if agrees(plan.scheme, &component, &stated) {
            let kcv = Kcv::of_bdk(plan.scheme, &component);
            return Ok((component, kcv));
        }
        dialogue.tell(&words.again(words.kcv_differs()))?;
    }
    Err(CeremonyError::Component(who.to_owned()))
}

/// Whether a key has the stated check value. Of an AES key both kinds are on paper: five bytes of a CMAC, or three of
/// an encrypted block.
fn agrees(scheme: Scheme, key: &KeyBytes, stated: &str) -> bool {
    let stated = compact(stated);
    let is = |kcv: Kcv| stated.eq_ignore_ascii_case(&kcv.to_string());
    match scheme {
        Scheme::Aes => is(Kcv::aes_cmac(key)) || is(Kcv::aes(key)),
        Scheme::Tdes => is(Kcv::tdes(key)),
    }
}

/// Without the spaces people write between digits.
pub(crate) fn compact(stated: &str) -> String {
    stated.chars().filter(|character| !character.is_whitespace()).collect()
}

/// How people call a kind of key.
pub(crate) fn kind(scheme: Scheme, len: KeyLen) -> String {
    match scheme {
        Scheme::Aes => format!("AES-{} DUKPT", len.bits()),
        Scheme::Tdes => "TDES DUKPT".to_owned(),
    }
}
