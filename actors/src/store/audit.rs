//! The audit log of each server: its records, the frontier of their tree, and its signed heads.

use std::fmt;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, DatabaseTransaction, DbBackend, QueryOrder, QuerySelect, Statement};
use warifu_core::audit::{Hash, Tree, TreeHead, leaf_hash};
use warifu_hsm::{Signature, verify_signature};

use super::Store;
use super::bulk::{Kind, Rows, Write};
use super::error::{Failure, StoreError};

/// Longest name of a log.
const MAX_LOG: usize = 64;

/// The name of an audit log, which is that of the server that writes it. 1 to 64 ASCII letters, digits, `-`, `_`, `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(Box<str>);

/// A name no audit log can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of an audit log has 1 to {MAX_LOG} ASCII letters, digits and - _ .")]
pub struct LogIdError;

impl LogId {
    /// Checks and takes a name.
    pub fn parse(text: &str) -> Result<Self, LogIdError> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if plain && (1..=MAX_LOG).contains(&text.len()) { Ok(Self(text.into())) } else { Err(LogIdError) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in its log, from 0.
    pub seq: u64,
    /// Its line.
    pub line: String,
    /// The hash it was given when it was written.
    pub leaf: Hash,
}

/// A tree head and its signature.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// What is signed.
    pub head: TreeHead,
    /// The signature over [`TreeHead::signed_bytes`].
    pub signature: Signature,
    /// The key that made it: an uncompressed P-256 point.
    pub public_key: [u8; 65],
    /// The tree it is the head of, to go on from; heads of earlier versions were kept without.
    pub tree: Option<Tree>,
}

