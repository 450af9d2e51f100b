//! A slot: found by its token's label, logged in to, shared by the threads that open sessions on it.
//!
//! It outlives its token: when that was away and is back, whoever opens a session first finds it, logs in anew and has it
//! answer the self-test again, before anybody trusts it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cryptoki::session::Session;
use cryptoki::slot::{SlotInfo, TokenInfo};
use cryptoki_sys::CKO_SECRET_KEY;
use warifu_core::custody::{KeyProof, Purpose};
use warifu_core::kcv::Kcv;
use warifu_core::merchant::BdkId;

use super::hsm::Pkcs11Hsm;
use super::login::{Epoch, Held, Login, User};
use super::mac::MacCheck;
use super::module::{Module, ModuleUse};
use super::pin::Pin;
use super::self_test::{self, Asked};
use super::session::HsmSession;
use super::{ckr, objects, proof};
use crate::doctor::ModuleFacts;
use crate::{BdkSpec, CallTally, Hsm, HsmError, HsmFactory, VaultGeneration, VaultSpec};

/// Which slot to open, and how it is used.
pub struct SlotConfig {
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// A text the module wants when it is initialized; most want none, and refuse one.
    pub module_arguments: Option<String>,
    /// The label of the token in the slot.
    pub token_label: String,
    /// The user's PIN, kept to log in again when the token was away. One the token refuses is not tried again: it may lock
    /// the token (PKCS#11 v3.1 §5.6).
    pub pin: Pin,
    /// Most DUKPT tree nodes one session keeps: object handles or, in `host-derived` mode, keys in memory.
    /// Divided evenly among its base derivation keys.
    pub cache_nodes: usize,
    /// Whether initial keys may leave the slot (`host-derived`), which no P2PE assessment accepts.
    pub accept_non_p2pe: bool,
}

/// An open slot. Cheap to clone; the login lasts while any clone or session does.
#[derive(Clone)]
pub struct Slot(Arc<OpenSlot>);

/// What the clones and sessions of one [`Slot`] share.
pub(super) struct OpenSlot {
    /// It is the process's, and ends with its last session on the token (PKCS#11 v3.1 §5.6.6).
    /// Declared before the module, which must outlive it. Locked while it is made anew: who needs it has to wait for it.
    login: Mutex<Login>,
    /// That of the login, for whoever has a session.
    epoch: AtomicU64,
    /// Asked before the slot is trusted, at first and whenever its token was away.
    questions: Mutex<Vec<Asked>>,
    module: ModuleUse,
    token_label: String,
    cache_nodes: usize,
    accept_non_p2pe: bool,
    /// How it checks MACs, once that was tried.
    mac_check: OnceLock<MacCheck>,
    /// Calls no session accounts for any more, or yet.
    calls: Mutex<CallTally>,
}

impl Slot {
    /// Loads the module, finds the slot, logs in, and has the slot open a known frame.
    ///
    /// # Errors
    /// When the slot cannot be used; the calls made until then are forgotten, see [`Slot::open_counted`].
    pub fn open(config: SlotConfig) -> Result<Self, HsmError> {
        Self::open_counted(config, &mut CallTally::default())
    }

    /// As [`Slot::open`]. Where that fails, `made` tells of all calls made until then, those to leave the module among
    /// them; an open slot tells of its own ([`Slot::take_calls`]).
    ///
    /// # Errors
    /// When the slot cannot be used.
    pub fn open_counted(config: SlotConfig, made: &mut CallTally) -> Result<Self, HsmError> {
        Self::open_with(config, Asked::hardware(), made)
    }

    /// As [`Slot::open_counted`], for whoever examines the slot ([`crate::doctor::examine`]) before it is trusted, or asks
    /// nothing of it but what its answer shows.
    ///
    /// # Errors
    /// When the module, the slot or its login cannot be had.
    pub fn open_untried(config: SlotConfig, made: &mut CallTally) -> Result<Self, HsmError> {
        Self::open_with(config, Vec::new(), made)
    }

    fn open_with(config: SlotConfig, questions: Vec<Asked>, made: &mut CallTally) -> Result<Self, HsmError> {
        let mut calls = CallTally::default();
        let opened = Self::begin_use(config, questions, &mut calls);
        if opened.is_err() {
            made.add(&calls);
        }
        opened
    }

    /// Counts into `calls` what no slot will tell of.
    fn begin_use(config: SlotConfig, questions: Vec<Asked>, calls: &mut CallTally) -> Result<Self, HsmError> {
        let module = ModuleUse::acquire(&config.module, config.module_arguments.as_deref(), calls)?;
        let open = Self(Arc::new(OpenSlot {
            login: Mutex::new(Login::new(config.token_label.clone(), config.pin)),
            epoch: AtomicU64::default(),
            questions: Mutex::new(questions),
            module,
            token_label: config.token_label,
            cache_nodes: config.cache_nodes,
            accept_non_p2pe: config.accept_non_p2pe,
            mac_check: OnceLock::new(),
            calls: Mutex::new(calls.take()),
        }));
        match open.hold() {
            Ok(_) => Ok(open),
            Err(error) => {
                match open.close() {
                    Ok(closing) => calls.add(&closing),
                    Err(cause) => tracing::warn!(%cause, "the slot was not closed in order"),
                }
                Err(error)
            }
        }
    }

