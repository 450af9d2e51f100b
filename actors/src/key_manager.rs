//! The key manager: which base derivation key opens a frame, whether it may, and which deriver does it.
//!
//! It knows keys by name only. Every operation with one is delegated to the HSM, on the thread of a deriver.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use futures_util::future::join_all;
use warifu_core::account_data::AccountData;
use warifu_core::card::Brand;
use warifu_core::frame::SealedFrame;
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::{BdkId, MerchantId};
use warifu_core::refusal::Refusal;
use warifu_core::token::{LastFour, Token};
use warifu_hsm::{BdkSpec, DecryptionMode, Hsm, HsmError, SealedPan, Signature, WrappedVaultKey, verify_signature};

use crate::auditor::Due;
use crate::gate::{Agent, Answer, GateError};
use crate::key_deriver::{KeyDeriver, Visit, VisitError, Visited};
use crate::record::Record;
use crate::refused::{Refused, with_source};
use crate::store::job::Candidate;
use crate::store::{Fingerprints, VaultStage};

/// Random bytes asked for at once: enough for eight tries to draw a token, of which about four in five work.
const RANDOM: usize = 64;
/// Times that many bytes are asked for before the generator is taken for broken.
const DRAWS: usize = 8;

/// Knows the keys by name and the derivers.
pub struct KeyManager {
    bdks: HashMap<BdkId, BdkSpec>,
    derivers: Vec<KeyDeriver>,
    non_p2pe: NonP2pe,
}

/// Whether keys may leave the HSM further than any P2PE standard allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonP2pe {
    /// They may.
    Accepted,
    /// They may not.
    Refused,
}

/// Open a frame, and tell the card's fingerprints at a merchant.
pub struct OpenFrame {
    /// The key its device was loaded under.
    pub bdk: BdkId,
    /// The frame.
    pub frame: SealedFrame,
    /// Whose fingerprints.
    pub merchant: MerchantId,
    /// By which keys.
    pub vault: VaultStage,
    /// What the log will say, as far as known.
    pub record: Record,
}

/// Open many frames. Gives as many results, in the same order.
pub struct OpenFrames(pub Vec<OpenFrame>);

/// An opened frame. A secret.
pub struct OpenedFrame {
    /// The card.
    pub card: AccountData,
    /// Its fingerprints at the merchant.
    pub fingerprints: Fingerprints,
    /// Where the keys lived.
    pub mode: DecryptionMode,
    /// The record of it.
    pub due: Due,
}

/// Draw a token for a card and seal the card number for it. A secret.
pub struct SealCard {
    /// Which device brought it: its deriver does this too.
    pub ksn: Ksn,
    /// Whose.
    pub merchant: MerchantId,
    /// The merchant's vault key.
    pub vault_key: WrappedVaultKey,
    /// How its tokens end.
    pub last_four: LastFour,
    /// The card.
    pub card: AccountData,
    /// What the log will say, as far as known.
    pub record: Record,
}

/// Draw tokens for many cards, and seal their numbers. Gives as many results, in the same order. A secret.
pub struct SealCards(pub Vec<SealCard>);

/// A sealed card. A secret, because the card is still with it.
pub struct SealedCard {
    /// The card.
    pub card: AccountData,
    /// Its token to be.
    pub candidate: Candidate,
    /// The record of it.
    pub due: Due,
}

/// Sign a tree head.
pub struct SignHead {
    /// Its bytes.
    pub message: Vec<u8>,
    /// What the log will say.
    pub record: Record,
}

/// A signature and the key that made it.
pub struct SignedBytes {
    /// The signature.
    pub signature: Signature,
    /// The key.
    pub public_key: [u8; 65],
    /// The record of it.
    pub due: Due,
}

/// Why the HSM did not do it.
pub struct KeyError {
    /// What the caller is told, and why.
    pub refused: Refused,
    /// The record of the calls that were made.
    pub due: Option<Due>,
    /// Whose fault it was.
    pub blame: Blame,
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The frame was not genuine.
    Frame,
    /// The frame was genuine and held no card.
    Card,
    /// Not the frame's.
    Other,
}

