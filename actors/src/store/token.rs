//! Tokens: which card of which merchant each stands for, and its sealed number.

use sea_orm::entity::prelude::*;
use sea_orm::{FromQueryResult, QueryResult};
use warifu_core::card::{Brand, MaskedPan};
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::{Fingerprint, SealedPan};

use super::Store;
use super::bulk::{Kind, Rows, Select, Write};
use super::decide::{CardView, NewToken, Wanted};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};

/// A token and what it stands for.
pub struct TokenRecord {
    /// The digits.
    pub token: Token,
    /// The card's fingerprint at the merchant.
    pub fingerprint: Fingerprint,
    /// The card number, sealed for this merchant and token.
    pub sealed: SealedPan,
    /// What may be shown of it.
    pub masked: MaskedPan,
    /// Its brand.
    pub brand: Brand,
    /// When it was issued, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "token")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub merchant_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub token: String,
        pub fingerprint: Vec<u8>,
        pub nonce: Vec<u8>,
        pub ciphertext: Vec<u8>,
        pub masked_pan: String,
        pub brand: String,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// A token without its sealed card number.
#[derive(FromQueryResult)]
struct Known {
    merchant_id: String,
    token: String,
    fingerprint: Vec<u8>,
    masked_pan: String,
    brand: String,
}

impl Store {
    /// The token a card has at a merchant.
    pub async fn token_by_fingerprint(
        &self,
        merchant: &MerchantId,
        fingerprint: &Fingerprint,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let select = row::Entity::find()
            .filter(row::Column::MerchantId.eq(merchant.as_str()))
            .filter(row::Column::Fingerprint.eq(fingerprint.0.to_vec()));
        let row = self.one(select).await?;
        Ok(row.map(TokenRecord::of).transpose()?)
    }

    /// Whether a card has a token at a merchant.
    pub async fn knows_card(&self, merchant: &MerchantId, fingerprint: &Fingerprint) -> Result<bool, StoreError> {
        Ok(self.lookups().cards.find((merchant.clone(), *fingerprint)).await?.is_some())
    }

    /// One token of a merchant. A foreign token and one never issued give the same answer.
    pub async fn token(&self, merchant: &MerchantId, token: &Token) -> Result<Option<TokenRecord>, StoreError> {
        let key = (merchant.to_string(), token.to_string());
        let row = self.one(row::Entity::find_by_id(key)).await?;
        Ok(row.map(TokenRecord::of).transpose()?)
    }
}

/// Cards looked up by merchant and fingerprint: the token each has. It is never given another, and never taken away.
pub(super) struct ByFingerprint;

impl Lookup for ByFingerprint {
    type Key = (MerchantId, Fingerprint);
    type Found = CardView;
    const TRUTH: Truth = Truth::Always;

    const HEAD: &'static str = "SELECT t.merchant_id, t.token, t.fingerprint, t.masked_pan, t.brand FROM";
    const TAIL: &'static str =
        "CROSS JOIN token AS t WHERE t.merchant_id = v.merchant_id AND t.fingerprint = v.fingerprint";

