//! Tokens: which card of which merchant each stands for, and its sealed number.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::Condition;
use sea_orm::{DbBackend, FromQueryResult, QueryOrder, QueryResult, QuerySelect, Statement};
use warifu_core::card::{Brand, MaskedPan};
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::{Fingerprint, SealedPan, VaultGeneration};

use super::Store;
use super::bulk::{Kind, Rows, Select, Write};
use super::decide::{CardView, NewToken, Wanted};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::merchant;
use super::vault::{self, Fingerprints, Parity};

/// A token and what it stands for.
pub struct TokenRecord {
    /// The digits.
    pub token: Token,
    /// The card number, sealed for this merchant and token.
    pub sealed: SealedPan,
    /// By the merchant's vault key of which generation.
    pub generation: VaultGeneration,
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
        pub fingerprint_odd: Option<Vec<u8>>,
        pub fingerprint_even: Option<Vec<u8>>,
        pub vault_generation: i64,
        pub nonce: Vec<u8>,
        pub ciphertext: Vec<u8>,
        pub masked_pan: String,
        pub brand: String,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// What is moved to the next generation: a card number sealed anew, and the card's fingerprint.
pub struct Resealed {
    /// The token, which stays.
    pub token: Token,
    /// The card number, sealed for this merchant and token under the new key.
    pub sealed: SealedPan,
    /// By the new fingerprint key.
    pub fingerprint: Fingerprint,
}

/// A token without its sealed card number.
#[derive(FromQueryResult)]
struct Known {
    token: String,
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
        let select = row::Entity::find().filter(row::Column::MerchantId.eq(merchant.as_str())).filter(
            Condition::any()
                .add(row::Column::FingerprintOdd.eq(fingerprint.0.to_vec()))
                .add(row::Column::FingerprintEven.eq(fingerprint.0.to_vec())),
        );
        let row = self.one(select).await?;
        Ok(row.map(TokenRecord::of).transpose()?)
    }

