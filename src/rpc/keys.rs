//! What operators and custodians may ask: to see the keys, and to change one together.

use tonic::{Request, Response, Status};
use warifu_actors::House;
use warifu_actors::house::KeyChange;
use warifu_actors::store::{BdkRecord, CustodianRecord, KeyReason};
use warifu_core::custody::State;
use warifu_core::merchant::{BdkId, CustodianId, MerchantId};
use warifu_core::refusal::Refusal;
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::key_service_server::KeyService;

use super::convert::scheme_name;
use super::status::status;
use crate::identity::Peer;

/// The edge of the house for people who keep keys.
pub(super) struct KeyEdge(pub(super) House);

impl KeyEdge {
    async fn keeper<T>(&self, request: &Request<T>) -> Result<CustodianRecord, Refusal> {
        let peer = request.extensions().get::<Peer>().ok_or(Refusal::Internal)?;
        self.0.keeper(peer.certificate.0).await
    }

    async fn list(&self, request: Request<v1::ListKeysRequest>) -> Result<v1::ListKeysResponse, Refusal> {
        self.keeper(&request).await?;
        let keys = self.0.keys().await?;
        Ok(v1::ListKeysResponse { keys: keys.iter().map(key).collect() })
    }

    async fn change(&self, request: Request<v1::ChangeKeyRequest>) -> Result<v1::ChangeKeyResponse, Refusal> {
        let by = self.keeper(&request).await?;
        let asked = request.into_inner();
        let to = state(asked.to()).ok_or(Refusal::KeyMoveIllegal)?;
        let because = if asked.compromised { KeyReason::Compromised } else { KeyReason::Planned };
        if asked.compromised && to != State::Deactivated {
            return Err(Refusal::KeyMoveIllegal);
        }
        let id = BdkId::parse(&asked.key).map_err(|_| Refusal::KeyUnknown)?;
        let changed = self.0.change_key(&by, KeyChange { key: id, to, because }).await?;
        Ok(v1::ChangeKeyResponse {
            key: Some(key(&changed.key)),
            changed: changed.changed,
            custodians: changed.custodians.iter().map(CustodianId::to_string).collect(),
        })
    }
}

#[tonic::async_trait]
impl KeyService for KeyEdge {
    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.list(request).await.map(Response::new).map_err(|refusal| status(refusal, None))
    }

    async fn change_key(
        &self,
        request: Request<v1::ChangeKeyRequest>,
    ) -> Result<Response<v1::ChangeKeyResponse>, Status> {
        self.change(request).await.map(Response::new).map_err(|refusal| status(refusal, None))
    }
}

fn key(key: &BdkRecord) -> v1::Key {
    v1::Key {
        id: key.id.to_string(),
        purpose: key.purpose.name().to_owned(),
        state: match key.state {
            State::PreActive => v1::KeyState::PreActive,
            State::Active => v1::KeyState::Active,
            State::Suspended => v1::KeyState::Suspended,
            State::Deactivated => v1::KeyState::Deactivated,
            State::Destroyed => v1::KeyState::Destroyed,
        }
        .into(),
        scheme: scheme_name(key.scheme).to_owned(),
        bits: key.len.bits().into(),
        environment: key.environment.name().to_owned(),
        merchant: key.merchant.as_ref().map(MerchantId::to_string).unwrap_or_default(),
        kcv: key.kcv.clone().unwrap_or_default(),
        created_at_ms: key.created_at_ms,
        activated_at_ms: key.activated_at_ms.unwrap_or_default(),
        expires_at_ms: key.expires_at_ms.unwrap_or_default(),
    }
}

const fn state(wanted: v1::KeyState) -> Option<State> {
    match wanted {
        v1::KeyState::Active => Some(State::Active),
        v1::KeyState::Suspended => Some(State::Suspended),
        v1::KeyState::Deactivated => Some(State::Deactivated),
        v1::KeyState::Unspecified | v1::KeyState::PreActive | v1::KeyState::Destroyed => None,
    }
}