    /// Opens a session for one thread, with these base derivation keys: each is looked up, its attributes checked,
    /// and copied to a session object, since every use of a resident object may mean reading it from disk again.
    /// Vault keys are looked up when they are first needed.
    pub fn session(&self, bdks: &[BdkSpec]) -> Result<Pkcs11Hsm, HsmError> {
        self.session_with(bdks, &[])
    }

    /// As [`Slot::session`]; vault keys that these are registered for must be the ones.
    pub fn session_with(&self, bdks: &[BdkSpec], vaults: &[VaultSpec]) -> Result<Pkcs11Hsm, HsmError> {
        Pkcs11Hsm::open(self.plain_session()?, bdks, vaults)
    }

    /// What opens such sessions, to be handed to the threads. From now on the slot is asked, whenever its token was away,
    /// whether it can still do what these keys need.
    pub fn factory(&self, bdks: Vec<BdkSpec>, vaults: Vec<VaultSpec>) -> SlotFactory {
        *self.0.questions.lock().unwrap_or_else(PoisonError::into_inner) = Asked::of(&bdks);
        SlotFactory { slot: self.clone(), bdks, vaults }
    }

    /// What tells a base derivation key in the slot from every other one, and the key check value custodians know, where
    /// the slot shows it. The key is looked up and its attributes checked as for a session.
    pub fn identify(&self, spec: &BdkSpec) -> Result<(KeyProof, Vec<Kcv>), HsmError> {
        let session = self.plain_session()?;
        let lookups = session.slot().module().lookups();
        let bdk = objects::bdk(&session, spec)?;
        drop(lookups);
        let identified = proof::of(&session, &bdk).and_then(|proof| Ok((proof, proof::check_values(&session, &bdk)?)));
        let swept = session.sweep();
        let identity = identified?;
        swept.map(|()| identity)
    }

    /// Whether nothing in the slot has the labels of this key.
    pub fn is_vacant(&self, purpose: Purpose, id: &BdkId) -> Result<bool, HsmError> {
        match purpose {
            Purpose::Bdk => self.are_vacant(&[objects::bdk_label(id), objects::masked_bdk_label(id)]),
            Purpose::Kbpk => self.are_vacant(&[objects::kbpk_label(id)]),
        }
    }

    /// Whether the slot has no vault keys of a generation, not even one of them.
    pub fn is_vault_vacant(&self, generation: VaultGeneration) -> Result<bool, HsmError> {
        let labels = [objects::vault_root_label(generation), objects::fingerprint_label(generation)];
        self.are_vacant(&labels)
    }

