//! Attribute templates: what an object is, and the few things it may be used for.
//!
//! Every use a template does not name is switched off in it, because what a module assumes for a missing flag is its
//! own choice (PKCS#11 v3.1 §4.8), and SoftHSM assumes "yes".

use std::ffi::c_void;
use std::marker::PhantomData;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_FALSE, CK_KEY_TYPE, CK_OBJECT_CLASS, CK_TRUE, CK_ULONG, CKA_CLASS,
    CKA_DECRYPT, CKA_DERIVE, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_LABEL, CKA_PRIVATE, CKA_SENSITIVE,
    CKA_SIGN, CKA_TOKEN, CKA_UNWRAP, CKA_VALUE_LEN, CKA_VERIFY, CKA_WRAP, CKK_AES, CKO_SECRET_KEY,
};
use warifu_core::key::KeyLen;

/// One attribute: its type and value, borrowed for as long as a call lasts.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    kind: CK_ATTRIBUTE_TYPE,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Flag(CK_BBOOL),
    Number(CK_ULONG),
    Numbers(&'a [CK_ULONG]),
    Bytes(&'a [u8]),
    Template(&'a Nested<'a>),
}

/// A template that is the value of an attribute, such as `CKA_DERIVE_TEMPLATE`.
pub(super) struct Nested<'a> {
    attributes: Vec<CK_ATTRIBUTE>,
    /// What they point to.
    of: PhantomData<&'a [Attribute<'a>]>,
}

impl<'a> Nested<'a> {
    pub(super) fn of(attributes: &'a [Attribute<'a>]) -> Self {
        Self { attributes: attributes.iter().map(Attribute::as_ck).collect(), of: PhantomData }
    }
}

/// Most attributes of a template here.
const MAX: usize = 20;

/// The flags that say what a secret key may be used for.
pub(super) const USES: [CK_ATTRIBUTE_TYPE; 7] =
    [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];

/// Whether a key's bytes can ever leave the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Sensitive, not extractable.
    Never,
    /// Sensitive, extractable: leaves the slot wrapped only.
    Wrapped,
    /// Not sensitive, extractable: its value can be read. For the one key a weaker mode gives to the host.
    Readable,
}

/// Whether an object outlives its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Dies with the session.
    Session,
    /// Stays in the slot.
    Token,
}

impl<'a> Attribute<'a> {
    pub(super) const fn flag(kind: CK_ATTRIBUTE_TYPE, on: bool) -> Self {
        Self { kind, value: Value::Flag(if on { CK_TRUE } else { CK_FALSE }) }
    }

    pub(super) const fn number(kind: CK_ATTRIBUTE_TYPE, number: CK_ULONG) -> Self {
        Self { kind, value: Value::Number(number) }
    }

    pub(super) const fn bytes(kind: CK_ATTRIBUTE_TYPE, bytes: &'a [u8]) -> Self {
        Self { kind, value: Value::Bytes(bytes) }
    }

    pub(super) const fn numbers(kind: CK_ATTRIBUTE_TYPE, numbers: &'a [CK_ULONG]) -> Self {
        Self { kind, value: Value::Numbers(numbers) }
    }

    pub(super) const fn template(kind: CK_ATTRIBUTE_TYPE, template: &'a Nested<'a>) -> Self {
        Self { kind, value: Value::Template(template) }
    }

    pub(super) const fn label(label: &'a str) -> Self {
        Self::bytes(CKA_LABEL, label.as_bytes())
    }

    pub(super) const fn class(class: CK_OBJECT_CLASS) -> Self {
        Self::number(CKA_CLASS, class)
    }

    fn as_ck(&self) -> CK_ATTRIBUTE {
        let (start, len): (*const c_void, usize) = match &self.value {
            Value::Flag(flag) => (std::ptr::from_ref(flag).cast(), size_of::<CK_BBOOL>()),
            Value::Number(number) => (std::ptr::from_ref(number).cast(), size_of::<CK_ULONG>()),
            Value::Numbers(numbers) => (numbers.as_ptr().cast(), size_of_val(*numbers)),
            Value::Bytes(bytes) => (bytes.as_ptr().cast(), bytes.len()),
            Value::Template(nested) => (nested.attributes.as_ptr().cast(), size_of_val(nested.attributes.as_slice())),
        };
        // PKCS#11 has no const: templates that go in are declared mutable, and are not written to.
        CK_ATTRIBUTE { type_: self.kind, pValue: start.cast_mut(), ulValueLen: ulong(len) }
    }
}

/// A length as PKCS#11 counts.
pub(super) fn ulong(len: usize) -> CK_ULONG {
    CK_ULONG::try_from(len).expect("a CK_ULONG is as wide as a pointer on every platform with a binding")
}

/// Lends a template in PKCS#11's own form; nothing it points to outlives the call.
pub(super) fn lend<R>(template: &[Attribute<'_>], ask: impl FnOnce(*mut CK_ATTRIBUTE, CK_ULONG) -> R) -> R {
    assert!(template.len() <= MAX, "templates are written here, and none is that long");
    let mut attributes = [CK_ATTRIBUTE::default(); MAX];
    for (place, attribute) in attributes.iter_mut().zip(template) {
        *place = attribute.as_ck();
    }
    ask(attributes.as_mut_ptr(), ulong(template.len()))
}

/// What every secret key here has, apart from its length or value: 13 attributes.
///
/// All are private objects, tree nodes of one session too: SoftHSM, which lives in this process, keeps the values of
/// private objects encrypted and those of others in clear, where a search of memory finds them (`tests/memory.rs`).
pub(super) fn secret_key(
    key_type: CK_KEY_TYPE,
    life: Life,
    exposure: Exposure,
    uses: &[CK_ATTRIBUTE_TYPE],
) -> [Attribute<'static>; 13] {
    let [encrypt, decrypt, sign, verify, wrap, unwrap, derive] =
        USES.map(|kind| Attribute::flag(kind, uses.contains(&kind)));
    [
        Attribute::class(CKO_SECRET_KEY),
        Attribute::number(CKA_KEY_TYPE, key_type),
        Attribute::flag(CKA_TOKEN, life == Life::Token),
        Attribute::flag(CKA_PRIVATE, true),
        Attribute::flag(CKA_SENSITIVE, exposure != Exposure::Readable),
        Attribute::flag(CKA_EXTRACTABLE, exposure != Exposure::Never),
        encrypt,
        decrypt,
        sign,
        verify,
        wrap,
        unwrap,
        derive,
    ]
}

/// An AES session key of a length, to be derived or generated: 14 attributes.
pub(super) fn aes_session_key(len: KeyLen, exposure: Exposure, uses: &[CK_ATTRIBUTE_TYPE]) -> [Attribute<'static>; 14] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m] = secret_key(CKK_AES, Life::Session, exposure, uses);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, Attribute::number(CKA_VALUE_LEN, ulong(len.bytes()))]
}
