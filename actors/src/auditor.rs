//! The auditor: nothing is opened unless the audit log can be written, and its tree head is signed now and then.

mod log;

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::watch;
use warifu_core::audit::TreeHead;
use warifu_core::refusal::Refusal;

pub use log::{AuditLog, Due};

use crate::gate::{Agent, Answer, Gate};
use crate::key_manager::{KeyManager, SignHead};
use crate::record::Kind;
use crate::refused::{Refused, with_source};
use crate::store::{SignedHead, Store, StoreError};

/// How long late records may hold up a request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Admits requests to the HSM and signs the log.
pub struct Auditor {
    log: AuditLog,
    store: Store,
    keys: Gate<KeyManager>,
    window: Duration,
    /// The record that opens the window, on its way: everybody waits for the same one.
    opening: Option<Opening>,
    signed: watch::Sender<u64>,
}

type Opening = Shared<BoxFuture<'static, Result<(), Refused>>>;

/// May the HSM be used? Only if the log was durably written within the window, or can be now.
pub struct Admit;

/// Sign the head of the log, if there is anything new in it.
pub struct Sign;

impl Auditor {
    /// An auditor that takes a durable record as proof for as long as `window`. `signed` is how many records the
    /// newest signed head covers; it outlives the auditor.
    pub fn new(
        log: AuditLog,
        store: Store,
        keys: Gate<KeyManager>,
        window: Duration,
        signed: watch::Sender<u64>,
    ) -> Self {
        Self { log, store, keys, window, opening: None, signed }
    }

    fn is_proven(&self) -> bool {
        self.log.is_proven(self.window)
    }

    fn open_window(&mut self) -> Opening {
        if let Some(opening) = self.opening.as_ref().filter(|opening| opening.peek().is_none()) {
            return opening.clone();
        }
        let log = self.log.clone();
        let opening = async move {
            // Where the last try to write failed, the collector will know first when writing works again.
            let failing = log.writer().tree().borrow().last_durable_at.is_none();
            let patience = if failing { Duration::ZERO } else { PATIENCE };
            let late = tokio::time::timeout(patience, log.owed().wait_for(|owed| *owed == 0)).await.is_err();
            if late {
                return Err(Refused::because(Refusal::AuditUnavailable, "earlier records are not written yet"));
            }
            let opened = log.record(Kind::HsmWindowOpened);
            log.write(Vec::new(), vec![opened]).await.map_err(|error| match error {
                StoreError::Busy => Refused::because(Refusal::Busy, error),
                error => Refused::because(Refusal::AuditUnavailable, with_source(&error)),
            })
        };
        self.opening.insert(opening.boxed().shared()).clone()
    }
}

impl Agent for Auditor {
    const NAME: &'static str = "auditor";
}

impl Answer<Admit> for Auditor {
    type Reply = ();
    type Error = Refused;

    fn answer(&mut self, _: Admit) -> impl Future<Output = Result<(), Refused>> + Send + 'static {
        let opening = if self.is_proven() { None } else { Some(self.open_window()) };
        async move {
            match opening {
                None => Ok(()),
                Some(opening) => opening.await,
            }
        }
    }
}

impl Answer<Sign> for Auditor {
    type Reply = ();
    type Error = Refused;

    fn answer(&mut self, _: Sign) -> impl Future<Output = Result<(), Refused>> + Send + 'static {
        let (log, store, keys, signed) = (self.log.clone(), self.store.clone(), self.keys.clone(), self.signed.clone());
        let tree = log.writer().tree();
        // The record of the last signature itself is nothing new.
        let is_new = tree.borrow().tree.size() > signed.borrow().saturating_add(1);
        let opening = (is_new && !self.is_proven()).then(|| self.open_window());
        async move {
            if !is_new {
                return Ok(());
            }
            if let Some(opening) = opening {
                opening.await?;
            }
            let tree = tree.borrow().tree.clone();
            let size = tree.size();
            let head =
                TreeHead { log: log.writer().log().to_string(), size, root: tree.root(), at_ms: log.clock().now_ms() };
            let record = log.record(Kind::AuditSigned);
            let message = head.signed_bytes();
            let made = keys.ask(SignHead { message, record }).await.map_err(|error| error.refused)?;
            let signed_head =
                SignedHead { head, signature: made.signature, public_key: made.public_key, tree: Some(tree) };
            let saved = store.save_head(&signed_head).await;
            log.write(vec![made.due], Vec::new()).await?;
            saved?;
            signed.send_replace(size);
            Ok(())
        }
    }
}
