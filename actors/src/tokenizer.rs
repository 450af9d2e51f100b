//! The tokenizer: from a sealed frame to a card with its token, durable.
//!
//! The card number passes through here in its own type and is never copied; the vault keeps it sealed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use warifu_core::account_data::AccountData;
use warifu_core::frame::SealedFrame;
use warifu_core::ksn::Counter;
use warifu_core::merchant::{DeviceId, RequestId};
use warifu_core::refusal::{Refusal, Retry};

use crate::auditor::{Admit, AuditLog, Auditor, Due};
use crate::gate::{Agent, Answer, Gate};
use crate::house::Caller;
use crate::key_manager::{
    Blame, KeyError, KeyManager, OpenFrame, OpenFrames, OpenedFrame, SealCard, SealCards, SealedCard,
};
use crate::record::{Kind, Record};
use crate::refused::{Recorded, Refused};
use crate::store::job::{Intent, NewPayment, Origin, Take, Taken};
use crate::store::{CardCheck, DeviceRecord, MerchantRecord, Outcome, Rejection, Store, StoreError};
use crate::turn::Turn;

type Written = Result<Result<Outcome, Rejection>, StoreError>;

/// Tokens drawn for one card before the merchant's are taken to be used up.
const DRAWS: usize = 8;
/// Times a card is taken anew because its merchant's vault has moved meanwhile.
const MOVES: usize = 2;

/// Keeps the vault.
pub struct Tokenizer {
    desk: Desk,
}

/// What its work needs.
#[derive(Clone)]
struct Desk {
    store: Store,
    log: AuditLog,
    auditor: Gate<Auditor>,
    keys: Gate<KeyManager>,
    fault_limit: u32,
    window: Duration,
}

/// A card as it came from a device, checked as far as that is possible without keys.
#[derive(Clone)]
pub struct Collected {
    /// Who sent it.
    pub caller: Caller,
    /// Under which name.
    pub request: RequestId,
    /// With which content.
    pub digest: [u8; 32],
    /// The frame.
    pub frame: SealedFrame,
    /// Its counter.
    pub counter: Counter,
    /// Its device; its guard may be of a while ago.
    pub device: Arc<DeviceRecord>,
}

/// Open the frame, give the card its token, and make that durable, with a payment if there is to be one.
pub struct IssueToken {
    /// The card.
    pub collected: Collected,
    /// The payment to write down as sent.
    pub payment: Option<NewPayment>,
}

/// What came of it. A secret.
pub struct Issued {
    /// What is durable now.
    pub taken: Taken,
    /// Whether it was this message that did it.
    pub standing: Standing,
    /// The card.
    pub card: AccountData,
}

/// Whether a request is the first of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It took the card: what follows is its to do.
    First,
    /// Another one with the same name and content was faster.
    Repeated,
}

/// Open the frames, give each card its token, and make that durable; no money moves. Gives as many results, in the same
/// order.
pub struct IssueTokens {
    /// The cards.
    pub collected: Vec<Collected>,
    /// When they may be taken.
    pub turn: Turn,
}

/// Open the frame of a request that was taken before, to send its payment again.
pub struct OpenAgain(pub Collected);

impl Tokenizer {
    /// A tokenizer. A device that makes no MACs is suspended after `fault_limit` bad frames in a row; for as long as
    /// `window` a durable record is proof that the log can be written.
    pub fn new(
        store: Store,
        log: AuditLog,
        auditor: Gate<Auditor>,
        keys: Gate<KeyManager>,
        fault_limit: u32,
        window: Duration,
    ) -> Self {
        Self { desk: Desk { store, log, auditor, keys, fault_limit, window } }
    }
}

impl Agent for Tokenizer {
    const NAME: &'static str = "tokenizer";
}

impl Answer<IssueToken> for Tokenizer {
    type Reply = Issued;
    type Error = Refused;

    fn answer(&mut self, asked: IssueToken) -> impl Future<Output = Result<Issued, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move { desk.issue(asked.collected, asked.payment).await }
    }
}

impl Answer<IssueTokens> for Tokenizer {
    type Reply = Vec<Result<Taken, Refused>>;
    type Error = Refused;