    fn are_vacant(&self, labels: &[String]) -> Result<bool, HsmError> {
        let session = self.plain_session()?;
        let _lookups = session.slot().module().lookups();
        for label in labels {
            if objects::lookup(&session, label, CKO_SECRET_KEY)?.0.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The calls made for the slot and not by a session since the last time this was asked: loading, login, the
    /// self-test, and the closing of sessions.
    pub fn take_calls(&self) -> CallTally {
        self.0.calls().take()
    }

    /// Ends the login and finalizes the module, if no other user of it is left. The calls no one has taken yet are
    /// given back, whatever the module says of the last of them. Every session must be gone.
    ///
    /// # Errors
    /// [`HsmError::StillInUse`] while a clone or session lives; the slot then closes with the last of them.
    pub fn close(self) -> Result<CallTally, HsmError> {
        let open = Arc::into_inner(self.0).ok_or(HsmError::StillInUse)?;
        let OpenSlot { login, module, calls, .. } = open;
        let mut calls = calls.into_inner().unwrap_or_else(PoisonError::into_inner);
        login.into_inner().unwrap_or_else(PoisonError::into_inner).let_go(&mut calls);
        if let Err(cause) = module.release(&mut calls) {
            tracing::warn!(%cause, "the PKCS#11 module did not shut down in order");
        }
        Ok(calls)
    }

    /// The label of the token in it.
    pub fn token_label(&self) -> &str {
        &self.0.token_label
    }

    /// A session with no keys looked up yet.
    pub(crate) fn plain_session(&self) -> Result<HsmSession, HsmError> {
        let (slot, epoch) = self.hold()?;
        self.begin(self.0.module.pkcs11.open_ro_session_no_drop(slot), epoch)
    }

    /// A session that may write objects into the slot, for provisioning.
    pub(super) fn writing_session(&self) -> Result<HsmSession, HsmError> {
        let (slot, epoch) = self.hold()?;
        self.begin(self.0.module.pkcs11.open_rw_session_no_drop(slot), epoch)
    }

    /// Makes sure of the login. After an outage it is made anew, and holds only if the slot then passes its self-test.
    fn hold(&self) -> Result<(cryptoki::slot::Slot, Epoch), HsmError> {
        let module = self.0.module();
        let mut login = self.0.login.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = CallTally::default();
        let held = login.hold(module, &mut calls);
        let epoch = login.epoch();
        self.0.epoch.store(epoch.0, Ordering::Release);
        let slot = match held {
            Ok(Held::Still(slot)) => Ok(slot),
            Ok(Held::Anew(slot)) => {
                let session = self.begin(module.pkcs11.open_ro_session_no_drop(slot), epoch);
                let questions = self.0.questions.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let tested = session.and_then(|session| self_test::run(&session, &questions));
                tested.inspect_err(|_| login.let_go(&mut calls)).map(|()| slot)
            }
            Err(error) => Err(error),
        };
        self.0.calls().add(&calls);
        Ok((slot?, epoch))
    }

    /// What module, slot and token say of themselves, and the slot's number.
    pub(crate) fn facts(&self) -> Result<(ModuleFacts, u64, SlotInfo, TokenInfo), HsmError> {
        let (slot, _) = self.hold()?;
        let module = self.0.module();
        let count = |function| self.0.calls().count(function);
        count("C_GetInfo");
        let info = module.pkcs11.get_library_info().map_err(|cause| ckr::of_cryptoki("C_GetInfo", cause))?;
        count("C_GetSlotInfo");
        let slot_info = module.pkcs11.get_slot_info(slot).map_err(|cause| ckr::of_cryptoki("C_GetSlotInfo", cause))?;
        count("C_GetTokenInfo");
        let token = module.pkcs11.get_token_info(slot).map_err(|cause| ckr::of_cryptoki("C_GetTokenInfo", cause))?;
        let facts = ModuleFacts {
            path: module.path.display().to_string(),
            description: info.library_description().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            version: info.library_version().to_string(),
            pkcs11: info.cryptoki_version().to_string(),
        };
        Ok((facts, slot.id(), slot_info, token))
    }

    fn begin(&self, opened: cryptoki::error::Result<Session>, epoch: Epoch) -> Result<HsmSession, HsmError> {
        match opened {
            Ok(session) => Ok(HsmSession::new(session, Arc::clone(&self.0), epoch)),
            Err(cause) => {
                self.0.calls().count("C_OpenSession");
                Err(ckr::of_cryptoki("C_OpenSession", cause))
            }
        }
    }
}

impl OpenSlot {
    pub(super) fn module(&self) -> &Module {
        &self.module
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn cache_nodes(&self) -> usize {
        self.cache_nodes
    }

    pub(super) fn accepts_non_p2pe(&self) -> bool {
        self.accept_non_p2pe
    }

    pub(super) fn mac_check(&self) -> &OnceLock<MacCheck> {
        &self.mac_check
    }

    /// The tally, to count into. A panic elsewhere cannot leave it half written.
    pub(super) fn calls(&self) -> MutexGuard<'_, CallTally> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens sessions on a slot, each with the same keys.
pub struct SlotFactory {
    slot: Slot,
    bdks: Vec<BdkSpec>,
    vaults: Vec<VaultSpec>,
}

impl HsmFactory for SlotFactory {
    fn session(&self) -> Result<Box<dyn Hsm>, HsmError> {
        Ok(Box::new(self.slot.session_with(&self.bdks, &self.vaults)?))
    }

    fn take_calls(&self) -> CallTally {
        self.slot.take_calls()
    }
}

/// The slot whose token has this label.
pub(super) fn find(
    module: &Module,
    token_label: &str,
    calls: &mut CallTally,
) -> Result<cryptoki::slot::Slot, HsmError> {
    let mut found = None;
    for slot in with_token(module, calls)? {
        calls.count("C_GetTokenInfo");
        let token = module.pkcs11.get_token_info(slot).map_err(|cause| ckr::of_cryptoki("C_GetTokenInfo", cause))?;
        if token.token_initialized() && token.label() == token_label {
            if found.is_some() {
                return Err(HsmError::KeyAmbiguous { label: token_label.to_owned() });
            }
            found = Some(slot);
        }
    }
    found.ok_or_else(|| HsmError::SlotMissing { label: token_label.to_owned() })
}

/// The slots with a token in them.
pub(super) fn with_token(module: &Module, calls: &mut CallTally) -> Result<Vec<cryptoki::slot::Slot>, HsmError> {
    let slots = module.functions.slots_with_token(calls)?.into_iter().map(cryptoki::slot::Slot::try_from);
    slots.collect::<Result<_, _>>().map_err(|cause| ckr::of_cryptoki("C_GetSlotList", cause))
}

/// Whether the token in a slot has somebody to log in.
pub(super) fn user(module: &Module, slot: cryptoki::slot::Slot, calls: &mut CallTally) -> Result<User, HsmError> {
    calls.count("C_GetTokenInfo");
    let token = module.pkcs11.get_token_info(slot).map_err(|cause| ckr::of_cryptoki("C_GetTokenInfo", cause))?;
    Ok(if token.login_required() { User::Known } else { User::Nobody })
}
