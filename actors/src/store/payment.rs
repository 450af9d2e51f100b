//! Payments: what was asked of the acquirer, and where it stands.

use sea_orm::entity::prelude::*;
use sea_orm::{DbBackend, FromQueryResult, QueryOrder, QueryResult, QuerySelect};
use warifu_core::merchant::{DeviceId, MerchantId, OrderNumber};
use warifu_core::money::{Currency, Money};
use warifu_core::payment::{ApprovalCode, Channel, ResponseCode, State};
use warifu_hsm::DecryptionMode;

use super::audit::LogId;
use super::bulk::{Kind, Rows, Select, Write};
use super::decide::{MovedPayment, stored_card};
use super::error::{Failure, StoreError};
use super::job::{Origin, PaymentId, StoredPayment};
use super::{Store, token, words};

/// Most payments of one order that are told at once: an order paid more often is a fault of its maker.
pub const MOST_OF_AN_ORDER: u64 = 100;

/// The words stand in the statement, not beside it, so that the partial index over them serves it.
const OPEN: &str = "state IN ('sent', 'unknown')";

pub(super) mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "payment")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub merchant_id: String,
        pub order_number: String,
        pub amount_minor: i64,
        pub currency: String,
        pub channel: String,
        pub token: String,
        pub masked_pan: String,
        pub brand: String,
        pub device: String,
        pub entry: String,
        pub scheme: String,
        pub mode: String,
        pub state: String,
        pub approval_code: Option<String>,
        pub response_code: Option<String>,
        pub instance: String,
        pub created_at_ms: i64,
        pub updated_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// One payment.
    pub async fn payment(&self, id: PaymentId) -> Result<Option<StoredPayment>, StoreError> {
        let row = self.one(row::Entity::find_by_id(id.0)).await?;
        Ok(row.map(StoredPayment::of).transpose()?)
    }

    /// The newest [`MOST_OF_AN_ORDER`] payments of an order, oldest first.
    pub async fn payments_by_order(
        &self,
        merchant: &MerchantId,
        order: &OrderNumber,
    ) -> Result<Vec<StoredPayment>, StoreError> {
        let select = row::Entity::find()
            .filter(row::Column::MerchantId.eq(merchant.as_str()))
            .filter(row::Column::OrderNumber.eq(order.as_str()))
            .order_by_desc(row::Column::Id)
            .limit(MOST_OF_AN_ORDER);
        let mut rows = self.all(select).await?;
        rows.reverse();
        stored(rows)
    }

    /// A page of a merchant's payments, oldest first: at most `limit` of those after `after`.
    pub async fn payments(
        &self,
        merchant: &MerchantId,
        after: Option<PaymentId>,
        limit: u64,
    ) -> Result<Vec<StoredPayment>, StoreError> {
        let mut page = row::Entity::find().filter(row::Column::MerchantId.eq(merchant.as_str()));
        if let Some(after) = after {
            page = page.filter(row::Column::Id.gt(after.0));
        }
        stored(self.all(page.order_by_asc(row::Column::Id).limit(limit)).await?)
    }

    /// What a server has open: its payments that are sent or unknown, oldest first.
    pub async fn open_payments(&self, instance: &LogId) -> Result<Vec<StoredPayment>, StoreError> {
        let select = row::Entity::find()
            .filter(row::Column::Instance.eq(instance.as_str()))
            .filter(Expr::cust(OPEN))
            .order_by_asc(row::Column::Id);
        let rows = self.all(select).await?;
        stored(rows)
    }

    /// The payments of a server that are unknown: at most `limit`, longest untouched first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn unknown_payments(&self, instance: &LogId, limit: u64) -> Result<Vec<StoredPayment>, StoreError> {
        let select = row::Entity::find()
            .filter(row::Column::Instance.eq(instance.as_str()))
            .filter(Expr::cust(OPEN))
            .filter(row::Column::State.eq(State::Unknown.name()))
            .order_by_asc(row::Column::UpdatedAtMs)
            .order_by_asc(row::Column::Id)
            .limit(limit);
        stored(self.all(select).await?)
    }

    /// What any server left open and nobody touched since `at_ms`, in milliseconds since 1970 UTC: at most `limit`
    /// payments that are sent or unknown, longest untouched first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_payments_before(&self, at_ms: i64, limit: u64) -> Result<Vec<StoredPayment>, StoreError> {
        // By time, not by id: along the ids a database would walk through every payment ever settled.
        let select = row::Entity::find()
            .filter(Expr::cust(OPEN))
            .filter(row::Column::UpdatedAtMs.lt(at_ms))
            .order_by_asc(row::Column::UpdatedAtMs)
            .order_by_asc(row::Column::Id)
            .limit(limit);
        let rows = self.all(select).await?;
        stored(rows)
    }
}