    /// Whether a card has a token at a merchant.
    pub async fn knows_card(&self, merchant: &MerchantId, card: &Fingerprints) -> Result<bool, StoreError> {
        for fingerprint in card.each() {
            if self.lookups().cards.find((merchant.clone(), fingerprint)).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One token of a merchant. A foreign token and one never issued give the same answer.
    pub async fn token(&self, merchant: &MerchantId, token: &Token) -> Result<Option<TokenRecord>, StoreError> {
        let key = (merchant.to_string(), token.to_string());
        let row = self.one(row::Entity::find_by_id(key)).await?;
        Ok(row.map(TokenRecord::of).transpose()?)
    }

    /// Tokens of a merchant that are of a generation, in their order, after one of them; at most `limit`. However many others
    /// lie between, no statement reads more than that.
    pub async fn tokens_of(
        &self,
        merchant: &MerchantId,
        generation: VaultGeneration,
        after: Option<&Token>,
        limit: u64,
    ) -> Result<Vec<TokenRecord>, StoreError> {
        let mut after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        let number = i64::from(generation.number());
        let mut found = Vec::new();
        loop {
            let select = row::Entity::find()
                .filter(row::Column::MerchantId.eq(merchant.as_str()))
                .filter(row::Column::Token.gt(after.as_str()))
                .order_by_asc(row::Column::Token)
                .limit(limit);
            let rows = self.all(select).await?;
            let Some(last) = rows.last() else { return Ok(found) };
            after.clone_from(&last.token);
            for row in rows.into_iter().filter(|row| row.vault_generation == number) {
                found.push(TokenRecord::of(row)?);
                if u64::try_from(found.len()).is_ok_and(|found| found >= limit) {
                    return Ok(found);
                }
            }
        }
    }

    /// How many tokens a merchant has of a generation. Every token of the merchant is looked at, a part at a time.
    pub async fn count_tokens_of(&self, merchant: &MerchantId, generation: VaultGeneration) -> Result<u64, StoreError> {
        const PART: i64 = 50_000;
        let (mut tokens, mut after) = (0, String::new());
        loop {
            let statement = Statement::from_sql_and_values(
                self.backend(),
                "SELECT count(CASE WHEN part.vault_generation = $3 THEN 1 END) AS n, max(part.token) AS last FROM \
                 (SELECT token, vault_generation FROM token WHERE merchant_id = $1 AND token > $2 ORDER BY token \
                 LIMIT $4) AS part",
                [merchant.as_str().into(), after.as_str().into(), i64::from(generation.number()).into(), PART.into()],
            );
            let statement = &statement;
            let row = self.reading_pool().read(|db| async move { db.query_one_raw(statement.clone()).await }).await?;
            let row = row.ok_or(StoreError::Corrupt("a count"))?;
            tokens += row.try_get::<i64>("", "n").map_err(Failure::from)?;
            match row.try_get::<Option<String>>("", "last").map_err(Failure::from)? {
                Some(last) => after = last,
                None => return Ok(u64::try_from(tokens).unwrap_or_default()),
            }
        }
    }

    /// Forgets up to `limit` fingerprints that the keys of a generation made at a merchant, and tells how many they were.
    /// Only while its vault is at rest under the next one: later the column is another generation's.
    pub async fn forget_fingerprints(
        &self,
        merchant: &MerchantId,
        generation: VaultGeneration,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let sql = match Parity::of(generation) {
            Parity::Odd => {
                "UPDATE token SET fingerprint_odd = NULL WHERE merchant_id = $1 AND token IN (SELECT token FROM token \
                 WHERE merchant_id = $1 AND fingerprint_odd IS NOT NULL LIMIT $2)"
            }
            Parity::Even => {
                "UPDATE token SET fingerprint_even = NULL WHERE merchant_id = $1 AND token IN (SELECT token FROM token \
                 WHERE merchant_id = $1 AND fingerprint_even IS NOT NULL LIMIT $2)"
            }
        };
        let values = [merchant.as_str().into(), i64::from(limit).into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let txn = self.begin().await?;
        if !merchant::rests(&txn, merchant, generation.next()).await? {
            return Ok(0);
        }
        let done = txn.execute_raw(statement).await.map_err(Failure::from)?;
        txn.commit().await.map_err(Failure::from)?;
        Ok(done.rows_affected())
    }
}

/// Moves tokens of a merchant to the next generation, each only if it is still of the one before.
pub(super) fn reseal(merchant: &MerchantId, to: VaultGeneration, resealed: &[Resealed]) -> Write {
    let mut rows = Rows::new(&[
        ("merchant_id", Kind::Text),
        ("token", Kind::Text),
        ("nonce", Kind::Bytes),
        ("ciphertext", Kind::Bytes),
        ("fingerprint", Kind::Bytes),
        ("vault_generation", Kind::Int),
    ]);
    for Resealed { token, sealed, fingerprint } in resealed {
        rows.push([
            merchant.as_str().into(),
            token.as_str().into(),
            sealed.nonce.to_vec().into(),
            sealed.ciphertext.clone().into(),
            fingerprint.0.to_vec().into(),
            i64::from(to.number()).into(),
        ]);
    }
    let head = match Parity::of(to) {
        Parity::Odd => {
            "UPDATE token SET nonce = v.nonce, ciphertext = v.ciphertext, vault_generation = v.vault_generation, \
             fingerprint_odd = v.fingerprint FROM"
        }
        Parity::Even => {
            "UPDATE token SET nonce = v.nonce, ciphertext = v.ciphertext, vault_generation = v.vault_generation, \
             fingerprint_even = v.fingerprint FROM"
        }
    };
    Write::new(
        head,
        rows,
        "WHERE token.merchant_id = v.merchant_id AND token.token = v.token \
         AND token.vault_generation = v.vault_generation - 1",
    )
}

/// Cards looked up by merchant and fingerprint: the token each has. It is never given another, and never taken away.
pub(super) struct ByFingerprint;

impl Lookup for ByFingerprint {
    type Key = (MerchantId, Fingerprint);
    type Found = CardView;
    const TRUTH: Truth = Truth::Always;

    const HEAD: &'static str = SELECT_CARD;

    fn tail(backend: DbBackend) -> &'static str {
        same_card(backend)
    }

    fn bind<'a>(keys: impl Iterator<Item = &'a Self::Key>) -> Rows {
        let mut rows = Rows::new(&[("merchant_id", Kind::Text), ("fingerprint", Kind::Bytes)]);
        keys.for_each(|(merchant, Fingerprint(bytes))| rows.push([merchant.as_str().into(), bytes.to_vec().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<Self::Key, Failure> {
        Ok((merchant_of(row)?, fingerprint(row.try_get("", "fingerprint")?)?))
    }

    fn found(row: &QueryResult) -> Result<CardView, Failure> {
        Ok(Found::of(row)?.card)
    }
}

/// What is read of a token by the fingerprint of its card.
const SELECT_CARD: &str = "SELECT t.merchant_id, t.token, v.fingerprint, t.masked_pan, t.brand FROM";
/// Fingerprints of all generations are numbers nobody can hit by chance: whichever column has one has the card. Each database
/// uses the columns' indexes only where each is asked for by itself, and each has its own way to be asked so.
const fn same_card(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => {
            "CROSS JOIN token AS t WHERE t.merchant_id = v.merchant_id AND t.token = COALESCE(\
             (SELECT o.token FROM token AS o WHERE o.merchant_id = v.merchant_id AND o.fingerprint_odd = v.fingerprint), \
             (SELECT e.token FROM token AS e WHERE e.merchant_id = v.merchant_id AND e.fingerprint_even = v.fingerprint))"
        }
        _ => {
            "CROSS JOIN LATERAL (SELECT * FROM token WHERE merchant_id = v.merchant_id AND fingerprint_odd = v.fingerprint \
             UNION ALL SELECT * FROM token WHERE merchant_id = v.merchant_id AND fingerprint_even = v.fingerprint) AS t"
        }
    }
}

/// A token a batch asks for by the fingerprint of its card.
pub(super) struct Found {
    pub(super) merchant: MerchantId,
    pub(super) fingerprint: Fingerprint,
    pub(super) card: CardView,
}

/// By fingerprint, and by digits.
pub(super) fn selects(backend: DbBackend, wanted: &Wanted<'_>) -> [Select; 2] {
    let mut by_fingerprint = Rows::new(&[("merchant_id", Kind::Text), ("fingerprint", Kind::Bytes)]);
    for (merchant, fingerprint) in &wanted.fingerprints {
        by_fingerprint.push([merchant.as_str().into(), fingerprint.to_vec().into()]);
    }
    let mut by_token = Rows::new(&[("merchant_id", Kind::Text), ("token", Kind::Text)]);
    for (merchant, token) in &wanted.candidates {
        by_token.push([merchant.as_str().into(), token.as_str().into()]);
    }
    let same_digits = "CROSS JOIN token AS t WHERE t.merchant_id = v.merchant_id AND t.token = v.token";
    [
        Select::new(SELECT_CARD, by_fingerprint, same_card(backend)),
        Select::new("SELECT t.merchant_id, t.token FROM", by_token, same_digits),
    ]
}

/// What the first of [`selects`] found.
pub(super) fn found(rows: &[QueryResult]) -> impl Iterator<Item = Result<Found, Failure>> {
    rows.iter().map(Found::of)
}

/// What the second of [`selects`] found: digits that are taken.
pub(super) fn taken(rows: &[QueryResult]) -> impl Iterator<Item = Result<(MerchantId, Token), Failure>> {
    rows.iter().map(|row| {
        let token = Token::parse(&row.try_get::<String>("", "token")?).map_err(|_| Failure::Corrupt("a token"))?;
        Ok((merchant_of(row)?, token))
    })
}

fn merchant_of(row: &QueryResult) -> Result<MerchantId, Failure> {
    let merchant = MerchantId::parse(&row.try_get::<String>("", "merchant_id")?);
    merchant.map_err(|_| Failure::Corrupt("token.merchant_id"))
}

/// Writes new tokens down, each only if its merchant's vault accepts the generation it is of: from the moment it does not
/// any more, nothing is sealed under the old key, whatever a server believes.
pub(super) fn insert<'a>(
    backend: DbBackend,
    tokens: impl Iterator<Item = (&'a (MerchantId, Token), &'a NewToken)>,
) -> Write {
    let mut rows = Rows::new(&[
        ("merchant_id", Kind::Text),
        ("token", Kind::Text),
        ("fingerprint_odd", Kind::BytesOrNull),
        ("fingerprint_even", Kind::BytesOrNull),
        ("vault_generation", Kind::Int),
        ("nonce", Kind::Bytes),
        ("ciphertext", Kind::Bytes),
        ("masked_pan", Kind::Text),
        ("brand", Kind::Text),
        ("created_at_ms", Kind::Int),
    ]);
    for ((merchant, token), new) in tokens {
        let bytes = |fingerprint: Option<Fingerprint>| fingerprint.map_or_else(Vec::new, |it| it.0.to_vec());
        let [odd, even] = new.fingerprints.by_parity().map(bytes);
        rows.push([
            merchant.as_str().into(),
            token.as_str().into(),
            odd.into(),
            even.into(),
            i64::from(new.fingerprints.generation.number()).into(),
            new.sealed.nonce.to_vec().into(),
            new.sealed.ciphertext.clone().into(),
            new.card.masked.as_str().into(),
            new.card.brand.name().into(),
            new.at_ms.into(),
        ]);
    }
    let tail = match backend {
        DbBackend::Sqlite => {
            "CROSS JOIN merchant AS m WHERE m.id = v.merchant_id AND m.vault_accepts <= v.vault_generation \
             AND v.vault_generation <= m.vault_generation"
        }
        // A vault that is just moving on is waited for, and looked at again.
        _ => {
            "CROSS JOIN merchant AS m WHERE m.id = v.merchant_id AND m.vault_accepts <= v.vault_generation \
             AND v.vault_generation <= m.vault_generation FOR SHARE OF m"
        }
    };
    Write::new(
        "INSERT INTO token (merchant_id, token, fingerprint_odd, fingerprint_even, vault_generation, nonce, ciphertext, \
         masked_pan, brand, created_at_ms) SELECT v.merchant_id, v.token, v.fingerprint_odd, v.fingerprint_even, \
         v.vault_generation, v.nonce, v.ciphertext, v.masked_pan, v.brand, v.created_at_ms FROM",
        rows,
        tail,
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
    fn of(row: &QueryResult) -> Result<Self, Failure> {
        let Known { token, masked_pan, brand } = Known::from_query_result(row, "")?;
        Ok(Self {
            merchant: merchant_of(row)?,
            fingerprint: fingerprint(row.try_get("", "fingerprint")?)?,
            card: card(&token, &masked_pan, &brand)?,
        })
    }
}

impl TokenRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let CardView { token, masked, brand } = card(&row.token, &row.masked_pan, &row.brand)?;
        let nonce = row.nonce.try_into().map_err(|_| Failure::Corrupt("token.nonce"))?;
        Ok(Self {
            token,
            generation: vault::generation(row.vault_generation)?,
            sealed: SealedPan { nonce, ciphertext: row.ciphertext },
            masked,
            brand,
            created_at_ms: row.created_at_ms,
        })
    }
}
