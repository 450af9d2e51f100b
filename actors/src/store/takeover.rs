//! Taking an audit log over: only if it is the one that was left, record for record.
//!
//! Whoever can write to the database can rewrite a log with its frontier, and this server would go on from there and
//! have the HSM sign it. So records are hashed again, and the newest signed head must be on the way. Where the HSM's own
//! audit key has signed that head, it stands for all that is before it, and only what came after is hashed: a log of years
//! is taken over as fast as one of minutes.

use uuid::Uuid;
use warifu_core::audit::{Tree, TreeHead, leaf_hash};

use super::audit::{self, LogId, StoredRecord};
use super::error::StoreError;
use super::{SignedHead, Store};

/// Records read at a time.
const PAGE: u64 = 4096;
/// Progress is told every so many records.
const TELL_EVERY: u64 = 128 * PAGE;

impl Store {
    /// Takes `log` over for `owner`, and gives back its tree. What `audit_key` has signed is taken at its word.
    pub(super) async fn take_over(
        &self,
        log: &LogId,
        owner: Uuid,
        audit_key: Option<&[u8; 65]>,
    ) -> Result<Tree, StoreError> {
        let newest = self.newest_head(log).await?;
        let size = self.tree(log).await?.size();
        if newest.as_ref().is_some_and(|signed| signed.head.size > size) {
            return Err(StoreError::LogChanged("it is shorter than its newest signed head"));
        }
        let mut check = Check::begin(log, newest, audit_key)?;
        let signed = check.tree.size();
        // Most of it before the lock: a former owner may still be writing.
        check.read(self, log, size).await?;
        let txn = self.begin_patiently().await?;
        let tree = audit::take_over(&txn, log, owner).await?;
        check.read(self, log, tree.size()).await?;
        if check.tree != tree {
            return Err(StoreError::LogChanged("its frontier is not that of its records"));
        }
        txn.commit().await?;
        tracing::info!(%log, records = tree.size(), hashed_again = tree.size() - signed, "the audit log is taken over");
        Ok(tree)
    }
}

/// The tree of the records read so far.
struct Check {
    tree: Tree,
    head: Option<TreeHead>,
}

impl Check {
    /// At the newest head if the audit key vouches for what is before it, else at the first record.
    fn begin(log: &LogId, newest: Option<SignedHead>, audit_key: Option<&[u8; 65]>) -> Result<Self, StoreError> {
        let Some(newest) = newest else { return Ok(Self { tree: Tree::default(), head: None }) };
        let vouched = match audit_key {
            None => None,
            Some(key) if newest.public_key != *key => {
                tracing::warn!(%log, "the newest signed head is of another audit key: every record is hashed again");
                None
            }
            Some(key) if !newest.is_of(key) => {
                return Err(StoreError::LogChanged("its newest head was not signed by the audit key"));
            }
            Some(_) => newest.tree,
        };
        let check = Self { tree: vouched.unwrap_or_default(), head: Some(newest.head) };
        check.at_head()?;
        Ok(check)
    }

    /// Reads on until the tree has `size` records.
    async fn read(&mut self, store: &Store, log: &LogId, size: u64) -> Result<(), StoreError> {
        while self.tree.size() < size {
            let page = store.records(log, self.tree.size(), PAGE.min(size - self.tree.size())).await?;
            if page.is_empty() {
                return Err(StoreError::LogChanged("records are missing"));
            }
            page.iter().try_for_each(|record| self.take(record))?;
            if self.tree.size().is_multiple_of(TELL_EVERY) {
                tracing::info!(%log, checked = self.tree.size(), of = size, "the audit log is being checked");
            }
        }
        Ok(())
    }

    fn take(&mut self, record: &StoredRecord) -> Result<(), StoreError> {
        if record.seq != self.tree.size() {
            return Err(StoreError::LogChanged("records are missing"));
        }
        let leaf = leaf_hash(record.line.as_bytes());
        if leaf != record.leaf {
            return Err(StoreError::LogChanged("a record is not the one that was written"));
        }
        self.tree.append(leaf);
        self.at_head()
    }

    /// Where the newest head was signed, the records must make its root.
    fn at_head(&self) -> Result<(), StoreError> {
        match &self.head {
            Some(head) if head.size == self.tree.size() && head.root != self.tree.root() => {
                Err(StoreError::LogChanged("its records are not those that were signed"))
            }
            _ => Ok(()),
        }
    }
}
