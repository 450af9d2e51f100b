//! PKCS#11 modules, each loaded and initialized once for the whole process.
//!
//! `C_Initialize` and login state belong to the process (PKCS#11 v3.1 §5.4), so this is the one place here with
//! process-wide state. A module is never unloaded: code it registered to run at exit must still be there.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki_sys::{CKR_ARGUMENTS_BAD, CKR_CRYPTOKI_ALREADY_INITIALIZED};

use super::ckr;
use super::raw::Functions;
use crate::{CallTally, HsmError};

/// A loaded module.
pub(super) struct Module {
    pub(super) path: PathBuf,
    pub(super) pkcs11: Pkcs11,
    pub(super) functions: Functions,
    lookups: Mutex<()>,
}

struct Entry {
    module: Arc<Module>,
    /// While there is one, the module is initialized.
    users: usize,
    /// What it was initialized with.
    arguments: Option<CString>,
}

impl Module {
    /// Held by whoever looks for keys by label or makes copies of them. SoftHSM builds a copy attribute by attribute, and
    /// while it does, a search in another thread finds the session copy marked as a resident object: one label would
    /// answer twice.
    pub(super) fn lookups(&self) -> MutexGuard<'_, ()> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static MODULES: Mutex<BTreeMap<PathBuf, Entry>> = Mutex::new(BTreeMap::new());

/// A use of an initialized module; the last one to go finalizes it.
pub(super) struct ModuleUse(Option<Arc<Module>>);

impl ModuleUse {
    /// Loads the module and initializes it with these arguments, or shares it when this process already did. Counts the
    /// calls it makes.
    pub(super) fn acquire(path: &Path, arguments: Option<&str>, calls: &mut CallTally) -> Result<Self, HsmError> {
        let refused = |cause: String| HsmError::Module { path: path.display().to_string(), cause };
        let arguments = arguments.map(CString::new).transpose();
        let arguments = arguments.map_err(|_| refused("its arguments have a NUL in them".to_owned()))?;
        let path = path.canonicalize().map_err(|cause| refused(cause.to_string()))?;
        let mut modules = modules();
        let entry = match modules.entry(path.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(unknown) => {
                unknown.insert(Entry { module: Arc::new(load(&path, calls)?), users: 0, arguments: None })
            }
        };
        if entry.users == 0 {
            calls.count("C_Initialize");
            initialize(&entry.module, arguments.as_ref()).map_err(|error| match error {
                HsmError::Pkcs11 { code: CKR_CRYPTOKI_ALREADY_INITIALIZED, .. } => {
                    refused("other code in this process has initialized it and would share its login".to_owned())
                }
                HsmError::Pkcs11 { code: CKR_ARGUMENTS_BAD, .. } => match &arguments {
                    None => refused(format!("{error}: it may need arguments (hsm.module_arguments)")),
                    Some(_) => refused(format!("{error}: it does not take these arguments (hsm.module_arguments)")),
                },
                other => other,
            })?;
            entry.arguments = arguments;
        } else if entry.arguments != arguments {
            return Err(refused("it is in use in this process with other arguments".to_owned()));
        }
        entry.users += 1;
        Ok(Self(Some(Arc::clone(&entry.module))))
    }

    /// Gives the module up; the calls that took are added to `calls`.
    pub(super) fn release(mut self, calls: &mut CallTally) -> Result<(), HsmError> {
        self.give_up(calls)
    }

    fn give_up(&mut self, calls: &mut CallTally) -> Result<(), HsmError> {
        let Some(module) = self.0.take() else { return Ok(()) };
        // Held until C_Finalize has returned, so that nobody initializes in between.
        let mut modules = modules();
        let Some(entry) = modules.get_mut(&module.path) else { return Ok(()) };
        entry.users -= 1;
        if entry.users > 0 {
            return Ok(());
        }
        calls.count("C_Finalize");
        module.pkcs11.clone().finalize().map_err(|cause| ckr::of_cryptoki("C_Finalize", cause))
    }
}

impl Deref for ModuleUse {
    type Target = Module;

    fn deref(&self) -> &Module {
        self.0.as_deref().expect("emptied only by giving it up, which consumes it")
    }
}

impl Drop for ModuleUse {
    fn drop(&mut self) {
        if let Err(cause) = self.give_up(&mut CallTally::default()) {
            tracing::warn!(%cause, "the PKCS#11 module did not shut down in order");
        }
    }
}

fn initialize(module: &Module, arguments: Option<&CString>) -> Result<(), HsmError> {
    match arguments {
        Some(text) => module.functions.initialize(text),
        None => {
            let plain = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
            module.pkcs11.initialize(plain).map_err(|cause| ckr::of_cryptoki("C_Initialize", cause))
        }
    }
}

fn load(path: &Path, calls: &mut CallTally) -> Result<Module, HsmError> {
    let pkcs11 = Pkcs11::new(path)
        .map_err(|cause| HsmError::Module { path: path.display().to_string(), cause: cause.to_string() })?;
    let functions = Functions::load(path)?;
    calls.count("C_GetFunctionList");
    // cryptoki asks for the newest interface where the module has that function, and for the list where it has not or
    // the interface is older than 3.0; its own table then shows no such function.
    if functions.has_interfaces() {
        calls.count("C_GetInterface");
    }
    if !pkcs11.is_fn_supported(Function::GetInterface) {
        calls.count("C_GetFunctionList");
    }
    Ok(Module { path: path.to_owned(), pkcs11, functions, lookups: Mutex::new(()) })
}

fn modules() -> MutexGuard<'static, BTreeMap<PathBuf, Entry>> {
    // Nothing here can be left half done by a panic, so a poisoned lock is as good as any.
    MODULES.lock().unwrap_or_else(PoisonError::into_inner)
}
