//! Where SoftHSM is, and the configuration of a slot directory of one's own: for development and tests.

use std::path::{Path, PathBuf};

/// Overrides the search.
const MODULE_VARIABLE: &str = "WARIFU_PKCS11_MODULE";

/// Where distributions put it.
const PLACES: [&str; 7] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// What to tell someone who has none.
pub const SOFTHSM_MISSING: &str =
    "SoftHSM is not installed. Type: sudo apt-get install softhsm2   (or set WARIFU_PKCS11_MODULE to a PKCS#11 module)";

/// Finds the SoftHSM module: `WARIFU_PKCS11_MODULE` if it is set, else the places distributions use.
pub fn find_softhsm() -> Option<PathBuf> {
    match std::env::var_os(MODULE_VARIABLE) {
        Some(module) => Some(PathBuf::from(module)).filter(|module| module.is_file()),
        None => PLACES.iter().map(PathBuf::from).find(|module| module.is_file()),
    }
}

/// The text of a SoftHSM configuration that keeps its tokens in `tokens`, a directory that must exist. SoftHSM reads
/// the file named by `SOFTHSM2_CONF` when the module is initialized.
pub fn softhsm_configuration(tokens: &Path) -> String {
    format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        tokens.display()
    )
}