mod record {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_record")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub log: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub record: String,
        pub leaf: Vec<u8>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod frontier {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_frontier")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub log: String,
        pub owner: Uuid,
        pub size: i64,
        pub frontier: Vec<u8>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod head {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_head")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub log: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub size: i64,
        pub root: Vec<u8>,
        pub at_ms: i64,
        pub signature: Vec<u8>,
        pub public_key: Vec<u8>,
        pub frontier: Option<Vec<u8>>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// Every log this store has, by name, with its number of records.
    pub async fn logs(&self) -> Result<Vec<(LogId, u64)>, StoreError> {
        let rows = self.all(frontier::Entity::find().order_by_asc(frontier::Column::Log)).await?;
        rows.into_iter()
            .map(|row| {
                let log = LogId::parse(&row.log).map_err(|_| StoreError::Corrupt("audit_frontier.log"))?;
                Ok((log, unsigned(row.size)?))
            })
            .collect()
    }

    /// Records of a log in their order: at most `limit` of those from `seq` on.
    pub async fn records(&self, log: &LogId, seq: u64, limit: u64) -> Result<Vec<StoredRecord>, StoreError> {
        let select = record::Entity::find()
            .filter(record::Column::Log.eq(log.as_str()))
            .filter(record::Column::Seq.gte(signed(seq)?))
            .order_by_asc(record::Column::Seq)
            .limit(limit);
        let rows = self.all(select).await?;
        rows.into_iter()
            .map(|row| {
                let leaf = row.leaf.try_into().map(Hash).map_err(|_| StoreError::Corrupt("audit_record.leaf"))?;
                Ok(StoredRecord { seq: unsigned(row.seq)?, line: row.record, leaf })
            })
            .collect()
    }

    /// The tree of a log as its writer left it; empty for a log that does not exist.
    pub async fn tree(&self, log: &LogId) -> Result<Tree, StoreError> {
        let row = self.one(frontier::Entity::find_by_id(log.as_str())).await?;
        Ok(row.map_or_else(|| Ok(Tree::default()), resume)?)
    }

    /// Keeps a signed head. Signing one size again replaces it.
    pub async fn save_head(&self, signed_head: &SignedHead) -> Result<(), StoreError> {
        let TreeHead { log, size, root, at_ms } = &signed_head.head;
        let row = head::ActiveModel {
            log: Set(log.clone()),
            size: Set(signed(*size)?),
            root: Set(root.0.to_vec()),
            at_ms: Set(signed(*at_ms)?),
            signature: Set(signed_head.signature.0.to_vec()),
            public_key: Set(signed_head.public_key.to_vec()),
            frontier: Set(signed_head.tree.as_ref().map(frontier_bytes)),
        };
        let changed = {
            use head::Column::{AtMs, Frontier, PublicKey, Root, Signature};
            [Root, AtMs, Signature, PublicKey, Frontier]
        };
        let again = OnConflict::columns([head::Column::Log, head::Column::Size]).update_columns(changed).to_owned();
        let save = self.writing().ask(|db| {
            let insert = head::Entity::insert(row.clone()).on_conflict(again.clone());
            async move { insert.exec_without_returning(&db).await }
        });
        save.await?;
        Ok(())
    }

    /// The head of a log that covers most records.
    pub async fn newest_head(&self, log: &LogId) -> Result<Option<SignedHead>, StoreError> {
        let select = head::Entity::find().filter(head::Column::Log.eq(log.as_str())).order_by_desc(head::Column::Size);
        let row = self.one(select).await?;
        row.map(SignedHead::of).transpose()
    }
}

/// Takes a log over for `owner`, making it if there is none: whoever wrote it before cannot any more.
pub(super) async fn take_over(txn: &DatabaseTransaction, log: &LogId, owner: Uuid) -> Result<Tree, Failure> {
    let row = locked(txn, log).await?;
    let done = frontier::Entity::update_many()
        .col_expr(frontier::Column::Owner, Expr::value(owner))
        .filter(frontier::Column::Log.eq(log.as_str()))
        .exec(txn)
        .await?;
    if done.rows_affected != 1 {
        return Err(Failure::Corrupt("audit_frontier"));
    }
    resume(row)
}

/// Reads a log's tree, making the log if there is none, and locks it until the transaction ends.
pub(super) async fn tree_locked(txn: &DatabaseTransaction, log: &LogId) -> Result<(Tree, Uuid), Failure> {
    let row = locked(txn, log).await?;
    let owner = row.owner;
    Ok((resume(row)?, owner))
}

async fn locked(txn: &DatabaseTransaction, log: &LogId) -> Result<frontier::Model, Failure> {
    let fresh = frontier::ActiveModel {
        log: Set(log.to_string()),
        owner: Set(Uuid::nil()),
        size: Set(0),
        frontier: Set(Vec::new()),
    };
    frontier::Entity::insert(fresh)
        .on_conflict(OnConflict::column(frontier::Column::Log).do_nothing().to_owned())
        .exec_without_returning(txn)
        .await?;
    let backend = txn.get_database_backend();
    // SQLite's transaction has the whole database already.
    let sql = match backend {
        DbBackend::Sqlite => "SELECT * FROM audit_frontier WHERE log = ?1",
        _ => "SELECT * FROM audit_frontier WHERE log = $1 FOR UPDATE",
    };
    let row = Statement::from_sql_and_values(backend, sql, [log.as_str().into()]);
    frontier::Entity::find().from_raw_sql(row).one(txn).await?.ok_or(Failure::Corrupt("audit_frontier"))
}

/// Appends lines to a tree, and says what is to be written for it.
pub(super) struct Appended {
    pub(super) tree: Tree,
    pub(super) writes: [Write; 2],
}

/// Appends `lines` to the log as `owner`, if it still has the size and owner it is taken to have.
pub(super) fn append(log: &LogId, owner: Uuid, tree: &Tree, lines: &[String]) -> Result<Appended, Failure> {
    let mut rows = Rows::new(&[("log", Kind::Text), ("seq", Kind::Int), ("record", Kind::Text), ("leaf", Kind::Bytes)]);
    let mut grown = tree.clone();
    for line in lines {
        let leaf = leaf_hash(line.as_bytes());
        rows.push([log.as_str().into(), number(grown.size())?.into(), line.as_str().into(), leaf.0.to_vec().into()]);
        grown.append(leaf);
    }
    let mut state = Rows::new(&[
        ("log", Kind::Text),
        ("owner", Kind::Uuid),
        ("old_size", Kind::Int),
        ("size", Kind::Int),
        ("frontier", Kind::Bytes),
    ]);
    if grown.size() > tree.size() {
        state.push([
            log.as_str().into(),
            owner.into(),
            number(tree.size())?.into(),
            number(grown.size())?.into(),
            frontier_bytes(&grown).into(),
        ]);
    }
    // The frontier first: whoever is not the log's writer any more fails there, not on a record's key.
    let frontier = Write::new(
        "UPDATE audit_frontier SET size = v.size, frontier = v.frontier FROM",
        state,
        "WHERE audit_frontier.log = v.log AND audit_frontier.owner = v.owner AND audit_frontier.size = v.old_size",
    );
    let records =
        Write::new("INSERT INTO audit_record (log, seq, record, leaf) SELECT log, seq, record, leaf FROM", rows, "");
    Ok(Appended { tree: grown, writes: [frontier, records] })
}

fn resume(row: frontier::Model) -> Result<Tree, Failure> {
    let size = u64::try_from(row.size).map_err(|_| Failure::Corrupt("audit_frontier.size"))?;
    tree_of(size, &row.frontier).ok_or(Failure::Corrupt("audit_frontier.frontier"))
}

/// A tree's frontier as it is stored; its size stands beside it.
fn frontier_bytes(tree: &Tree) -> Vec<u8> {
    tree.frontier().iter().flat_map(|hash| hash.0).collect()
}

/// The inverse of [`frontier_bytes`]; none where the frontier is not of a tree of that size.
fn tree_of(size: u64, frontier: &[u8]) -> Option<Tree> {
    let (hashes, rest) = frontier.as_chunks::<32>();
    rest.is_empty().then(|| Tree::resume(size, hashes.iter().copied().map(Hash).collect()))?
}

fn number(size: u64) -> Result<i64, Failure> {
    size.try_into().map_err(|_| Failure::Corrupt("the size of an audit log"))
}

fn signed(number: u64) -> Result<i64, StoreError> {
    number.try_into().map_err(|_| StoreError::Corrupt("the size of an audit log"))
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    number.try_into().map_err(|_| StoreError::Corrupt("the size of an audit log"))
}

impl SignedHead {
    /// Whether it was signed with the audit key whose public half this is.
    pub fn is_of(&self, key: &[u8; 65]) -> bool {
        self.public_key == *key && verify_signature(key, &self.head.signed_bytes(), &self.signature)
    }

    fn of(row: head::Model) -> Result<Self, StoreError> {
        let size = unsigned(row.size)?;
        let root = Hash(row.root.try_into().map_err(|_| StoreError::Corrupt("audit_head.root"))?);
        // Nothing has signed the frontier: one that does not give the root is as good as none.
        let tree = row.frontier.and_then(|frontier| tree_of(size, &frontier)).filter(|tree| tree.root() == root);
        let signature = row.signature.try_into().map_err(|_| StoreError::Corrupt("audit_head.signature"))?;
        Ok(Self {
            head: TreeHead { log: row.log, size, root, at_ms: unsigned(row.at_ms)? },
            signature: Signature(signature),
            public_key: row.public_key.try_into().map_err(|_| StoreError::Corrupt("audit_head.public_key"))?,
            tree,
        })
    }
}