    fn answer(&mut self, asked: IssueTokens) -> impl Future<Output = Result<Self::Reply, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move { desk.issue_each(asked.collected, asked.turn).await }
    }
}

impl Answer<OpenAgain> for Tokenizer {
    type Reply = AccountData;
    type Error = Refused;

    fn answer(&mut self, asked: OpenAgain) -> impl Future<Output = Result<AccountData, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move {
            let merchant = desk.merchant(&asked.0).await?;
            match desk.open(&asked.0, &merchant).await? {
                Ok(OpenedFrame { card, due, .. }) => {
                    desk.log.write(vec![due], Vec::new()).await?;
                    Ok(card)
                }
                Err(failed) => Err(desk.lose(desk.unopened(&asked.0, failed)?).await),
            }
        }
    }
}

/// What the cards of a batch stand before: to be taken, to be written down as lost, or refused with nothing to write.
type Prepared = Result<Result<Ready, Lost>, Refused>;

/// A card whose frame was opened, on its way to a token. A secret.
struct Ready {
    take: Take,
    due: Vec<Due>,
    /// As it was when the fingerprints were made.
    merchant: Arc<MerchantRecord>,
    card: AccountData,
}

/// A card while its number is being sealed.
struct Unsealed {
    take: Take,
    due: Vec<Due>,
    merchant: Arc<MerchantRecord>,
}

/// Why a card got no token.
enum Unissued {
    Refused(Refused),
    /// Under the vault's next keys it can get one.
    VaultMoved,
}

impl From<Refused> for Unissued {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for Unissued {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Unissued> for Refused {
    fn from(unissued: Unissued) -> Self {
        match unissued {
            Unissued::Refused(refused) => refused,
            Unissued::VaultMoved => Rejection::VaultMoved.into(),
        }
    }
}

impl Ready {
    /// What is handed in for it, and what was due until then.
    fn intent(&mut self) -> (Intent, Vec<Due>, Vec<Record>) {
        (Intent::Take(Box::new(self.take.clone())), std::mem::take(&mut self.due), Vec::new())
    }
}

/// What becomes of a card of a batch once its intent is handed in.
enum Next {
    Take(Box<Ready>),
    Lose(Refused),
    Refuse(Refused),
}

/// A card that gets no token, and what is written down of it.
struct Lost {
    intent: Intent,
    due: Vec<Due>,
    further: Vec<Record>,
    refused: Refused,
}

impl Desk {
    /// Asks the auditor only where the log does not speak for itself.
    async fn admit(&self) -> Result<(), Refused> {
        if self.log.is_proven(self.window) { Ok(()) } else { self.auditor.ask_within(Admit).await }
    }

    async fn issue(&self, collected: Collected, payment: Option<NewPayment>) -> Result<Issued, Refused> {
        for _ in 1..MOVES {
            match self.issue_under(&collected, payment.clone()).await {
                Err(Unissued::VaultMoved) => {}
                issued => return Ok(issued?),
            }
        }
        Ok(self.issue_under(&collected, payment).await?)
    }

    /// Under the vault keys of this moment.
    async fn issue_under(&self, collected: &Collected, payment: Option<NewPayment>) -> Result<Issued, Unissued> {
        let merchant = self.merchant(collected).await?;
        let opened = self.open(collected, &merchant).await?;
        let mut ready = match self.prepare(collected, merchant, opened, payment)? {
            Ok(ready) => ready,
            Err(lost) => return Err(self.lose(lost).await.into()),
        };
        if !self.store.knows_card(&ready.take.merchant, &ready.take.fingerprints).await? {
            ready = self.seal(collected, ready).await?;
        }
        let first = self.hand_in(&mut ready);
        self.finish(collected, ready, first.await).await
    }

    async fn merchant(&self, collected: &Collected) -> Result<Arc<MerchantRecord>, Refused> {
        let merchant = self.store.merchant(&collected.caller.merchant).await?;
        merchant.ok_or_else(|| Refused::because(Refusal::Internal, "the merchant has no vault key"))
    }

