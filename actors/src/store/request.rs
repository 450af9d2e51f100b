//! Requests: each of a caller's wishes, named by the caller, and what it came to.

use sea_orm::entity::prelude::*;
use sea_orm::{FromQueryResult, QueryResult};
use warifu_core::merchant::{MerchantId, RequestId};

use super::bulk::{Kind, Rows, Select, Write};
use super::decide::{NewRequest, RequestKey, RequestView, stored_card};
use super::error::{Failure, StoreError};
use super::job::{PaymentId, Taken};
use super::{Store, payment, token, words};

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "request")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub merchant_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub request_id: String,
        pub digest: Vec<u8>,
        pub token: String,
        pub masked_pan: String,
        pub brand: String,
        pub device: String,
        pub entry: String,
        pub scheme: String,
        pub mode: String,
        pub payment_id: Option<Uuid>,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// What a request came to, with the digest it was taken under; `None` if it was never taken.
    pub async fn request(
        &self,
        merchant: &MerchantId,
        request: &RequestId,
    ) -> Result<Option<([u8; 32], Taken)>, StoreError> {
        let key = (merchant.to_string(), request.to_string());
        let Some(row) = self.one(row::Entity::find_by_id(key)).await? else { return Ok(None) };
        let (_, view) = read_row(row)?;
        let payment = match view.payment {
            None => None,
            // The row of a payment is written in the transaction of its request.
            Some(id) => Some(self.payment(id).await?.ok_or(StoreError::Corrupt("request.payment_id"))?),
        };
        Ok(Some((view.digest, Taken { card: view.card, payment })))
    }
}

/// Reads those requests of a batch that were taken before.
pub(super) fn select<'a>(keys: impl Iterator<Item = &'a (&'a MerchantId, &'a RequestId)>) -> Select {
    let mut rows = Rows::new(&[("merchant_id", Kind::Text), ("request_id", Kind::Text)]);
    keys.for_each(|(merchant, request)| rows.push([merchant.as_str().into(), request.as_str().into()]));
    let tail = "CROSS JOIN request AS r WHERE r.merchant_id = v.merchant_id AND r.request_id = v.request_id";
    Select::new("SELECT r.* FROM", rows, tail)
}

/// What [`select`] found.
pub(super) fn views(rows: &[QueryResult]) -> impl Iterator<Item = Result<(RequestKey, RequestView), Failure>> {
    rows.iter().map(|row| read_row(row::Model::from_query_result(row, "")?))
}

pub(super) fn insert<'a>(requests: impl Iterator<Item = (&'a RequestKey, &'a NewRequest)>) -> Write {
    let mut rows = Rows::new(&[
        ("merchant_id", Kind::Text),
        ("request_id", Kind::Text),
        ("digest", Kind::Bytes),
        ("token", Kind::Text),
        ("masked_pan", Kind::Text),
        ("brand", Kind::Text),
        ("device", Kind::Text),
        ("entry", Kind::Text),
        ("scheme", Kind::Text),
        ("mode", Kind::Text),
        ("payment_id", Kind::UuidOrNull),
        ("created_at_ms", Kind::Int),
    ]);
    for ((merchant, request), NewRequest { view, at_ms }) in requests {
        let card = &view.card;
        rows.push([
            merchant.as_str().into(),
            request.as_str().into(),
            view.digest.to_vec().into(),
            card.token.as_str().into(),
            card.masked.as_str().into(),
            card.brand.name().into(),
            card.origin.device.as_str().into(),
            card.origin.entry.name().into(),
            words::scheme_name(card.origin.scheme).into(),
            card.origin.mode.name().into(),
            view.payment.map_or(Uuid::nil(), |id| id.0).into(),
            (*at_ms).into(),
        ]);
    }
    Write::new(
        "INSERT INTO request (merchant_id, request_id, digest, token, masked_pan, brand, device, entry, scheme, \
         mode, payment_id, created_at_ms) SELECT merchant_id, request_id, digest, token, masked_pan, brand, device, \
         entry, scheme, mode, payment_id, created_at_ms FROM",
        rows,
        "",
    )
}

fn read_row(row: row::Model) -> Result<(RequestKey, RequestView), Failure> {
    let merchant = MerchantId::parse(&row.merchant_id).map_err(|_| Failure::Corrupt("request.merchant_id"))?;
    let request = RequestId::parse(&row.request_id).map_err(|_| Failure::Corrupt("request.request_id"))?;
    let origin = payment::origin(&row.device, &row.entry, &row.scheme, &row.mode)?;
    let view = RequestView {
        digest: row.digest.try_into().map_err(|_| Failure::Corrupt("request.digest"))?,
        card: stored_card(token::card(&row.token, &row.masked_pan, &row.brand)?, &origin),
        payment: row.payment_id.map(PaymentId),
    };
    Ok(((merchant, request), view))
}