    fn bind<'a>(keys: impl Iterator<Item = &'a Self::Key>) -> Rows {
        let mut rows = Rows::new(&[("merchant_id", Kind::Text), ("fingerprint", Kind::Bytes)]);
        keys.for_each(|(merchant, Fingerprint(bytes))| rows.push([merchant.as_str().into(), bytes.to_vec().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<Self::Key, Failure> {
        let merchant = MerchantId::parse(&row.try_get::<String>("", "merchant_id")?);
        let merchant = merchant.map_err(|_| Failure::Corrupt("token.merchant_id"))?;
        Ok((merchant, fingerprint(row.try_get("", "fingerprint")?)?))
    }

    fn found(row: &QueryResult) -> Result<CardView, Failure> {
        Ok(Found::of(Known::from_query_result(row, "")?)?.card)
    }
}

/// Tokens a batch asks for: by the fingerprints of its cards, and by the digits it drew.
pub(super) struct Found {
    pub(super) merchant: MerchantId,
    pub(super) fingerprint: Fingerprint,
    pub(super) card: CardView,
}

/// By fingerprint, and by digits.
pub(super) fn selects(wanted: &Wanted<'_>) -> [Select; 2] {
    let mut by_fingerprint = Rows::new(&[("merchant_id", Kind::Text), ("fingerprint", Kind::Bytes)]);
    for (merchant, fingerprint) in &wanted.fingerprints {
        by_fingerprint.push([merchant.as_str().into(), fingerprint.to_vec().into()]);
    }
    let mut by_token = Rows::new(&[("merchant_id", Kind::Text), ("token", Kind::Text)]);
    for (merchant, token) in &wanted.candidates {
        by_token.push([merchant.as_str().into(), token.as_str().into()]);
    }
    let head = "SELECT t.merchant_id, t.token, t.fingerprint, t.masked_pan, t.brand FROM";
    let same_card = "CROSS JOIN token AS t WHERE t.merchant_id = v.merchant_id AND t.fingerprint = v.fingerprint";
    let same_digits = "CROSS JOIN token AS t WHERE t.merchant_id = v.merchant_id AND t.token = v.token";
    [Select::new(head, by_fingerprint, same_card), Select::new(head, by_token, same_digits)]
}

/// What either of [`selects`] found.
pub(super) fn found(rows: &[QueryResult]) -> impl Iterator<Item = Result<Found, Failure>> {
    rows.iter().map(|row| Found::of(Known::from_query_result(row, "")?))
}

pub(super) fn insert<'a>(tokens: impl Iterator<Item = (&'a (MerchantId, Token), &'a NewToken)>) -> Write {
    let mut rows = Rows::new(&[
        ("merchant_id", Kind::Text),
        ("token", Kind::Text),
        ("fingerprint", Kind::Bytes),
        ("nonce", Kind::Bytes),
        ("ciphertext", Kind::Bytes),
        ("masked_pan", Kind::Text),
        ("brand", Kind::Text),
        ("created_at_ms", Kind::Int),
    ]);
    for ((merchant, token), new) in tokens {
        rows.push([
            merchant.as_str().into(),
            token.as_str().into(),
            new.fingerprint.0.to_vec().into(),
            new.sealed.nonce.to_vec().into(),
            new.sealed.ciphertext.clone().into(),
            new.card.masked.as_str().into(),
            new.card.brand.name().into(),
            new.at_ms.into(),
        ]);
    }
    Write::new(
        "INSERT INTO token (merchant_id, token, fingerprint, nonce, ciphertext, masked_pan, brand, created_at_ms) \
         SELECT merchant_id, token, fingerprint, nonce, ciphertext, masked_pan, brand, created_at_ms FROM",
        rows,
        "",
    )
}

/// Reads the parts of a card that tokens, requests and payments share.
pub(super) fn card(token: &str, masked: &str, brand: &str) -> Result<CardView, Failure> {
    Ok(CardView {
        token: Token::parse(token).map_err(|_| Failure::Corrupt("a token"))?,
        masked: MaskedPan::parse(masked).map_err(|_| Failure::Corrupt("a masked card number"))?,
        brand: Brand::from_name(brand).ok_or(Failure::Corrupt("a brand"))?,
    })
}

fn fingerprint(bytes: Vec<u8>) -> Result<Fingerprint, Failure> {
    Ok(Fingerprint(bytes.try_into().map_err(|_| Failure::Corrupt("token.fingerprint"))?))
}

impl Found {
    fn of(row: Known) -> Result<Self, Failure> {
        Ok(Self {
            merchant: MerchantId::parse(&row.merchant_id).map_err(|_| Failure::Corrupt("token.merchant_id"))?,
            fingerprint: fingerprint(row.fingerprint)?,
            card: card(&row.token, &row.masked_pan, &row.brand)?,
        })
    }
}

impl TokenRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let CardView { token, masked, brand } = card(&row.token, &row.masked_pan, &row.brand)?;
        let nonce = row.nonce.try_into().map_err(|_| Failure::Corrupt("token.nonce"))?;
        Ok(Self {
            token,
            fingerprint: fingerprint(row.fingerprint)?,
            sealed: SealedPan { nonce, ciphertext: row.ciphertext },
            masked,
            brand,
            created_at_ms: row.created_at_ms,
        })
    }
}