    /// Each stage is over for all before the next begins, and what is to become durable is handed in in order: the
    /// cards of one device are taken in the order of its counters.
    async fn issue_each(&self, all: Vec<Collected>, turn: Turn) -> Result<Vec<Result<Taken, Refused>>, Refused> {
        self.admit().await?;
        let merchants = try_join_all(all.iter().map(|collected| self.merchant(collected))).await?;
        let opening =
            all.iter().zip(&merchants).map(|(collected, merchant)| self.opening(collected, merchant)).collect();
        let opened = self.keys.ask_within(OpenFrames(opening)).await.map_err(|failed| failed.refused)?;
        let prepared = all.iter().zip(merchants).zip(opened);
        let prepared = prepared.map(|((collected, merchant), opened)| self.prepare(collected, merchant, opened, None));
        let mut cards: Vec<Prepared> = prepared.collect();
        self.seal_unknown(&all, &mut cards).await;
        hold_back(&all, &mut cards);
        if !turn.comes().await {
            // What was opened is written down by the collector, and opened again when it comes again.
            return Err(Refused::because(Refusal::Busy, "a card before it in the upload has to be sent again"));
        }

        let (mut next, mut intents) = (Vec::with_capacity(all.len()), Vec::new());
        for card in cards {
            next.push(match card {
                Ok(Ok(mut ready)) => {
                    intents.push(ready.intent());
                    Next::Take(Box::new(ready))
                }
                Ok(Err(Lost { intent, due, further, refused })) => {
                    intents.push((intent, due, further));
                    Next::Lose(refused)
                }
                Err(refused) => Next::Refuse(refused),
            });
        }
        let mut written = self.log.submit_each(intents).into_iter();
        let finished = all.iter().zip(next).map(|(collected, next)| {
            let written = if let Next::Refuse(_) = next { None } else { written.next() };
            async move {
                match (next, written) {
                    (Next::Take(ready), Some(written)) => {
                        Ok(self.finish(collected, *ready, written.await).await?.taken)
                    }
                    (Next::Lose(refused), Some(written)) => Err(lost(refused, written.await)),
                    (Next::Refuse(refused), _) => Err(refused),
                    (Next::Take(_) | Next::Lose(_), None) => Err(nowhere()),
                }
            }
        });
        let finished: Vec<_> = finished.collect();
        Ok(join_all(finished).await)
    }