fn stored(rows: Vec<row::Model>) -> Result<Vec<StoredPayment>, StoreError> {
    Ok(rows.into_iter().map(StoredPayment::of).collect::<Result<_, _>>()?)
}

/// Reads the payments of a batch and locks their rows until its end, in the order of their ids.
pub(super) fn select_locked(backend: DbBackend, ids: impl Iterator<Item = PaymentId>) -> Select {
    let tail = match backend {
        DbBackend::Sqlite => "CROSS JOIN payment AS p WHERE p.id = v.id",
        _ => "CROSS JOIN payment AS p WHERE p.id = v.id ORDER BY p.id FOR UPDATE OF p",
    };
    by_ids(ids, tail)
}

/// Reads payments only to tell of them.
pub(super) fn select(ids: impl Iterator<Item = PaymentId>) -> Select {
    by_ids(ids, "CROSS JOIN payment AS p WHERE p.id = v.id")
}

fn by_ids(ids: impl Iterator<Item = PaymentId>, tail: &'static str) -> Select {
    let mut rows = Rows::new(&[("id", Kind::Uuid)]);
    ids.for_each(|id| rows.push([id.0.into()]));
    Select::new("SELECT p.* FROM", rows, tail)
}

/// What either select found.
pub(super) fn found(rows: &[QueryResult]) -> impl Iterator<Item = Result<StoredPayment, Failure>> {
    rows.iter().map(|row| StoredPayment::of(row::Model::from_query_result(row, "")?))
}

pub(super) fn insert<'a>(payments: impl Iterator<Item = &'a StoredPayment>, instance: &LogId) -> Write {
    let mut rows = Rows::new(&[
        ("id", Kind::Uuid),
        ("merchant_id", Kind::Text),
        ("order_number", Kind::Text),
        ("amount_minor", Kind::Int),
        ("currency", Kind::Text),
        ("channel", Kind::Text),
        ("token", Kind::Text),
        ("masked_pan", Kind::Text),
        ("brand", Kind::Text),
        ("device", Kind::Text),
        ("entry", Kind::Text),
        ("scheme", Kind::Text),
        ("mode", Kind::Text),
        ("state", Kind::Text),
        ("approval_code", Kind::TextOrNull),
        ("response_code", Kind::TextOrNull),
        ("instance", Kind::Text),
        ("created_at_ms", Kind::Int),
        ("updated_at_ms", Kind::Int),
    ]);
    for payment in payments {
        let card = &payment.card;
        let (approval, response) = codes(&payment.state);
        rows.push([
            payment.id.0.into(),
            payment.merchant.as_str().into(),
            payment.order.as_str().into(),
            payment.amount.minor().into(),
            payment.amount.currency().code().into(),
            payment.channel.name().into(),
            card.token.as_str().into(),
            card.masked.as_str().into(),
            card.brand.name().into(),
            card.origin.device.as_str().into(),
            card.origin.entry.name().into(),
            words::scheme_name(card.origin.scheme).into(),
            card.origin.mode.name().into(),
            payment.state.name().into(),
            approval.into(),
            response.into(),
            instance.as_str().into(),
            payment.created_at_ms.into(),
            payment.updated_at_ms.into(),
        ]);
    }
    Write::new(
        "INSERT INTO payment (id, merchant_id, order_number, amount_minor, currency, channel, token, masked_pan, \
         brand, device, entry, scheme, mode, state, approval_code, response_code, instance, created_at_ms, \
         updated_at_ms) SELECT id, merchant_id, order_number, amount_minor, currency, channel, token, masked_pan, \
         brand, device, entry, scheme, mode, state, approval_code, response_code, instance, created_at_ms, \
         updated_at_ms FROM",
        rows,
        "",
    )
}

