//! The calls made on an open session, and the search for slots: the one place with `unsafe`.
//!
//! Why not through cryptoki: it cannot name `CKM_AES_ECB_ENCRYPT_DATA`, asks each output twice (length, then data),
//! returns clear data in vectors nobody wipes, and does not say which calls it made. Here each function is one known
//! sequence of calls, each counted, into buffers the caller owns. Loading, login and the life of a session stay
//! with cryptoki.
//!
//! # Safety, for every block below
//! The function pointer comes from the module's own list, and the module is loaded and initialized while it is in use
//! ([`super::module::ModuleUse`]): so it is while an [`HsmSession`] lives, which also keeps its session open and is used by one thread at a time (it is not `Sync`).
//! Every pointer handed over is made from a borrow that lasts until the call returns, together with its true length;
//! PKCS#11 functions keep no pointer after they return (v3.1 §5.1). Object handles are numbers: one that is wrong or
//! stale is refused by the module (`CKR_OBJECT_HANDLE_INVALID`), so no value of them can break memory safety.
#![allow(unsafe_code, reason = "PKCS#11 is a C interface; each block is justified here and where it stands")]

use std::path::Path;
use std::ptr;
use std::time::Instant;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_FUNCTION_LIST, CK_OBJECT_HANDLE, CK_RV, CK_SLOT_ID,
    CK_TRUE, CK_ULONG, CKR_ATTRIBUTE_SENSITIVE, CKR_BUFFER_TOO_SMALL, CKR_FUNCTION_NOT_SUPPORTED, CKR_GENERAL_ERROR,
    CKR_SESSION_HANDLE_INVALID, CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE,
};

use super::ckr;
use super::mechanism::Mechanism;
use super::session::HsmSession;
use super::template::{Attribute, lend, ulong};
use crate::{CallTally, HsmError};

/// An object's handle, good for one session of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(CK_OBJECT_HANDLE);

/// A module's functions, and the library they lie in.
pub(super) struct Functions {
    list: CK_FUNCTION_LIST,
    /// Keeps the code mapped.
    library: cryptoki_sys::Pkcs11,
}

impl Functions {
    /// Opens a library (once more: the loader counts, and the code is the same) and copies its function list.
    /// Makes one call, `C_GetFunctionList`.
    pub(super) fn load(path: &Path) -> Result<Self, HsmError> {
        let refused = |cause: String| HsmError::Module { path: path.display().to_string(), cause };
        // SAFETY: loading runs the library's initializers; it is the module the operator configured to hold the keys,
        // and cryptoki has loaded it before.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(|cause| refused(cause.to_string()))?;
        let get = library.C_GetFunctionList.as_ref().map_err(|cause| refused(cause.to_string()))?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the argument is a place for a pointer; this function may be called before C_Initialize (§5.4).
        let code = unsafe { get(ptr::from_mut(&mut list)) };
        ckr::check("C_GetFunctionList", code)?;
        if list.is_null() {
            return Err(ckr::error("C_GetFunctionList", CKR_GENERAL_ERROR));
        }
        // SAFETY: on success it points to the module's static list (§5.4), which is read once, unaligned or not.
        let list = unsafe { list.read_unaligned() };
        Ok(Self { list, library })
    }

    /// The slots with a token in them: asked how many there are, which makes a module look, then which. Two calls, and one
    /// more whenever there are more in between. Not through cryptoki, which does not say how many it made.
    pub(super) fn slots_with_token(&self, calls: &mut CallTally) -> Result<Vec<CK_SLOT_ID>, HsmError> {
        const NAME: &str = "C_GetSlotList";
        let function = self.list.C_GetSlotList.ok_or_else(|| ckr::error(NAME, CKR_FUNCTION_NOT_SUPPORTED))?;
        let mut count: CK_ULONG = 0;
        calls.count(NAME);
        // SAFETY: see the module, which is initialized while it is in use; no list, and a place for the number.
        ckr::check(NAME, unsafe { function(CK_TRUE, ptr::null_mut(), ptr::from_mut(&mut count)) })?;
        loop {
            let mut slots = vec![0; at_most(NAME, count, MOST_SLOTS)?];
            calls.count(NAME);
            // SAFETY: as above; places for numbers, and how many there are.
            match unsafe { function(CK_TRUE, slots.as_mut_ptr(), ptr::from_mut(&mut count)) } {
                CKR_BUFFER_TOO_SMALL if count > ulong(slots.len()) => {}
                code => {
                    ckr::check(NAME, code)?;
                    slots.truncate(at_most(NAME, count, slots.len())?);
                    return Ok(slots);
                }
            }
        }
    }