    /// Seals, in one visit to each deriver, the numbers of those cards that have no token yet.
    async fn seal_unknown(&self, all: &[Collected], cards: &mut [Prepared]) {
        let known = join_all(cards.iter().map(|card| async move {
            let Ok(Ok(Ready { take, .. })) = card else { return Ok(true) };
            self.store.knows_card(&take.merchant, &take.fingerprints).await
        }));
        let known = known.await;
        let (mut places, mut sealing, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (place, ((collected, card), known)) in all.iter().zip(cards.iter_mut()).zip(known).enumerate() {
            match known {
                Ok(true) => {}
                Err(error) => *card = Err(error.into()),
                Ok(false) => {
                    // Its place is kept by a refusal that only a defect would let out.
                    let Ok(Ok(ready)) = std::mem::replace(card, Err(nowhere())) else { continue };
                    let (asked, unsealed) = self.sealing(collected, ready);
                    places.push(place);
                    sealing.push(asked);
                    rest.push(unsealed);
                }
            }
        }
        if sealing.is_empty() {
            return;
        }
        let sealed = match self.keys.ask_within(SealCards(sealing)).await {
            Ok(sealed) => sealed,
            Err(failed) => {
                places.iter().for_each(|place| cards[*place] = Err(failed.refused.clone()));
                return;
            }
        };
        let sealed = places
            .into_iter()
            .zip(rest)
            .zip(sealed)
            .map(|((place, unsealed), sealed)| async move { (place, self.sealed(unsealed, sealed).await.map(Ok)) });
        for (place, card) in join_all(sealed).await {
            cards[place] = card;
        }
    }

    /// Opens the frame in the HSM, if the log can take the record of it.
    async fn open(
        &self,
        collected: &Collected,
        merchant: &MerchantRecord,
    ) -> Result<Result<OpenedFrame, KeyError>, Refused> {
        self.admit().await?;
        Ok(self.keys.ask_within(self.opening(collected, merchant)).await)
    }

    fn opening(&self, collected: &Collected, merchant: &MerchantRecord) -> OpenFrame {
        OpenFrame {
            bdk: collected.device.bdk.clone(),
            frame: collected.frame.clone(),
            merchant: collected.caller.merchant.clone(),
            vault: merchant.vault.stage(),
            record: about(&self.log, Kind::FrameOpened, collected),
        }
    }

    /// What is to become of a frame; an error where nothing was done and nothing is to be written down.
    fn prepare(
        &self,
        collected: &Collected,
        merchant: Arc<MerchantRecord>,
        opened: Result<OpenedFrame, KeyError>,
        payment: Option<NewPayment>,
    ) -> Result<Result<Ready, Lost>, Refused> {
        let OpenedFrame { card, fingerprints, mode, due } = match opened {
            Ok(opened) => opened,
            Err(failed) => return self.unopened(collected, failed).map(Err),
        };
        let due = vec![due];
        if let Err(cause) = check(&card, collected.device.card_check) {
            // Without a MAC only a card that can be one proves a frame genuine.
            let intent = match collected.frame.mac() {
                Some(_) => spend(collected),
                None => self.fault(collected),
            };
            let further = vec![about(&self.log, Kind::RequestRefused, collected).because(cause)];
            return Ok(Err(Lost { intent, due, further, refused: Refused::recorded(Refusal::CardInvalid, cause) }));
        }
        let origin = Origin {
            device: collected.device.id.clone(),
            entry: collected.frame.entry(),
            scheme: collected.frame.ksn().scheme(),
            mode,
        };
        let take = Take {
            merchant: collected.caller.merchant.clone(),
            request: collected.request.clone(),
            digest: collected.digest,
            device: collected.device.id.clone(),
            counter: collected.counter,
            fingerprints,
            candidate: None,
            origin,
            payment,
        };
        Ok(Ok(Ready { take, due, merchant, card }))
    }

    /// Why a frame was not opened, counted against a device that makes no MACs.
    fn unopened(&self, collected: &Collected, failed: KeyError) -> Result<Lost, Refused> {
        let KeyError { refused, due, blame } = failed;
        let Some(due) = due else { return Err(refused) };
        let (intent, recorded) = match blame {
            Blame::Frame => (self.fault(collected), Recorded::Yes),
            Blame::Card => (spend(collected), Recorded::Yes),
            // What failed has its record now; that a request was refused for it is another.
            Blame::Other => (Intent::Note, Recorded::No),
        };
        Ok(Lost { intent, due: vec![due], further: Vec::new(), refused: Refused { recorded, ..refused } })
    }

    /// Writes down why a card got no token.
    fn lose(&self, lost_card: Lost) -> impl Future<Output = Refused> + Send + use<> {
        let Lost { intent, due, further, refused } = lost_card;
        let written = self.log.submit(intent, due, further);
        async move { lost(refused, written.await) }
    }

    /// Hands a card in to be taken.
    fn hand_in(&self, ready: &mut Ready) -> impl Future<Output = Written> + Send + use<> {
        let (intent, due, further) = ready.intent();
        self.log.submit(intent, due, further)
    }

    /// From what the writer says to a first try, until there is a token or no other try is worth it.
    async fn finish(&self, collected: &Collected, mut ready: Ready, first: Written) -> Result<Issued, Unissued> {
        let mut written = first;
        let mut drawn = 1;
        loop {
            match written.map_err(Refused::from)? {
                Ok(Outcome::Taken(taken)) => return Ok(Issued { taken, standing: Standing::First, card: ready.card }),
                Ok(Outcome::Repeated(taken)) => {
                    return Ok(Issued { taken, standing: Standing::Repeated, card: ready.card });
                }
                Err(Rejection::TokenCollision | Rejection::TokenWanted) if drawn < DRAWS => {
                    drawn += 1;
                    ready = self.seal(collected, ready).await?;
                    written = self.hand_in(&mut ready).await;
                }
                Err(Rejection::VaultMoved) => return Err(Unissued::VaultMoved),
                Err(rejection) => return Err(Refused::from(rejection).into()),
                Ok(outcome @ (Outcome::Noted | Outcome::Moved(_) | Outcome::Spent | Outcome::Faulted { .. })) => {
                    return Err(Refused::because(Refusal::Internal, format!("a card was taken as {outcome:?}")).into());
                }
            }
        }
    }

    /// Counts a frame that was not genuine against its device. Anybody can send such frames in the name of a device
    /// that makes MACs, so only one that makes none is ever suspended for it.
    fn fault(&self, collected: &Collected) -> Intent {
        let limit = collected.frame.mac().is_none().then_some(self.fault_limit);
        Intent::Fault { device: collected.device.id.clone(), limit }
    }

    /// Draws a token and seals the card number for it.
    async fn seal(&self, collected: &Collected, ready: Ready) -> Result<Ready, Refused> {
        let (sealing, unsealed) = self.sealing(collected, ready);
        let sealed = self.keys.ask_within(sealing).await;
        self.sealed(unsealed, sealed).await
    }

    /// Under the keys the card is known by: if the vault has moved on meanwhile, the writer refuses both.
    fn sealing(&self, collected: &Collected, ready: Ready) -> (SealCard, Unsealed) {
        let Ready { take, due, merchant, card } = ready;
        let sealing = SealCard {
            ksn: collected.frame.ksn(),
            merchant: take.merchant.clone(),
            vault_key: merchant.vault.key.clone(),
            last_four: merchant.last_four,
            card,
            record: about(&self.log, Kind::CardSealed, collected),
        };
        (sealing, Unsealed { take, due, merchant })
    }

    async fn sealed(&self, unsealed: Unsealed, sealed: Result<SealedCard, KeyError>) -> Result<Ready, Refused> {
        let Unsealed { mut take, mut due, merchant } = unsealed;
        match sealed {
            Ok(SealedCard { card, candidate, due: sealed }) => {
                take.candidate = Some(candidate);
                due.push(sealed);
                Ok(Ready { take, due, merchant, card })
            }
            Err(KeyError { refused, due: failed, .. }) => {
                due.extend(failed);
                self.log.write(due, Vec::new()).await?;
                Err(refused)
            }
        }
    }
}

/// What the caller of a lost card is told.
fn lost(refused: Refused, written: Written) -> Refused {
    match written {
        Ok(Ok(_)) => refused,
        // Somebody else used the counter meanwhile.
        Ok(Err(rejection)) => rejection.into(),
        Err(error) => error.into(),
    }
}

/// Where a card is to be asked for again, no later one of its device may be taken before it: its counter would be too old
/// then.
fn hold_back(all: &[Collected], cards: &mut [Prepared]) {
    let mut held: HashMap<&DeviceId, Refused> = HashMap::new();
    for (collected, card) in all.iter().zip(cards) {
        let device = &collected.device.id;
        if let Some(refused) = held.get(device) {
            *card = Err(refused.clone());
            continue;
        }
        if let Err(refused) | Ok(Err(Lost { refused, .. })) = card
            && refused.refusal.retry() == Retry::SameRequest
        {
            held.insert(device, Refused { recorded: Recorded::No, ..refused.clone() });
        }
    }
}

/// What stands in the place of a card that is somewhere else for the moment.
fn nowhere() -> Refused {
    Refused::because(Refusal::Internal, "a card was lost on the way to its seal")
}

/// A genuine frame has used its counter, whatever it held.
fn spend(collected: &Collected) -> Intent {
    Intent::Spend { device: collected.device.id.clone(), counter: collected.counter }
}

/// Whether a card can be one at all. Its age is the issuer's business.
fn check(card: &AccountData, rule: CardCheck) -> Result<(), &'static str> {
    match rule {
        CardCheck::Luhn if !card.pan().passes_luhn() => Err("the card number's check digit is wrong"),
        CardCheck::Luhn | CardCheck::Any => Ok(()),
    }
}

/// A record about a collected card.
pub(crate) fn about(log: &AuditLog, kind: Kind, collected: &Collected) -> Record {
    let mut record = log.record(kind);
    record.merchant = Some(collected.caller.merchant.to_string());
    record.module = Some(collected.caller.module.to_string());
    record.request = Some(collected.request.to_string());
    record.device = Some(collected.device.id.to_string());
    record.ksn = Some(collected.frame.ksn().to_string());
    record
}
