//! The names of PKCS#11 return values, and errors that keep them.

use cryptoki::error::{Error, Rv, RvError};
use cryptoki_sys::CK_RV;

use crate::HsmError;

/// The outcome of one call, as an error that names function and value.
pub(super) fn check(function: &'static str, code: CK_RV) -> Result<(), HsmError> {
    if code == cryptoki_sys::CKR_OK { Ok(()) } else { Err(error(function, code)) }
}

/// The error of one call.
pub(super) fn error(function: &'static str, code: CK_RV) -> HsmError {
    HsmError::Pkcs11 { function, ckr: name(code), code }
}

/// The error of a login whose PIN the token refused.
pub(super) fn pin_refused(code: CK_RV) -> HsmError {
    HsmError::PinRefused { ckr: name(code), code }
}

/// The error of a call made through cryptoki, which keeps the value as a variant of its own enum.
pub(super) fn of_cryptoki(function: &'static str, cause: Error) -> HsmError {
    match cause {
        Error::Pkcs11(RvError::VendorDefined(code) | RvError::UnknownErrorCode(code), _) => error(function, code),
        Error::Pkcs11(rv, _) => {
            let known = NAMES.iter().find(|(code, _)| Rv::from(*code) == Rv::Error(rv));
            error(function, known.map_or(cryptoki_sys::CKR_GENERAL_ERROR, |(code, _)| *code))
        }
        Error::NullFunctionPointer | Error::NotSupported | Error::MissingSymbol(_) => {
            error(function, cryptoki_sys::CKR_FUNCTION_NOT_SUPPORTED)
        }
        // What is left is a value from the module that cryptoki cannot read.
        _ => error(function, cryptoki_sys::CKR_GENERAL_ERROR),
    }
}

/// The name PKCS#11 gives to a return value.
fn name(code: CK_RV) -> &'static str {
    match NAMES.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => name,
        None if code >= cryptoki_sys::CKR_VENDOR_DEFINED => "CKR_VENDOR_DEFINED",
        None => "a return value PKCS#11 does not define",
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        const NAMES: &[(CK_RV, &str)] = &[$((cryptoki_sys::$name, stringify!($name))),*];
    };
}

names! {
    CKR_OK CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED CKR_ARGUMENTS_BAD
    CKR_NO_EVENT CKR_NEED_TO_CREATE_THREADS CKR_CANT_LOCK CKR_ATTRIBUTE_READ_ONLY CKR_ATTRIBUTE_SENSITIVE
    CKR_ATTRIBUTE_TYPE_INVALID CKR_ATTRIBUTE_VALUE_INVALID CKR_ACTION_PROHIBITED CKR_DATA_INVALID CKR_DATA_LEN_RANGE
    CKR_DEVICE_ERROR CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE
    CKR_FUNCTION_CANCELED CKR_FUNCTION_NOT_PARALLEL CKR_FUNCTION_NOT_SUPPORTED CKR_CURVE_NOT_SUPPORTED
    CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE CKR_KEY_TYPE_INCONSISTENT CKR_KEY_NOT_NEEDED CKR_KEY_CHANGED
    CKR_KEY_NEEDED CKR_KEY_INDIGESTIBLE CKR_KEY_FUNCTION_NOT_PERMITTED CKR_KEY_NOT_WRAPPABLE CKR_KEY_UNEXTRACTABLE
    CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE
    CKR_OPERATION_NOT_INITIALIZED CKR_PIN_INCORRECT CKR_PIN_INVALID CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED
    CKR_PIN_TOO_WEAK CKR_SESSION_CLOSED CKR_SESSION_COUNT CKR_SESSION_HANDLE_INVALID
    CKR_SESSION_PARALLEL_NOT_SUPPORTED CKR_SESSION_READ_ONLY CKR_SESSION_EXISTS CKR_SESSION_READ_ONLY_EXISTS
    CKR_SESSION_READ_WRITE_SO_EXISTS CKR_SIGNATURE_INVALID CKR_SIGNATURE_LEN_RANGE CKR_TEMPLATE_INCOMPLETE
    CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED CKR_TOKEN_WRITE_PROTECTED
    CKR_UNWRAPPING_KEY_HANDLE_INVALID CKR_UNWRAPPING_KEY_SIZE_RANGE CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT
    CKR_USER_ALREADY_LOGGED_IN CKR_USER_NOT_LOGGED_IN CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN CKR_USER_TOO_MANY_TYPES CKR_WRAPPED_KEY_INVALID CKR_WRAPPED_KEY_LEN_RANGE
    CKR_WRAPPING_KEY_HANDLE_INVALID CKR_WRAPPING_KEY_SIZE_RANGE CKR_WRAPPING_KEY_TYPE_INCONSISTENT
    CKR_RANDOM_SEED_NOT_SUPPORTED CKR_RANDOM_NO_RNG CKR_DOMAIN_PARAMS_INVALID CKR_BUFFER_TOO_SMALL
    CKR_SAVED_STATE_INVALID CKR_INFORMATION_SENSITIVE CKR_STATE_UNSAVEABLE CKR_CRYPTOKI_NOT_INITIALIZED
    CKR_CRYPTOKI_ALREADY_INITIALIZED CKR_MUTEX_BAD CKR_MUTEX_NOT_LOCKED CKR_FUNCTION_REJECTED
    CKR_FIPS_SELF_TEST_FAILED CKR_LIBRARY_LOAD_FAILED CKR_PUBLIC_KEY_INVALID CKR_EXCEEDED_MAX_ITERATIONS
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn an_error_keeps_function_name_and_value() {
        let direct = check("C_Login", cryptoki_sys::CKR_PIN_INCORRECT).unwrap_err();
        let through = of_cryptoki("C_Login", Error::Pkcs11(RvError::PinIncorrect, Function::Login));
        for error in [direct, through] {
            assert_eq!(error.to_string(), "C_Login failed: CKR_PIN_INCORRECT (0x000000A0)");
        }
        assert!(check("C_Sign", cryptoki_sys::CKR_OK).is_ok());
    }

    #[test]
    fn vendor_values_keep_their_number() {
        let code = cryptoki_sys::CKR_VENDOR_DEFINED + 7;
        let error = of_cryptoki("C_Sign", Error::Pkcs11(RvError::VendorDefined(code), Function::Sign));
        assert_eq!(error.to_string(), "C_Sign failed: CKR_VENDOR_DEFINED (0x80000007)");
    }
}
