//! The functions themselves: each asks the desk, and then the real module or not.
//!
//! # Safety, for every block below
//! A function gets its arguments from a caller that keeps to PKCS#11, and hands the same ones to the real module's function
//! of the same name, whose contract that is. The real module is loaded once and never unloaded.
#![allow(unsafe_code, reason = "PKCS#11 is a C interface; each block is justified here or where it stands")]
#![allow(non_snake_case, reason = "PKCS#11's own names")]

use std::ffi::c_void;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::{ptr, slice};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM, CK_MECHANISM_INFO,
    CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID,
    CK_SLOT_INFO, CK_TOKEN_INFO, CK_TRUE, CK_ULONG, CK_USER_TYPE, CKR_ARGUMENTS_BAD, CKR_DEVICE_REMOVED,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_OK, CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_NOT_PRESENT,
};

use crate::desk::{Desk, variable_named};
use crate::function::{Function, Reach};
use crate::plan::Fault;

/// Whoever is in the real module holds it for reading; for writing, whoever takes the token out. A real token goes when
/// it likes, but SoftHSM does not survive that its sessions are closed while they are used.
static FLOOR: RwLock<()> = RwLock::new(());

fn step_in() -> RwLockReadGuard<'static, ()> {
    FLOOR.read().unwrap_or_else(PoisonError::into_inner)
}

fn clear_the_floor() -> RwLockWriteGuard<'static, ()> {
    FLOOR.write().unwrap_or_else(PoisonError::into_inner)
}

/// The functions of the real module.
///
/// # Panics
/// When it cannot be loaded: out of a C function that ends the process, as it must.
fn real() -> &'static CK_FUNCTION_LIST {
    static REAL: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    REAL.get_or_init(|| {
        // SAFETY: loading runs the library's initializers; it is the module the test names.
        let library = unsafe { cryptoki_sys::Pkcs11::new(variable_named(crate::REAL)) };
        let library = library.expect("the real module can be loaded");
        let mut list = ptr::null_mut();
        // SAFETY: the argument is a place for a pointer; this function may be called before C_Initialize.
        let code = unsafe { library.C_GetFunctionList(&mut list) };
        assert!(code == CKR_OK && !list.is_null(), "the real module has no functions: {code:#x}");
        // Its code stays.
        std::mem::forget(library);
        // SAFETY: on success it points to the module's static list.
        unsafe { list.read_unaligned() }
    })
}

/// Makes a call, if the real module has the function.
fn call<F>(function: Option<F>, ask: impl FnOnce(F) -> CK_RV) -> CK_RV {
    let _inside = step_in();
    function.map_or(CKR_FUNCTION_NOT_SUPPORTED, ask)
}

/// What the token says when it is not there, after it went.
fn gone(function: Function) -> CK_RV {
    let nobody = clear_the_floor();
    for slot in Desk::here().take_used() {
        if let Some(close_all) = real().C_CloseAllSessions {
            // SAFETY: a number. Nobody is in the real module.
            unsafe { close_all(slot) };
        }
    }
    drop(nobody);
    match function.reach() {
        Reach::Library | Reach::Slot => CKR_TOKEN_NOT_PRESENT,
        Reach::Session | Reach::Bytes => CKR_DEVICE_REMOVED,
    }
}

/// Does what the desk orders with a call: makes it, or not.
fn carry_out(
    function: Function,
    order: Option<Fault>,
    session: Option<CK_SESSION_HANDLE>,
    ask: impl FnOnce() -> CK_RV,
) -> CK_RV {
    match (order, session) {
        (Some(Fault::Error(code)), _) => code,
        (Some(Fault::Gone), _) => gone(function),
        (Some(Fault::Lose), Some(session)) => {
            // SAFETY: a number; this thread is the session's only user.
            call(real().C_CloseSession, |close| unsafe { close(session) });
            CKR_SESSION_HANDLE_INVALID
        }
        (None | Some(Fault::Delay(_) | Fault::Hang | Fault::Lose | Fault::Wrong(_)), _) => ask(),
    }
}

macro_rules! without_session {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        unsafe extern "C" fn $name($($argument: $kind),*) -> CK_RV {
            carry_out(Function::$name, Desk::here().order(Function::$name), None, || {
                // SAFETY: see the module.
                call(real().$name, |function| unsafe { function($($argument),*) })
            })
        }
    )*};
}

macro_rules! on_session {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        unsafe extern "C" fn $name(session: CK_SESSION_HANDLE, $($argument: $kind),*) -> CK_RV {
            carry_out(Function::$name, Desk::here().order(Function::$name), Some(session), || {
                // SAFETY: see the module.
                call(real().$name, |function| unsafe { function(session, $($argument),*) })
            })
        }
    )*};
}

