//! The transcript of a ceremony: who did what when, and check values, signed by the HSM's audit key. Never a value.

use serde::{Deserialize, Serialize};

/// What the first field of every transcript says.
pub(crate) const FORM: &str = "warifu key ceremony 1";

/// The slot combined the components, each as it was typed.
pub(crate) const MADE_OF_COMPONENTS_IN_HSM: &str = "made of components, combined in the HSM";
/// The same, and the components came out of the HSM's generator.
pub(crate) const MADE_OF_DRAWN_IN_HSM: &str = "made of components the HSM drew, combined in the HSM";
/// The components met in this host's memory: few slots can combine them inside.
pub(crate) const MADE_OF_COMPONENTS: &str = "made of components, in locked memory of this host, wiped";
/// The same, and the components came out of the HSM's generator.
pub(crate) const MADE_OF_DRAWN: &str = "made of components the HSM drew, in locked memory of this host, wiped";
/// Nobody ever knew it.
pub(crate) const MADE_IN_HSM: &str = "made in the HSM, known to nobody";
/// It is gone.
pub(crate) const DESTROYED: &str = "destroyed";

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transcript {
    /// [`FORM`].
    pub(crate) form: String,
    /// The program and its version.
    pub(crate) program: String,
    /// The server's instance name.
    pub(crate) instance: String,
    /// `test` or `live`.
    pub(crate) environment: String,
    /// The label of the token that holds the key.
    pub(crate) token: String,
    /// The key's id.
    pub(crate) key: String,
    /// Its scheme.
    pub(crate) scheme: String,
    /// Its length.
    pub(crate) bits: u16,
    /// The one merchant it is for.
    pub(crate) merchant: Option<String>,
    /// What was done: [`MADE_OF_COMPONENTS`] and its like.
    pub(crate) act: String,
    /// The people, in their order.
    pub(crate) custodians: Vec<Part>,
    /// The key's check value, where it is known.
    pub(crate) kcv: Option<String>,
    /// What servers hold the slot to, where there is something.
    pub(crate) proof: Option<String>,
    /// When it began and ended, RFC 3339.
    pub(crate) begun: String,
    /// See `begun`.
    pub(crate) ended: String,
}

/// One person's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// Who.
    pub(crate) custodian: String,
    /// By which certificate.
    pub(crate) certificate_sha256: String,
    /// The check value of the component, if the person had one.
    pub(crate) component_kcv: Option<String>,
    /// When the person had done it.
    pub(crate) at: String,
}

/// A transcript as it lies in its file. The text is signed as it stands, so that no byte of it can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signed {
    /// A [`Transcript`] as JSON.
    pub(crate) transcript: String,
    /// The key that signed it: an uncompressed P-256 point, hex.
    pub(crate) public_key: String,
    /// ECDSA over SHA-256, `r ‖ s`, hex.
    pub(crate) signature: String,
}
