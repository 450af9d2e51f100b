//! What people who keep keys may ask of the house: to see them, and, two of them together, to change one.

use std::sync::Arc;

use warifu_core::custody::State;
use warifu_core::merchant::{BdkId, CustodianId};
use warifu_core::refusal::Refusal;

use super::{House, count_refusal};
use crate::record::Kind;
use crate::refused::with_source;
use crate::store::custodian::Role;
use crate::store::{BdkRecord, CustodianRecord, KeyProposal, KeyReason, LogId, ModuleState, StoreError};

/// How long a proposal waits for a second custodian.
const WAITS_MS: i64 = 10 * 60 * 1000;
/// What the name of the log ends with in which these changes are told.
const LOG_SUFFIX: &str = "-keys";

/// A change that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Of which key.
    pub key: BdkId,
    /// To which state.
    pub to: State,
    /// Why.
    pub because: KeyReason,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChanged {
    /// The key as it is now.
    pub key: Arc<BdkRecord>,
    /// Whether it was changed; else another custodian is waited for.
    pub changed: bool,
    /// Who took part.
    pub custodians: Vec<CustodianId>,
}

impl House {
    /// The registered person with this certificate.
    ///
    /// # Errors
    /// `NotPermitted` for nobody, or somebody who was blocked, which is written down.
    pub async fn keeper(&self, certificate_sha256: [u8; 32]) -> Result<CustodianRecord, Refusal> {
        let person = self.0.store.custodian_by_certificate(&certificate_sha256).await.map_err(refused)?;
        match person {
            Some(person) if person.state == ModuleState::Active => Ok(person),
            _ => {
                let cause = "no operator or custodian may act with this certificate";
                self.note_refused_caller(cause, Some(certificate_sha256)).await;
                Err(told(Refusal::NotPermitted))
            }
        }
    }

    /// Every key.
    ///
    /// # Errors
    /// Only those of a server without its store.
    pub async fn keys(&self) -> Result<Vec<BdkRecord>, Refusal> {
        self.0.store.bdks().await.map_err(refused)
    }

    /// A custodian wants a change. It is made if another one has wanted it in the last ten minutes.
    ///
    /// # Errors
    /// `NotPermitted` for an operator, `KeyUnknown`, `KeyMoveIllegal`, and those of a server that is stopping or without
    /// its store.
    pub async fn change_key(&self, by: &CustodianRecord, wanted: KeyChange) -> Result<KeyChanged, Refusal> {
        let key = wanted.key.clone();
        let changed = self.try_to_change(by, wanted).await;
        if let Err(refusal) = changed {
            let mut record = self.0.log.record(Kind::RequestRefused);
            record.key = Some(key.to_string());
            self.0.log.mention(record.because(format_args!("{}, asked by {}", refusal.message(), by.id)));
        }
        changed
    }

    async fn try_to_change(&self, by: &CustodianRecord, wanted: KeyChange) -> Result<KeyChanged, Refusal> {
        if *self.0.draining.borrow() {
            return Err(told(Refusal::Draining));
        }
        if by.role != Role::Custodian {
            return Err(told(Refusal::NotPermitted));
        }
        let KeyChange { key, to, because } = wanted;
        let known = self.key(&key).await?;
        // The first time is for a command that has the HSM prove that it holds the key.
        let first_time = known.state == State::PreActive;
        if first_time || matches!(to, State::PreActive | State::Destroyed) || known.state.become_state(to).is_err() {
            return Err(told(Refusal::KeyMoveIllegal));
        }
        let log = LogId::parse(&format!("{}{LOG_SUFFIX}", self.0.settings.instance));
        let registry = self.0.store.registry(log.map_err(|_| told(Refusal::Internal))?);
        let now_ms = i64::try_from(self.0.log.clock().now_ms()).unwrap_or(i64::MAX);
        let wanted = KeyProposal { key: key.clone(), to, because, by: by.id.clone(), at_ms: now_ms };
        let before = self.0.store.key_proposal(&key).await.map_err(refused)?;
        let roster = self.0.store.custodians().await.map_err(refused)?;
        let still = |id: &CustodianId| {
            let active =
                |person: &CustodianRecord| person.role == Role::Custodian && person.state == ModuleState::Active;
            roster.iter().any(|person| person.id == *id && active(person))
        };
        let seconded = before.filter(|before| {
            let fresh = now_ms.saturating_sub(before.at_ms) < WAITS_MS;
            fresh
                && before.by != wanted.by
                && still(&before.by)
                && (before.to, before.because) == (wanted.to, wanted.because)
        });
        let custodians = match &seconded {
            Some(first) => {
                registry.second_key_change(first, &wanted.by, now_ms).await.map_err(refused)?;
                vec![first.by.clone(), wanted.by]
            }
            None => {
                registry.propose_key_change(&wanted).await.map_err(refused)?;
                vec![wanted.by]
            }
        };
        Ok(KeyChanged { key: self.key(&key).await?, changed: seconded.is_some(), custodians })
    }

    async fn key(&self, id: &BdkId) -> Result<Arc<BdkRecord>, Refusal> {
        self.0.store.bdk(id).await.map_err(refused)?.ok_or_else(|| told(Refusal::KeyUnknown))
    }
}

fn told(refusal: Refusal) -> Refusal {
    count_refusal(refusal);
    refusal
}

fn refused(error: StoreError) -> Refusal {
    let refusal = match &error {
        // Somebody else has seconded it at the same time, or proposed something else: the key is not as it was seen.
        StoreError::NotFound("proposal") | StoreError::IllegalKeyMove(_) => Refusal::KeyMoveIllegal,
        StoreError::NotFound(_) => Refusal::KeyUnknown,
        _ => {
            tracing::warn!(error = with_source(&error), "the registry of keys could not be used");
            Refusal::StoreUnavailable
        }
    };
    told(refusal)
}