/// All that give bytes take the same arguments.
macro_rules! giving_bytes {
    ($($name:ident)*) => {$(
        unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            input: *mut CK_BYTE,
            input_len: CK_ULONG,
            output: *mut CK_BYTE,
            output_len: *mut CK_ULONG,
        ) -> CK_RV {
            let order = Desk::here().order(Function::$name);
            let code = carry_out(Function::$name, order, Some(session), || {
                // SAFETY: see the module.
                call(real().$name, |function| unsafe { function(session, input, input_len, output, output_len) })
            });
            if let Some(Fault::Wrong(byte)) = order
                && code == CKR_OK
                && !output.is_null()
            {
                // SAFETY: on success the output holds as many bytes as the place for its length says.
                let given = unsafe { slice::from_raw_parts_mut(output, length(output_len.read_unaligned())) };
                if let Some(byte) = given.get_mut(byte) {
                    *byte ^= 1;
                }
            }
            code
        }
    )*};
}

fn length(len: CK_ULONG) -> usize {
    usize::try_from(len).expect("a length in memory")
}

without_session! {
    C_Initialize(arguments: *mut c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
}

on_session! {
    C_CloseSession();
    C_GetSessionInfo(info: *mut CK_SESSION_INFO);
    C_Login(user: CK_USER_TYPE, pin: *mut CK_BYTE, len: CK_ULONG);
    C_Logout();
    C_CreateObject(template: *mut CK_ATTRIBUTE, count: CK_ULONG, made: *mut CK_OBJECT_HANDLE);
    C_CopyObject(
        object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, made: *mut CK_OBJECT_HANDLE
    );
    C_DestroyObject(object: CK_OBJECT_HANDLE);
    C_GetAttributeValue(object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit(template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(found: *mut CK_OBJECT_HANDLE, room: CK_ULONG, count: *mut CK_ULONG);
    C_FindObjectsFinal();
    C_EncryptInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_DecryptInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_SignInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_VerifyInit(mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Verify(message: *mut CK_BYTE, message_len: CK_ULONG, mac: *mut CK_BYTE, mac_len: CK_ULONG);
    C_GenerateKey(
        mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, made: *mut CK_OBJECT_HANDLE
    );
    C_GenerateKeyPair(
        mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG,
        private: *mut CK_ATTRIBUTE, private_count: CK_ULONG,
        made_public: *mut CK_OBJECT_HANDLE, made_private: *mut CK_OBJECT_HANDLE
    );
    C_WrapKey(
        mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE, len: *mut CK_ULONG
    );
    C_UnwrapKey(
        mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, len: CK_ULONG,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, made: *mut CK_OBJECT_HANDLE
    );
    C_DeriveKey(
        mechanism: *mut CK_MECHANISM, base: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        made: *mut CK_OBJECT_HANDLE
    );
    C_GenerateRandom(random: *mut CK_BYTE, len: CK_ULONG);
}

giving_bytes! { C_Encrypt C_Decrypt C_Sign }

/// A module whose token is out still lists its slot, among those without one.
unsafe extern "C" fn C_GetSlotList(with_token: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    let function = Function::C_GetSlotList;
    let order = Desk::here().order(function);
    if order == Some(Fault::Gone) && with_token == CK_TRUE {
        gone(function);
        // SAFETY: a place for a number.
        unsafe { count.write_unaligned(0) };
        return CKR_OK;
    }
    let order = order.filter(|order| *order != Fault::Gone);
    carry_out(function, order, None, || {
        // SAFETY: see the module.
        call(real().C_GetSlotList, |function| unsafe { function(with_token, list, count) })
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let function = Function::C_OpenSession;
    carry_out(function, Desk::here().order(function), None, || {
        call(real().C_OpenSession, |function| {
            Desk::here().uses(slot);
            // SAFETY: see the module.
            unsafe { function(slot, flags, application, notify, session) }
        })
    })
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    let function = Function::C_Finalize;
    let code = carry_out(function, Desk::here().order(function), None, || {
        // SAFETY: see the module.
        call(real().C_Finalize, |function| unsafe { function(reserved) })
    });
    Desk::here().sum_up();
    code
}

macro_rules! in_place_of_its_own {
    ($list:ident: $($name:ident)*) => { $($list.$name = Some($name);)* };
}

/// What a server finds first: the real module's functions, with ours in place of some.
#[unsafe(no_mangle)]
unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    static LIST: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
    // Counted as any other; there is nothing to go wrong with it.
    Desk::here().order(Function::C_GetFunctionList);
    let functions = LIST.get_or_init(|| {
        let mut functions = *real();
        in_place_of_its_own! { functions:
            C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotInfo C_GetSlotList C_GetTokenInfo
            C_GetMechanismList C_GetMechanismInfo C_OpenSession C_CloseSession C_GetSessionInfo C_Login C_Logout
            C_CreateObject C_CopyObject C_DestroyObject C_GetAttributeValue C_FindObjectsInit C_FindObjects
            C_FindObjectsFinal C_EncryptInit C_Encrypt C_DecryptInit C_Decrypt C_SignInit C_Sign C_VerifyInit C_Verify
            C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_GenerateRandom
        }
        functions
    });
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: a place for a pointer; what it points to is never written to.
    unsafe { list.write_unaligned(ptr::from_ref(functions).cast_mut()) };
    CKR_OK
}
