//! The login of this process on a slot: held by a session that does nothing else, made anew when the token was away.
//!
//! Login, handles and session objects die with the token (PKCS#11 v3.1 §5.6). Whoever opens a session asks first
//! whether the login is still held; after an outage the first to ask makes it anew, for everybody.
//!
//! A token that refuses the PIN is not given it again by this process: it counts wrong ones, and locks.

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki_sys::{
    CK_RV, CKR_PIN_EXPIRED, CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_LOCKED,
    CKR_USER_PIN_NOT_INITIALIZED,
};

use super::module::Module;
use super::pin::Pin;
use super::{ckr, slot};
use crate::{CallTally, HsmError};

/// The login, or the want of one.
pub(super) struct Login {
    token_label: String,
    pin: Pin,
    keeper: Option<Keeper>,
    /// What the token said to the PIN, if that was no.
    refused: Option<CK_RV>,
    epoch: Epoch,
}

/// Counts the times there was no login and one was made: all handles of an earlier epoch are dead, and their numbers may
/// have been given out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch(pub(super) u64);

/// Whether the login was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It was.
    Still(Slot),
    /// It had to be made: the slot is not to be trusted yet.
    Anew(Slot),
}

struct Keeper {
    session: Session,
    slot: Slot,
}

impl Login {
    pub(super) fn new(token_label: String, pin: Pin) -> Self {
        Self { token_label, pin, keeper: None, refused: None, epoch: Epoch::default() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Makes sure of the login, and tells the slot the token is in now.
    pub(super) fn hold(&mut self, module: &Module, calls: &mut CallTally) -> Result<Held, HsmError> {
        if let Some(code) = self.refused {
            return Err(ckr::pin_refused(code));
        }
        if let Some(keeper) = self.keeper.as_ref().filter(|keeper| keeper.is_logged_in(calls)) {
            return Ok(Held::Still(keeper.slot));
        }
        self.let_go(calls);
        let slot = slot::find(module, &self.token_label, calls)?;
        calls.count("C_OpenSession");
        let session = module.pkcs11.open_ro_session_no_drop(slot);
        let session = session.map_err(|cause| ckr::of_cryptoki("C_OpenSession", cause))?;
        self.keeper = Some(Keeper { session, slot });
        match self.log_in(calls) {
            Ok(()) => Ok(Held::Anew(slot)),
            Err(error) => {
                self.let_go(calls);
                Err(error)
            }
        }
    }

    /// Closes the keeper: the login ends, unless other sessions hold it.
    pub(super) fn let_go(&mut self, calls: &mut CallTally) {
        if let Some(keeper) = self.keeper.take() {
            calls.count("C_CloseSession");
            if let Err(cause) = keeper.session.close() {
                // As it must be when the token has gone: then there is nothing left to close.
                tracing::debug!(%cause, "the session that held the login did not close");
            }
        }
    }

    fn log_in(&mut self, calls: &mut CallTally) -> Result<(), HsmError> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        calls.count("C_Login");
        match keeper.session.login_with_raw(UserType::User, &self.pin.raw()) {
            Ok(()) => {
                self.epoch.0 += 1;
                Ok(())
            }
            // Another session of this process held it.
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(cause) => match ckr::of_cryptoki("C_Login", cause) {
                HsmError::Pkcs11 { code, .. } if is_about_the_pin(code) => {
                    self.refused = Some(code);
                    tracing::error!(
                        code = format!("{code:#x}"),
                        "the token refused the PIN; it is not tried again before the next start"
                    );
                    Err(ckr::pin_refused(code))
                }
                error => Err(error),
            },
        }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.let_go(&mut CallTally::default());
    }
}

impl Keeper {
    fn is_logged_in(&self, calls: &mut CallTally) -> bool {
        calls.count("C_GetSessionInfo");
        // Whatever is wrong with it, another one is opened in its place.
        let state = self.session.get_session_info().map(|info| info.session_state());
        matches!(state, Ok(SessionState::RoUser | SessionState::RwUser))
    }
}

/// Whether the token said no to the PIN itself; with any other failure it may not even have seen it.
const fn is_about_the_pin(code: CK_RV) -> bool {
    matches!(
        code,
        CKR_PIN_INCORRECT
            | CKR_PIN_INVALID
            | CKR_PIN_LEN_RANGE
            | CKR_PIN_EXPIRED
            | CKR_PIN_LOCKED
            | CKR_USER_PIN_NOT_INITIALIZED
    )
}