impl KeyManager {
    /// A key manager over these keys and derivers, of which there must be one or more.
    pub fn new(bdks: &[BdkSpec], derivers: Vec<KeyDeriver>, non_p2pe: NonP2pe) -> Self {
        let bdks = bdks.iter().map(|spec| (spec.id.clone(), spec.clone())).collect();
        Self { bdks, derivers, non_p2pe }
    }

    /// Whether the keys of this name may be used for a frame of this scheme.
    fn permit(&self, bdk: &BdkId, scheme: Scheme) -> Result<(), Refused> {
        let refuse = |cause: &'static str| Err(Refused::because(Refusal::ModeNotAllowed, cause));
        match self.bdks.get(bdk) {
            None => refuse("the device's base derivation key is not configured on this server"),
            Some(spec) if spec.scheme != scheme => refuse("the device's base derivation key is of the other scheme"),
            Some(spec) if spec.mode == DecryptionMode::HostDerived && self.non_p2pe == NonP2pe::Refused => {
                refuse("host-derived decryption is not accepted on this server")
            }
            Some(_) => Ok(()),
        }
    }

    /// Which deriver opens all frames of a device.
    fn index_of(&self, ksn: &Ksn) -> usize {
        // Fixed keys: a device stays with its deriver when this actor is rebuilt.
        let mut hasher = DefaultHasher::new();
        ksn.device().hash(&mut hasher);
        let derivers = u64::try_from(self.derivers.len().max(1)).unwrap_or(1);
        usize::try_from(hasher.finish() % derivers).unwrap_or(0)
    }

    /// The deriver that opens all frames of a device.
    fn deriver_of(&self, ksn: &Ksn) -> Option<KeyDeriver> {
        self.derivers.get(self.index_of(ksn)).cloned()
    }

    /// Many visits, each to the deriver of its device; the derivers work side by side.
    fn visit_each<V: Visit>(
        &self,
        visits: Vec<(Ksn, V, Record)>,
    ) -> impl Future<Output = Vec<Visited<V::Reply>>> + Send + use<V> {
        // Of each deriver, the visits that are its, and the places of their results.
        let (mut shares, mut places) = (Vec::new(), vec![Vec::new(); self.derivers.len()]);
        shares.resize_with(self.derivers.len(), Vec::new);
        let len = visits.len();
        for (place, (ksn, visit, record)) in visits.into_iter().enumerate() {
            let deriver = self.index_of(&ksn);
            if let (Some(share), Some(places)) = (shares.get_mut(deriver), places.get_mut(deriver)) {
                share.push((visit, record));
                places.push(place);
            }
        }
        let asked = self.derivers.clone().into_iter().zip(shares).zip(places).filter(|(_, places)| !places.is_empty());
        let asked: Vec<_> = asked
            .map(|((deriver, share), places)| async move {
                places.into_iter().zip(deriver.visit_each(share).await).collect::<Vec<_>>()
            })
            .collect();
        async move {
            let mut visited: Vec<_> = std::iter::repeat_with(|| None).take(len).collect();
            for (place, its) in join_all(asked).await.into_iter().flatten() {
                visited[place] = Some(its);
            }
            let away = || Visited { result: Err(VisitError::Away), due: None };
            visited.into_iter().map(|its| its.unwrap_or_else(away)).collect()
        }
    }
}

impl Agent for KeyManager {
    const NAME: &'static str = "key manager";
}

impl Answer<OpenFrame> for KeyManager {
    type Reply = OpenedFrame;
    type Error = KeyError;

    fn answer(&mut self, asked: OpenFrame) -> impl Future<Output = Result<OpenedFrame, KeyError>> + Send + 'static {
        let OpenFrame { bdk, frame, merchant, vault, record } = asked;
        let ksn = frame.ksn();
        let allowed = self.permit(&bdk, ksn.scheme());
        let deriver = self.deriver_of(&ksn);
        let authenticated = frame.mac().is_some();
        async move {
            allowed?;
            let visit = Open { bdk, frame, merchant, vault };
            opened(deriver.ok_or(VisitError::Away)?.visit(visit, record).await, authenticated)
        }
    }
}

impl Answer<OpenFrames> for KeyManager {
    type Reply = Vec<Result<OpenedFrame, KeyError>>;
    type Error = KeyError;

