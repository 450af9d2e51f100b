//! The tokenizer: from a sealed frame to a card with its token, durable.
//!
//! The card number passes through here in its own type and is never copied; the vault keeps it sealed.

use std::future::Future;

use warifu_core::account_data::AccountData;
use warifu_core::frame::SealedFrame;
use warifu_core::ksn::Counter;
use warifu_core::merchant::RequestId;
use warifu_core::refusal::Refusal;
use warifu_hsm::Fingerprint;

use crate::auditor::{Admit, AuditLog, Auditor, Due};
use crate::gate::{Agent, Answer, Gate};
use crate::house::Caller;
use crate::key_manager::{Blame, KeyError, KeyManager, OpenFrame, OpenedFrame, SealCard, SealedCard};
use crate::record::{Kind, Record};
use crate::refused::{Recorded, Refused};
use crate::store::job::{Candidate, Intent, NewPayment, Origin, Take, Taken};
use crate::store::{CardCheck, DeviceRecord, Outcome, Rejection, Store};

/// Tokens drawn for one card before the merchant's are taken to be used up.
const DRAWS: usize = 8;

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
    /// Its device.
    pub device: DeviceRecord,
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

/// Open the frame of a request that was taken before, to send its payment again.
pub struct OpenAgain(pub Collected);

impl Tokenizer {
    /// A tokenizer. A device that makes no MACs is suspended after `fault_limit` bad frames in a row.
    pub fn new(store: Store, log: AuditLog, auditor: Gate<Auditor>, keys: Gate<KeyManager>, fault_limit: u32) -> Self {
        Self { desk: Desk { store, log, auditor, keys, fault_limit } }
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

impl Answer<OpenAgain> for Tokenizer {
    type Reply = AccountData;
    type Error = Refused;

    fn answer(&mut self, asked: OpenAgain) -> impl Future<Output = Result<AccountData, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move {
            let OpenedFrame { card, due, .. } = desk.open(&asked.0).await?;
            desk.log.write(vec![due], Vec::new()).await?;
            Ok(card)
        }
    }
}

impl Desk {
    async fn issue(&self, collected: Collected, payment: Option<NewPayment>) -> Result<Issued, Refused> {
        let OpenedFrame { card, fingerprint, mode, due } = self.open(&collected).await?;
        let mut due = vec![due];
        if let Err(cause) = check(&card, collected.device.card_check) {
            let refused = about(&self.log, Kind::RequestRefused, &collected).because(cause);
            // Without a MAC only a card that can be one proves a frame genuine.
            let intent = match collected.frame.mac() {
                Some(_) => spend(&collected),
                None => self.fault(&collected),
            };
            self.log.submit(intent, due, vec![refused]).await??;
            return Err(Refused::recorded(Refusal::CardInvalid, cause));
        }
        let origin = Origin {
            device: collected.device.id.clone(),
            entry: collected.frame.entry(),
            scheme: collected.frame.ksn().scheme(),
            mode,
        };
        let mut take = Take {
            merchant: collected.caller.merchant.clone(),
            request: collected.request.clone(),
            digest: collected.digest,
            device: collected.device.id.clone(),
            counter: collected.counter,
            fingerprint,
            candidate: None,
            origin,
            payment,
        };
        let mut card = card;
        if !self.is_known(&collected, &fingerprint).await? {
            card = self.seal(&collected, card, &mut take, &mut due).await?;
        }
        for _ in 0..DRAWS {
            let intent = Intent::Take(Box::new(take.clone()));
            match self.log.submit(intent, std::mem::take(&mut due), Vec::new()).await? {
                Ok(Outcome::Taken(taken)) => return Ok(Issued { taken, standing: Standing::First, card }),
                Ok(Outcome::Repeated(taken)) => return Ok(Issued { taken, standing: Standing::Repeated, card }),
                Err(Rejection::TokenCollision | Rejection::TokenWanted) => {
                    card = self.seal(&collected, card, &mut take, &mut due).await?;
                }
                Err(rejection) => return Err(rejection.into()),
                Ok(outcome @ (Outcome::Noted | Outcome::Moved | Outcome::Spent | Outcome::Faulted { .. })) => {
                    return Err(Refused::because(Refusal::Internal, format!("a card was taken as {outcome:?}")));
                }
            }
        }
        self.log.write(due, Vec::new()).await?;
        Err(Refused::because(Refusal::TokensExhausted, "every token drawn belongs to another card"))
    }

    /// Opens the frame in the HSM, if the log can take the record of it.
    async fn open(&self, collected: &Collected) -> Result<OpenedFrame, Refused> {
        self.auditor.ask(Admit).await?;
        let opening = OpenFrame {
            bdk: collected.device.bdk.clone(),
            frame: collected.frame.clone(),
            merchant: collected.caller.merchant.clone(),
            record: about(&self.log, Kind::FrameOpened, collected),
        };
        match self.keys.ask(opening).await {
            Ok(opened) => Ok(opened),
            Err(failed) => Err(self.not_opened(collected, failed).await?),
        }
    }

    /// Writes down why a frame was not opened, and counts it against a device that makes no MACs.
    async fn not_opened(&self, collected: &Collected, failed: KeyError) -> Result<Refused, Refused> {
        let KeyError { refused, due, blame } = failed;
        let Some(due) = due else { return Ok(refused) };
        let (intent, recorded) = match blame {
            Blame::Frame => (self.fault(collected), Recorded::Yes),
            Blame::Card => (spend(collected), Recorded::Yes),
            // What failed has its record now; that a request was refused for it is another.
            Blame::Other => (Intent::Note, Recorded::No),
        };
        match self.log.submit(intent, vec![due], Vec::new()).await? {
            Ok(_) => Ok(Refused { recorded, ..refused }),
            // Somebody else used the counter meanwhile.
            Err(rejection) => Ok(rejection.into()),
        }
    }

    /// Counts a frame that was not genuine against its device. Anybody can send such frames in the name of a device
    /// that makes MACs, so only one that makes none is ever suspended for it.
    fn fault(&self, collected: &Collected) -> Intent {
        let limit = collected.frame.mac().is_none().then_some(self.fault_limit);
        Intent::Fault { device: collected.device.id.clone(), limit }
    }

    async fn is_known(&self, collected: &Collected, fingerprint: &Fingerprint) -> Result<bool, Refused> {
        let merchant = &collected.caller.merchant;
        Ok(self.store.token_by_fingerprint(merchant, fingerprint).await?.is_some())
    }

    /// Draws a token and seals the card number for it.
    async fn seal(
        &self,
        collected: &Collected,
        card: AccountData,
        take: &mut Take,
        due: &mut Vec<Due>,
    ) -> Result<AccountData, Refused> {
        let merchant = self.store.merchant(&collected.caller.merchant).await?;
        let merchant = merchant.ok_or_else(|| Refused::because(Refusal::Internal, "the merchant has no vault key"))?;
        let sealing = SealCard {
            ksn: collected.frame.ksn(),
            merchant: collected.caller.merchant.clone(),
            vault_key: merchant.vault_key,
            last_four: merchant.last_four,
            card,
            record: about(&self.log, Kind::CardSealed, collected),
        };
        match self.keys.ask(sealing).await {
            Ok(SealedCard { card, candidate, due: sealed }) => {
                take.candidate = Some::<Candidate>(candidate);
                due.push(sealed);
                Ok(card)
            }
            Err(KeyError { refused, due: failed, .. }) => {
                due.extend(failed);
                self.log.write(std::mem::take(due), Vec::new()).await?;
                Err(refused)
            }
        }
    }
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
