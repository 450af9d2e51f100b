//! A PKCS#11 session, the tally of its calls and their time, and the objects it must still destroy.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::CK_SESSION_HANDLE;

use super::login::Epoch;
use super::raw::{Functions, Handle};
use super::slot::OpenSlot;
use crate::{CallTally, HsmError};

/// One session, used by one thread. Its calls are in `raw`.
pub(crate) struct HsmSession {
    /// Emptied by closing only.
    session: Option<cryptoki::session::Session>,
    handle: CK_SESSION_HANDLE,
    slot: Arc<OpenSlot>,
    /// Of the login it was opened in.
    epoch: Epoch,
    calls: RefCell<CallTally>,
    /// Time these calls took in the module.
    spent: Cell<Duration>,
    bin: Bin,
}

/// Handles of objects nobody needs any more, to be destroyed when the work at hand is done.
type Bin = Rc<RefCell<Vec<Handle>>>;

/// A session object that is thrown into the bin when it is let go. Dropping makes no call, so it can happen anywhere;
/// [`HsmSession::sweep`] destroys.
pub(super) struct SessionObject {
    handle: Handle,
    bin: Bin,
}

impl HsmSession {
    /// Of a session that does not close by itself.
    pub(super) fn new(session: cryptoki::session::Session, slot: Arc<OpenSlot>, epoch: Epoch) -> Self {
        let mut calls = CallTally::default();
        calls.count("C_OpenSession");
        let handle = session.handle();
        Self {
            session: Some(session),
            handle,
            slot,
            epoch,
            calls: RefCell::new(calls),
            spent: Cell::default(),
            bin: Bin::default(),
        }
    }

    /// Takes charge of an object.
    pub(super) fn own(&self, handle: Handle) -> SessionObject {
        SessionObject { handle, bin: Rc::clone(&self.bin) }
    }

    /// Destroys what was let go. All of it is tried; the first error is given back.
    pub(super) fn sweep(&self) -> Result<(), HsmError> {
        // Taken out of the cell one by one, since destroying borrows nothing of it.
        let mut outcome = Ok(());
        while let Some(handle) = { self.bin.borrow_mut().pop() } {
            outcome = outcome.and(self.destroy(handle));
        }
        outcome
    }

    /// The calls made since the last time this was asked.
    pub(super) fn take_calls(&self) -> CallTally {
        self.calls.borrow_mut().take()
    }

    pub(super) fn count(&self, function: &'static str) {
        self.calls.borrow_mut().count(function);
    }

    /// The time calls took since the last time this was asked.
    pub(super) fn take_time(&self) -> Duration {
        self.spent.take()
    }

    pub(super) fn spend(&self, time: Duration) {
        self.spent.set(self.spent.get() + time);
    }

    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.slot.module().functions
    }

    pub(super) fn slot(&self) -> &OpenSlot {
        &self.slot
    }

    /// Whether the token was away since this was opened. Then its handles are dead, and their numbers may be another
    /// session's: nothing is asked with them any more.
    pub(super) fn is_stale(&self) -> bool {
        self.slot.epoch() != self.epoch
    }
}

impl Drop for HsmSession {
    fn drop(&mut self) {
        let is_stale = self.is_stale();
        let calls = self.calls.get_mut();
        if let Some(session) = self.session.take()
            && !is_stale
        {
            calls.count("C_CloseSession");
            if let Err(cause) = session.close() {
                tracing::warn!(%cause, "a PKCS#11 session did not close");
            }
        }
        // Whoever uses the slot accounts for what this session can no longer tell.
        self.slot.calls().add(calls);
    }
}

impl Deref for SessionObject {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for SessionObject {
    fn drop(&mut self) {
        self.bin.borrow_mut().push(self.handle);
    }
}
