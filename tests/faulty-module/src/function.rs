//! The functions that go through this module, and what each of them asks.

/// What a function asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The library alone: it answers with or without a token.
    Library,
    /// What is in a slot.
    Slot,
    /// A session, its first argument.
    Session,
    /// A session, and it gives bytes: its last arguments are a place for them and for their number.
    Bytes,
}

macro_rules! functions {
    ($($name:ident $reach:ident),* $(,)?) => {
        /// A function of PKCS#11.
        #[allow(non_camel_case_types, clippy::enum_variant_names, reason = "PKCS#11's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Function {
            $($name),*
        }

        impl Function {
            /// All that go through this module. Every other one is the real module's own.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// What it asks.
            pub(crate) const fn reach(self) -> Reach {
                match self {
                    $(Self::$name => Reach::$reach),*
                }
            }
        }
    };
}

functions! {
    C_Initialize Library, C_Finalize Library, C_GetInfo Library, C_GetFunctionList Library, C_GetSlotInfo Library,
    C_GetSlotList Slot, C_GetTokenInfo Slot, C_GetMechanismList Slot, C_GetMechanismInfo Slot, C_OpenSession Slot,
    C_CloseSession Session, C_GetSessionInfo Session, C_Login Session, C_Logout Session,
    C_CreateObject Session, C_CopyObject Session, C_DestroyObject Session, C_GetAttributeValue Session,
    C_FindObjectsInit Session, C_FindObjects Session, C_FindObjectsFinal Session,
    C_EncryptInit Session, C_Encrypt Bytes, C_DecryptInit Session, C_Decrypt Bytes,
    C_SignInit Session, C_Sign Bytes, C_VerifyInit Session, C_Verify Session,
    C_GenerateKey Session, C_GenerateKeyPair Session, C_WrapKey Session, C_UnwrapKey Session, C_DeriveKey Session,
    C_GenerateRandom Session,
}

impl Function {
    /// The function of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name() == name)
    }
}