    fn answer(&mut self, asked: OpenFrames) -> impl Future<Output = Result<Self::Reply, KeyError>> + Send + 'static {
        let (mut allowed, mut visits) = (Vec::new(), Vec::new());
        for OpenFrame { bdk, frame, merchant, vault, record } in asked.0 {
            let ksn = frame.ksn();
            let permit = self.permit(&bdk, ksn.scheme());
            allowed.push(permit.clone().map(|()| frame.mac().is_some()));
            if permit.is_ok() {
                visits.push((ksn, Open { bdk, frame, merchant, vault }, record));
            }
        }
        let visited = self.visit_each(visits);
        async move {
            // As many visits as were allowed, in their order.
            let mut visited = visited.await.into_iter();
            let one = |allowed: Result<bool, Refused>| {
                let authenticated = allowed?;
                opened(visited.next().ok_or(VisitError::Away)?, authenticated)
            };
            Ok(allowed.into_iter().map(one).collect())
        }
    }
}

impl Answer<SealCards> for KeyManager {
    type Reply = Vec<Result<SealedCard, KeyError>>;
    type Error = KeyError;

    fn answer(&mut self, asked: SealCards) -> impl Future<Output = Result<Self::Reply, KeyError>> + Send + 'static {
        let visit = |SealCard { ksn, merchant, vault_key, last_four, card, record }| {
            (ksn, Seal { merchant, vault_key, last_four, card }, record)
        };
        let visited = self.visit_each(asked.0.into_iter().map(visit).collect());
        async move { Ok(visited.await.into_iter().map(sealed).collect()) }
    }
}

impl Answer<SealCard> for KeyManager {
    type Reply = SealedCard;
    type Error = KeyError;

    fn answer(&mut self, asked: SealCard) -> impl Future<Output = Result<SealedCard, KeyError>> + Send + 'static {
        let SealCard { ksn, merchant, vault_key, last_four, card, record } = asked;
        let deriver = self.deriver_of(&ksn);
        async move {
            let visit = Seal { merchant, vault_key, last_four, card };
            sealed(deriver.ok_or(VisitError::Away)?.visit(visit, record).await)
        }
    }
}

impl Answer<SignHead> for KeyManager {
    type Reply = SignedBytes;
    type Error = KeyError;

    fn answer(&mut self, asked: SignHead) -> impl Future<Output = Result<SignedBytes, KeyError>> + Send + 'static {
        let SignHead { message, record } = asked;
        let deriver = self.derivers.first().cloned();
        async move {
            let Visited { result, due } = deriver.ok_or(VisitError::Away)?.visit(SignBytes(message), record).await;
            match (result, due) {
                (Ok((signature, public_key)), Some(due)) => Ok(SignedBytes { signature, public_key, due }),
                (Ok(_), None) => Err(GateError::Panicked(Self::NAME).into()),
                (Err(error), due) => Err(KeyError { due, ..error.into() }),
            }
        }
    }
}

fn opened(visited: Visited<<Open as Visit>::Reply>, authenticated: bool) -> Result<OpenedFrame, KeyError> {
    match (visited.result, visited.due) {
        (Ok((card, fingerprints, mode)), Some(due)) => Ok(OpenedFrame { card, fingerprints, mode, due }),
        (Ok(_), None) => Err(GateError::Panicked(KeyManager::NAME).into()),
        (Err(error), due) => {
            let (refusal, blame) = judge(&error, authenticated);
            let refused = Refused::because(refusal, with_source(&error));
            Err(KeyError { refused, due, blame })
        }
    }
}

fn sealed(visited: Visited<<Seal as Visit>::Reply>) -> Result<SealedCard, KeyError> {
    match (visited.result, visited.due) {
        (Ok((card, candidate)), Some(due)) => Ok(SealedCard { card, candidate, due }),
        (Ok(_), None) => Err(GateError::Panicked(KeyManager::NAME).into()),
        (Err(error), due) => Err(KeyError { due, ..error.into() }),
    }
}

/// What a failed opening means. A frame with a right MAC is genuine whatever it opens to.
fn judge(error: &VisitError, authenticated: bool) -> (Refusal, Blame) {
    match error {
        VisitError::Hsm(HsmError::WrongMac | HsmError::SuiteMismatch(_)) => (Refusal::FrameRefused, Blame::Frame),
        VisitError::Hsm(HsmError::Card(_)) if authenticated => (Refusal::CardInvalid, Blame::Card),
        VisitError::Hsm(HsmError::Card(_)) => (Refusal::FrameRefused, Blame::Frame),
        error => (refusal_of(error), Blame::Other),
    }
}