/// Writes where payments moved, each only if it still is where the batch took it to be. Whoever moves a payment has it.
pub(super) fn update(moved: &[MovedPayment], instance: &LogId) -> Write {
    let mut rows = Rows::new(&[
        ("id", Kind::Uuid),
        ("state", Kind::Text),
        ("approval_code", Kind::TextOrNull),
        ("response_code", Kind::TextOrNull),
        ("instance", Kind::Text),
        ("updated_at_ms", Kind::Int),
        ("old_state", Kind::Text),
        ("old_updated_at_ms", Kind::Int),
    ]);
    for MovedPayment { id, from, since_ms, to, at_ms } in moved {
        let (approval, response) = codes(to);
        rows.push([
            id.0.into(),
            to.name().into(),
            approval.into(),
            response.into(),
            instance.as_str().into(),
            (*at_ms).into(),
            from.name().into(),
            (*since_ms).into(),
        ]);
    }
    Write::new(
        "UPDATE payment SET state = v.state, approval_code = v.approval_code, response_code = v.response_code, \
         instance = v.instance, updated_at_ms = v.updated_at_ms FROM",
        rows,
        "WHERE payment.id = v.id AND payment.state = v.old_state AND payment.updated_at_ms = v.old_updated_at_ms",
    )
}

/// Approval and response code of a state, empty where it has none.
fn codes(state: &State) -> (&str, &str) {
    match state {
        State::Authorized(code) => (code.as_str(), ""),
        State::Declined(code) => ("", code.as_str()),
        State::Sent | State::Unknown | State::Reversed => ("", ""),
    }
}

fn state(name: &str, approval: Option<&str>, response: Option<&str>) -> Option<State> {
    Some(match (name, approval, response) {
        ("sent", None, None) => State::Sent,
        ("unknown", None, None) => State::Unknown,
        ("reversed", None, None) => State::Reversed,
        ("authorized", Some(code), None) => State::Authorized(ApprovalCode::parse(code).ok()?),
        ("declined", None, Some(code)) => State::Declined(ResponseCode::parse(code).ok()?),
        _ => return None,
    })
}

/// Reads how a card came in, as requests and payments both keep it.
pub(super) fn origin(device: &str, entry: &str, scheme: &str, mode: &str) -> Result<Origin, Failure> {
    Ok(Origin {
        device: DeviceId::parse(device).map_err(|_| Failure::Corrupt("a device id"))?,
        entry: words::entry(entry).ok_or(Failure::Corrupt("a card entry"))?,
        scheme: words::scheme(scheme).ok_or(Failure::Corrupt("a scheme"))?,
        mode: DecryptionMode::from_name(mode).ok_or(Failure::Corrupt("a decryption mode"))?,
    })
}

impl StoredPayment {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let currency = Currency::parse(&row.currency).map_err(|_| Failure::Corrupt("payment.currency"))?;
        let origin = origin(&row.device, &row.entry, &row.scheme, &row.mode)?;
        let state = state(&row.state, row.approval_code.as_deref(), row.response_code.as_deref());
        Ok(Self {
            id: PaymentId(row.id),
            merchant: MerchantId::parse(&row.merchant_id).map_err(|_| Failure::Corrupt("payment.merchant_id"))?,
            order: OrderNumber::parse(&row.order_number).map_err(|_| Failure::Corrupt("payment.order_number"))?,
            amount: Money::new(row.amount_minor, currency).map_err(|_| Failure::Corrupt("payment.amount_minor"))?,
            channel: Channel::from_name(&row.channel).ok_or(Failure::Corrupt("payment.channel"))?,
            state: state.ok_or(Failure::Corrupt("payment.state"))?,
            card: stored_card(token::card(&row.token, &row.masked_pan, &row.brand)?, &origin),
            created_at_ms: row.created_at_ms,
            updated_at_ms: row.updated_at_ms,
        })
    }
}
