//! A throw-away SoftHSM token in memory for each test process. A machine without SoftHSM fails the run, and is told what
//! to install.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::{self, Pin, SOFTHSM_MISSING, Slot, SlotConfig, provision};
use warifu_hsm::{BdkSpec, DecryptionMode};

pub(crate) const PIN: &str = "648219";
pub(crate) const SO_PIN: &str = "52718281";

/// The token most tests share.
pub(crate) const SHARED: &str = "shared";
/// Tree nodes kept by a session of it.
pub(crate) const CACHE_NODES: usize = 1200;

/// The module, with SoftHSM pointed at a directory of this process's own, in memory where that is possible.
pub(crate) fn module() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| {
        let module = pkcs11::find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
        point_softhsm_at(directory().path());
        module
    })
}

/// A directory that lives as long as the process. It is removed when the next run of any test process finds nobody
/// using it any more; a static is never dropped.
fn directory() -> &'static TempDir {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let prefix = "warifu-test-slot-";
        let root = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        remove_abandoned(&root, prefix);
        TempDir::with_prefix_in(format!("{prefix}{}-", std::process::id()), root).unwrap()
    })
}

fn remove_abandoned(root: &Path, prefix: &str) {
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            // Another process may be removing it as well.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn point_softhsm_at(directory: &Path) {
    let tokens = directory.join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = directory.join("softhsm2.conf");
    std::fs::write(&configuration, pkcs11::softhsm_configuration(&tokens)).unwrap();
    // SAFETY: done once, before the module is loaded, which is the only C code here that reads the environment; Rust's
    // own readers take the same lock as this writer.
    unsafe { std::env::set_var("SOFTHSM2_CONF", &configuration) };
}

/// The shared token, opened once more: with service keys, and a base derivation key for each scheme, length and mode.
/// Each test has its own [`Slot`]; when the last one of the process goes, the module is finalized, as it must be before
/// the process ends.
pub(crate) fn shared() -> Slot {
    static PROVISIONED: OnceLock<()> = OnceLock::new();
    PROVISIONED.get_or_init(|| {
        let slot = new_slot(SHARED);
        provision::create_service_keys(&slot).unwrap();
        for spec in specs() {
            provision::import_bdk(&slot, &spec, &test_key(&spec)).unwrap();
        }
    });
    Slot::open(config(SHARED)).unwrap()
}

/// Makes a token and opens it.
pub(crate) fn new_slot(label: &str) -> Slot {
    provision::init_token(module(), label, &Pin::copied(SO_PIN), &Pin::copied(PIN)).unwrap();
    Slot::open(config(label)).unwrap()
}

pub(crate) fn config(label: &str) -> SlotConfig {
    SlotConfig {
        module: module().to_owned(),
        token_label: label.to_owned(),
        pin: Pin::copied(PIN),
        cache_nodes: CACHE_NODES,
        accept_non_p2pe: true,
    }
}

pub(crate) fn spec(scheme: Scheme, len: KeyLen, mode: DecryptionMode) -> BdkSpec {
    let name = match scheme {
        Scheme::Aes => format!("aes{}-{}", len.bits(), mode.name()),
        Scheme::Tdes => format!("tdes-{}", mode.name()),
    };
    BdkSpec { id: BdkId::parse(&name).unwrap(), scheme, len, mode, proof: None }
}

/// Every combination that can run.
pub(crate) fn specs() -> Vec<BdkSpec> {
    let mut specs = vec![spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived)];
    for mode in DecryptionMode::ALL {
        specs.extend([KeyLen::K128, KeyLen::K192, KeyLen::K256].map(|len| spec(Scheme::Aes, len, mode)));
    }
    specs
}

/// The public test keys: of X9.24-3:2017 annex B for AES, and the one of X9.24-1 for TDES.
pub(crate) fn test_key(spec: &BdkSpec) -> KeyBytes {
    let key = match spec.scheme {
        Scheme::Aes => "FEDCBA9876543210F1F1F1F1F1F1F1F1FEDCBA9876543210F1F1F1F1F1F1F1F1",
        Scheme::Tdes => "0123456789ABCDEFFEDCBA9876543210",
    };
    KeyBytes::copied(&hex::decode(key).unwrap()[..spec.len.bytes()]).unwrap()
}