fn refusal_of(error: &VisitError) -> Refusal {
    match error {
        VisitError::Busy => Refusal::Busy,
        VisitError::Panicked => Refusal::Internal,
        VisitError::Hsm(HsmError::Sealed) => Refusal::Internal,
        VisitError::Away | VisitError::Hangs | VisitError::Hsm(_) => Refusal::HsmUnavailable,
    }
}

impl From<VisitError> for KeyError {
    fn from(error: VisitError) -> Self {
        Refused::because(refusal_of(&error), with_source(&error)).into()
    }
}

impl From<Refused> for KeyError {
    fn from(refused: Refused) -> Self {
        Self { refused, due: None, blame: Blame::Other }
    }
}

impl From<GateError> for KeyError {
    fn from(error: GateError) -> Self {
        Refused::from(error).into()
    }
}

struct Open {
    bdk: BdkId,
    frame: SealedFrame,
    merchant: MerchantId,
    vault: VaultStage,
}

impl Visit for Open {
    type Reply = (AccountData, Fingerprints, DecryptionMode);

    fn run(self, hsm: &mut dyn Hsm, record: &mut Record) -> Result<Self::Reply, HsmError> {
        let begun = Instant::now();
        let opened = hsm.open(&self.bdk, &self.frame)?;
        let labels = [("mode", opened.mode.name()), ("scheme", scheme_name(self.frame.ksn().scheme()))];
        metrics::histogram!("warifu_hsm_open_seconds", &labels).record(begun.elapsed().as_secs_f64());
        record.mode = Some(opened.mode.name().to_owned());
        let pan = opened.account_data.pan();
        let generation = self.vault.generation;
        let current = hsm.fingerprint(generation, &self.merchant, pan)?;
        let former = self.vault.former().map(|former| hsm.fingerprint(former, &self.merchant, pan)).transpose()?;
        Ok((opened.account_data, Fingerprints { generation, current, former }, opened.mode))
    }
}

struct Seal {
    merchant: MerchantId,
    vault_key: WrappedVaultKey,
    last_four: LastFour,
    card: AccountData,
}

impl Visit for Seal {
    type Reply = (AccountData, Candidate);

    fn run(self, hsm: &mut dyn Hsm, _: &mut Record) -> Result<Self::Reply, HsmError> {
        let pan = self.card.pan();
        let last_four = match self.last_four {
            LastFour::Keep => Some(pan.last_four()),
            LastFour::Random => None,
        };
        let token = draw(hsm, last_four)?;
        let sealed: SealedPan = hsm.seal(&self.vault_key, &self.merchant, &token, pan)?;
        let brand: Brand = pan.brand();
        let candidate = Candidate { token, sealed, masked: pan.masked(), brand };
        Ok((self.card, candidate))
    }
}

fn draw(hsm: &mut dyn Hsm, last_four: Option<[u8; 4]>) -> Result<Token, HsmError> {
    for _ in 0..DRAWS {
        let mut random = [0; RANDOM];
        hsm.random(&mut random)?;
        let (numbers, _) = random.as_chunks::<8>();
        if let Some(token) = numbers.iter().find_map(|number| Token::draw(*number, last_four)) {
            return Ok(token);
        }
    }
    Err(HsmError::SelfTest("its random numbers are not random"))
}

struct SignBytes(Vec<u8>);

impl Visit for SignBytes {
    type Reply = (Signature, [u8; 65]);

    fn run(self, hsm: &mut dyn Hsm, _: &mut Record) -> Result<Self::Reply, HsmError> {
        let (signature, public_key) = (hsm.sign(&self.0)?, hsm.audit_public_key()?);
        // A log with a wrong signature in it could never be verified again.
        if !verify_signature(&public_key, &self.0, &signature) {
            return Err(HsmError::SelfTest("its signature does not verify"));
        }
        Ok((signature, public_key))
    }
}

/// The name of a scheme in metrics.
pub(crate) const fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Aes => "aes",
        Scheme::Tdes => "tdes",
    }
}