    /// Whether the module has the interface lookup of PKCS#11 3.0.
    pub(super) fn has_interfaces(&self) -> bool {
        self.library.C_GetInterface.is_ok()
    }
}

/// More slots than any module has.
const MOST_SLOTS: usize = 4096;

/// What came of checking a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is right.
    Right,
    /// It is not.
    Wrong,
}

impl HsmSession {
    /// Derives a key of `base`. One call.
    pub(super) fn derive(
        &self,
        mechanism: Mechanism<'_>,
        base: Handle,
        template: &[Attribute<'_>],
    ) -> Result<Handle, HsmError> {
        let mut derived = 0;
        self.call("C_DeriveKey", self.list().C_DeriveKey, |function| {
            mechanism.lend(|mechanism| {
                lend(template, |attributes, count| {
                    let place = ptr::from_mut(&mut derived);
                    // SAFETY: see the module; a mechanism, a template with its count, a place for a handle.
                    unsafe { function(self.handle(), mechanism, base.0, attributes, count, place) }
                })
            })
        })?;
        Ok(Handle(derived))
    }

    /// Checks a MAC or signature. Two calls.
    pub(super) fn verify(
        &self,
        mechanism: Mechanism<'_>,
        key: Handle,
        message: &[u8],
        mac: &[u8],
    ) -> Result<Verdict, HsmError> {
        self.call("C_VerifyInit", self.list().C_VerifyInit, |function| {
            // SAFETY: see the module; a mechanism.
            mechanism.lend(|mechanism| unsafe { function(self.handle(), mechanism, key.0) })
        })?;
        let verified = self.call("C_Verify", self.list().C_Verify, |function| {
            let (message_start, mac_start) = (message.as_ptr().cast_mut(), mac.as_ptr().cast_mut());
            // SAFETY: see the module; two inputs with their lengths, which C_Verify only reads.
            unsafe { function(self.handle(), message_start, ulong(message.len()), mac_start, ulong(mac.len())) }
        });
        match verified {
            Ok(()) => Ok(Verdict::Right),
            Err(HsmError::Pkcs11 { code: CKR_SIGNATURE_INVALID | CKR_SIGNATURE_LEN_RANGE, .. }) => Ok(Verdict::Wrong),
            Err(other) => Err(other),
        }
    }

    /// Makes a MAC or signature that fills `out` exactly. Two calls.
    pub(super) fn sign(
        &self,
        mechanism: Mechanism<'_>,
        key: Handle,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<(), HsmError> {
        self.call("C_SignInit", self.list().C_SignInit, |function| {
            // SAFETY: see the module; a mechanism.
            mechanism.lend(|mechanism| unsafe { function(self.handle(), mechanism, key.0) })
        })?;
        let mut len = ulong(out.len());
        self.call("C_Sign", self.list().C_Sign, |function| {
            let (input, output) = (message.as_ptr().cast_mut(), out.as_mut_ptr());
            // SAFETY: see the module; an input with its length, an output with its room.
            unsafe { function(self.handle(), input, ulong(message.len()), output, ptr::from_mut(&mut len)) }
        })?;
        filled("C_Sign", len, out.len())
    }

    /// Encrypts into `out`, which it fills exactly. Two calls.
    pub(super) fn encrypt(
        &self,
        mechanism: Mechanism<'_>,
        key: Handle,
        clear: &[u8],
        out: &mut [u8],
    ) -> Result<(), HsmError> {
        self.call("C_EncryptInit", self.list().C_EncryptInit, |function| {
            // SAFETY: see the module; a mechanism.
            mechanism.lend(|mechanism| unsafe { function(self.handle(), mechanism, key.0) })
        })?;
        let mut len = ulong(out.len());
        self.call("C_Encrypt", self.list().C_Encrypt, |function| {
            let (input, output) = (clear.as_ptr().cast_mut(), out.as_mut_ptr());
            // SAFETY: see the module; an input with its length, an output with its room.
            unsafe { function(self.handle(), input, ulong(clear.len()), output, ptr::from_mut(&mut len)) }
        })?;
        filled("C_Encrypt", len, out.len())
    }

    /// Decrypts into `out`, and says how many bytes that gave. Two calls: the room is known beforehand.
    pub(super) fn decrypt(
        &self,
        mechanism: Mechanism<'_>,
        key: Handle,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, HsmError> {
        self.call("C_DecryptInit", self.list().C_DecryptInit, |function| {
            // SAFETY: see the module; a mechanism.
            mechanism.lend(|mechanism| unsafe { function(self.handle(), mechanism, key.0) })
        })?;
        let mut len = ulong(out.len());
        self.call("C_Decrypt", self.list().C_Decrypt, |function| {
            let (input, output) = (sealed.as_ptr().cast_mut(), out.as_mut_ptr());
            // SAFETY: see the module; an input with its length, an output with its room.
            unsafe { function(self.handle(), input, ulong(sealed.len()), output, ptr::from_mut(&mut len)) }
        })?;
        at_most("C_Decrypt", len, out.len())
    }

    /// Makes a secret key in the slot. One call.
    pub(super) fn generate_key(
        &self,
        mechanism: Mechanism<'_>,
        template: &[Attribute<'_>],
    ) -> Result<Handle, HsmError> {
        let mut made = 0;
        self.call("C_GenerateKey", self.list().C_GenerateKey, |function| {
            mechanism.lend(|mechanism| {
                lend(template, |attributes, count| {
                    // SAFETY: see the module; a mechanism, a template with its count, a place for a handle.
                    unsafe { function(self.handle(), mechanism, attributes, count, ptr::from_mut(&mut made)) }
                })
            })
        })?;
        Ok(Handle(made))
    }

    /// Makes a key pair in the slot: public, private. One call.
    pub(super) fn generate_key_pair(
        &self,
        mechanism: Mechanism<'_>,
        public: &[Attribute<'_>],
        private: &[Attribute<'_>],
    ) -> Result<(Handle, Handle), HsmError> {
        let (mut public_handle, mut private_handle) = (0, 0);
        self.call("C_GenerateKeyPair", self.list().C_GenerateKeyPair, |function| {
            mechanism.lend(|mechanism| {
                lend(public, |public, public_count| {
                    lend(private, |private, private_count| {
                        let places = (ptr::from_mut(&mut public_handle), ptr::from_mut(&mut private_handle));
                        let session = self.handle();
                        // SAFETY: see the module; a mechanism, two templates with their counts, two places.
                        unsafe {
                            function(
                                session,
                                mechanism,
                                public,
                                public_count,
                                private,
                                private_count,
                                places.0,
                                places.1,
                            )
                        }
                    })
                })
            })
        })?;
        Ok((Handle(public_handle), Handle(private_handle)))
    }

    /// Wraps `key` into `out`, which it fills exactly. One call.
    pub(super) fn wrap(
        &self,
        mechanism: Mechanism<'_>,
        wrapping: Handle,
        key: Handle,
        out: &mut [u8],
    ) -> Result<(), HsmError> {
        let mut len = ulong(out.len());
        self.call("C_WrapKey", self.list().C_WrapKey, |function| {
            mechanism.lend(|mechanism| {
                let place = ptr::from_mut(&mut len);
                // SAFETY: see the module; a mechanism, an output with its room.
                unsafe { function(self.handle(), mechanism, wrapping.0, key.0, out.as_mut_ptr(), place) }
            })
        })?;
        filled("C_WrapKey", len, out.len())
    }

    /// Unwraps a key into the slot. One call.
    pub(super) fn unwrap(
        &self,
        mechanism: Mechanism<'_>,
        unwrapping: Handle,
        wrapped: &[u8],
        template: &[Attribute<'_>],
    ) -> Result<Handle, HsmError> {
        let mut unwrapped = 0;
        self.call("C_UnwrapKey", self.list().C_UnwrapKey, |function| {
            mechanism.lend(|mechanism| {
                lend(template, |attributes, count| {
                    let (input, len) = (wrapped.as_ptr().cast_mut(), ulong(wrapped.len()));
                    let place = ptr::from_mut(&mut unwrapped);
                    // SAFETY: see the module; an input with its length, a template with its count, a place.
                    unsafe { function(self.handle(), mechanism, unwrapping.0, input, len, attributes, count, place) }
                })
            })
        })?;
        Ok(Handle(unwrapped))
    }

    /// Makes an object of a template. One call.
    pub(super) fn create(&self, template: &[Attribute<'_>]) -> Result<Handle, HsmError> {
        let mut made = 0;
        self.call("C_CreateObject", self.list().C_CreateObject, |function| {
            lend(template, |attributes, count| {
                // SAFETY: see the module; a template with its count, a place for a handle.
                unsafe { function(self.handle(), attributes, count, ptr::from_mut(&mut made)) }
            })
        })?;
        Ok(Handle(made))
    }

    /// Copies an object, with what the template changes. One call.
    pub(super) fn copy(&self, object: Handle, template: &[Attribute<'_>]) -> Result<Handle, HsmError> {
        let mut copy = 0;
        self.call("C_CopyObject", self.list().C_CopyObject, |function| {
            lend(template, |attributes, count| {
                // SAFETY: see the module; a template with its count, a place for a handle.
                unsafe { function(self.handle(), object.0, attributes, count, ptr::from_mut(&mut copy)) }
            })
        })?;
        Ok(Handle(copy))
    }

    /// Destroys an object. One call.
    pub(super) fn destroy(&self, object: Handle) -> Result<(), HsmError> {
        self.call("C_DestroyObject", self.list().C_DestroyObject, |function| {
            // SAFETY: see the module; two numbers.
            unsafe { function(self.handle(), object.0) }
        })
    }

    /// The first two objects that fit a template: one, none, or too many. Three calls.
    pub(super) fn find_two(&self, template: &[Attribute<'_>]) -> Result<(Option<Handle>, Option<Handle>), HsmError> {
        self.call("C_FindObjectsInit", self.list().C_FindObjectsInit, |function| {
            lend(template, |attributes, count| {
                // SAFETY: see the module; a template with its count.
                unsafe { function(self.handle(), attributes, count) }
            })
        })?;
        let mut found = [0; 2];
        let mut count: CK_ULONG = 0;
        let searched = self.call("C_FindObjects", self.list().C_FindObjects, |function| {
            let (places, room) = (found.as_mut_ptr(), ulong(found.len()));
            // SAFETY: see the module; places for handles with their number, a place for the count.
            unsafe { function(self.handle(), places, room, ptr::from_mut(&mut count)) }
        });
        // A search left open would make every later one fail, so it is ended whatever came of it.
        let ended = self.call("C_FindObjectsFinal", self.list().C_FindObjectsFinal, |function| {
            // SAFETY: see the module; a number.
            unsafe { function(self.handle()) }
        });
        searched.and(ended)?;
        let [first, second] = found.map(Handle);
        Ok(((count > 0).then_some(first), (count > 1).then_some(second)))
    }

    /// Reads flags of an object. One call.
    pub(super) fn flags<const N: usize>(
        &self,
        object: Handle,
        kinds: [CK_ATTRIBUTE_TYPE; N],
    ) -> Result<[bool; N], HsmError> {
        let mut values: [CK_BBOOL; N] = [CK_FALSE; N];
        let mut attributes: [CK_ATTRIBUTE; N] = [CK_ATTRIBUTE::default(); N];
        for ((attribute, kind), value) in attributes.iter_mut().zip(kinds).zip(&mut values) {
            *attribute = CK_ATTRIBUTE {
                type_: kind,
                pValue: ptr::from_mut(value).cast(),
                ulValueLen: ulong(size_of::<CK_BBOOL>()),
            };
        }
        self.attributes(object, &mut attributes)?;
        // A place the module left alone must not read as "no".
        attributes.iter().try_for_each(|read| filled("C_GetAttributeValue", read.ulValueLen, size_of::<CK_BBOOL>()))?;
        Ok(values.map(|value| value != CK_FALSE))
    }

    /// Reads a number of an object. One call.
    pub(super) fn number(&self, object: Handle, kind: CK_ATTRIBUTE_TYPE) -> Result<CK_ULONG, HsmError> {
        let mut value: CK_ULONG = 0;
        let pointer = ptr::from_mut(&mut value).cast();
        let mut attributes = [CK_ATTRIBUTE { type_: kind, pValue: pointer, ulValueLen: ulong(size_of::<CK_ULONG>()) }];
        self.attributes(object, &mut attributes)?;
        let [read] = attributes;
        filled("C_GetAttributeValue", read.ulValueLen, size_of::<CK_ULONG>())?;
        Ok(value)
    }

    /// Reads bytes of an object into `out`, and says how many there were. One call.
    pub(super) fn bytes(&self, object: Handle, kind: CK_ATTRIBUTE_TYPE, out: &mut [u8]) -> Result<usize, HsmError> {
        let mut attributes =
            [CK_ATTRIBUTE { type_: kind, pValue: out.as_mut_ptr().cast(), ulValueLen: ulong(out.len()) }];
        self.attributes(object, &mut attributes)?;
        let [read] = attributes;
        at_most("C_GetAttributeValue", read.ulValueLen, out.len())
    }

    /// Fills a buffer from the slot's generator. One call.
    pub(super) fn generate_random(&self, out: &mut [u8]) -> Result<(), HsmError> {
        self.call("C_GenerateRandom", self.list().C_GenerateRandom, |function| {
            // SAFETY: see the module; an output with its length.
            unsafe { function(self.handle(), out.as_mut_ptr(), ulong(out.len())) }
        })
    }

    /// One call; the places the attributes point to are the caller's, and live.
    fn attributes(&self, object: Handle, attributes: &mut [CK_ATTRIBUTE]) -> Result<(), HsmError> {
        self.call("C_GetAttributeValue", self.list().C_GetAttributeValue, |function| {
            // SAFETY: see the module; every attribute points to a place of the length it states, borrowed by the
            // three callers above, the only ones.
            unsafe { function(self.handle(), object.0, attributes.as_mut_ptr(), ulong(attributes.len())) }
        })
    }

    fn list(&self) -> &CK_FUNCTION_LIST {
        &self.functions().list
    }

    /// Counts a call, makes it and takes its time, if the module has the function and the session is not one of before an
    /// outage.
    fn call<F>(&self, name: &'static str, function: Option<F>, ask: impl FnOnce(F) -> CK_RV) -> Result<(), HsmError> {
        let function = function.ok_or_else(|| ckr::error(name, CKR_FUNCTION_NOT_SUPPORTED))?;
        if self.is_stale() {
            return Err(ckr::error(name, CKR_SESSION_HANDLE_INVALID));
        }
        self.count(name);
        let begun = Instant::now();
        let answer = ask(function);
        self.spend(begun.elapsed());
        ckr::check(name, answer)
    }
}

/// How much the module wrote; more than there was room for would be a fault of the module.
fn at_most(function: &'static str, len: CK_ULONG, room: usize) -> Result<usize, HsmError> {
    match usize::try_from(len) {
        Ok(len) if len <= room => Ok(len),
        // C_GetAttributeValue marks what it will not tell with the largest number.
        _ if len == CK_ULONG::MAX => Err(ckr::error(function, CKR_ATTRIBUTE_SENSITIVE)),
        _ => Err(ckr::error(function, CKR_BUFFER_TOO_SMALL)),
    }
}

/// The module must have written all of it: a shorter answer would leave zeros where a MAC or key is expected.
fn filled(function: &'static str, len: CK_ULONG, room: usize) -> Result<(), HsmError> {
    if at_most(function, len, room)? == room { Ok(()) } else { Err(ckr::error(function, CKR_GENERAL_ERROR)) }
}
