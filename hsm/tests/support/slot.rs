//! Throw-away tokens in memory for each test process, of each module the tests know. A machine without a module fails the
//! run, and is told what to install.

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
/// Every token a test makes in NSS, which must be told of all of them at once.
const LABELS: [&str; 3] = [SHARED, "guarded", "bare"];
/// Tree nodes kept by a session of it.
pub(crate) const CACHE_NODES: usize = 1200;

/// A module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    /// SoftHSM.
    SoftHsm,
    /// The token of NSS, Mozilla's library.
    Softokn,
}

const SOFTOKN_MISSING: &str = "NSS is not installed. Type: sudo apt-get install libnss3";

/// Where distributions put it.
const SOFTOKN: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
    "/usr/lib/libsoftokn3.so",
];

impl Module {
    /// Its file. Its tokens are in a directory of this process's own, in memory where that is possible.
    pub(crate) fn path(self) -> &'static Path {
        match self {
            Self::SoftHsm => {
                static MODULE: OnceLock<PathBuf> = OnceLock::new();
                MODULE.get_or_init(|| {
                    let module = pkcs11::find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
                    point_softhsm_at(directory().path());
                    module
                })
            }
            Self::Softokn => {
                let found = SOFTOKN.iter().map(Path::new).find(|path| path.is_file());
                found.unwrap_or_else(|| panic!("{SOFTOKN_MISSING}"))
            }
        }
    }

    /// What it is initialized with.
    pub(crate) fn arguments(self) -> Option<String> {
        match self {
            Self::SoftHsm => None,
            Self::Softokn => {
                static ARGUMENTS: OnceLock<String> = OnceLock::new();
                Some(ARGUMENTS.get_or_init(|| softokn_arguments(directory().path())).clone())
            }
        }
    }

    /// The security officer's PIN; NSS knows none.
    pub(crate) fn so_pin(self) -> Pin {
        Pin::copied(match self {
            Self::SoftHsm => SO_PIN,
            Self::Softokn => "",
        })
    }

    pub(crate) fn config(self, label: &str) -> SlotConfig {
        SlotConfig {
            module: self.path().to_owned(),
            module_arguments: self.arguments(),
            token_label: label.to_owned(),
            pin: Pin::copied(PIN),
            cache_nodes: CACHE_NODES,
            accept_non_p2pe: true,
        }
    }

    /// The shared token, opened once more: with service keys, and a base derivation key for each scheme, length and mode.
    /// Each test has its own [`Slot`]; when the last one of the process goes, the module is finalized, as it must be
    /// before the process ends.
    pub(crate) fn shared(self) -> Slot {
        static SOFTHSM: OnceLock<()> = OnceLock::new();
        static SOFTOKN: OnceLock<()> = OnceLock::new();
        let provisioned = match self {
            Self::SoftHsm => &SOFTHSM,
            Self::Softokn => &SOFTOKN,
        };
        provisioned.get_or_init(|| {
            let slot = self.new_slot(SHARED);
            provision::create_service_keys(&slot).unwrap();
            for spec in specs() {
                provision::import_bdk(&slot, &spec, &test_key(&spec)).unwrap();
            }
        });
        Slot::open(self.config(SHARED)).unwrap()
    }

    /// Makes a token and opens it.
    pub(crate) fn new_slot(self, label: &str) -> Slot {
        assert!(self == Self::SoftHsm || LABELS.contains(&label), "{label} is not among the labels");
        let (path, arguments) = (self.path(), self.arguments());
        provision::init_token(path, arguments.as_deref(), label, &self.so_pin(), &Pin::copied(PIN)).unwrap();
        Slot::open(self.config(label)).unwrap()
    }
}

/// The SoftHSM module.
pub(crate) fn module() -> &'static Path {
    Module::SoftHsm.path()
}

/// SoftHSM's shared token.
pub(crate) fn shared() -> Slot {
    Module::SoftHsm.shared()
}

pub(crate) fn config(label: &str) -> SlotConfig {
    Module::SoftHsm.config(label)
}

pub(crate) fn new_slot(label: &str) -> Slot {
    Module::SoftHsm.new_slot(label)
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
    std::fs::create_dir(directory.join("tokens")).unwrap();
    let configuration = directory.join("softhsm2.conf");
    std::fs::write(&configuration, softhsm_configuration(directory)).unwrap();
    // SAFETY: done once, before the module is loaded, which is the only C code here that reads the environment; Rust's
    // own readers take the same lock as this writer.
    unsafe { std::env::set_var("SOFTHSM2_CONF", &configuration) };
}

fn softhsm_configuration(directory: &Path) -> String {
    pkcs11::softhsm_configuration(&directory.join("tokens"))
}

/// Has SoftHSM do without a mechanism from the next time it is initialized.
pub(crate) fn leave_out(mechanism: &str) {
    let directory = directory().path();
    // SoftHSM 2.6.1 overlooks the first and the last of what is to be left out.
    let without = format!("slots.mechanisms = -CKM_MD5,{mechanism},CKM_MD5\n");
    std::fs::write(directory.join("softhsm2.conf"), softhsm_configuration(directory) + &without).unwrap();
}

/// A database for each token, in slots whose numbers NSS leaves to its users.
fn softokn_arguments(directory: &Path) -> String {
    let tokens: Vec<String> = (4..)
        .zip(LABELS)
        .map(|(number, label)| {
            let database = directory.join("nss").join(label);
            std::fs::create_dir_all(&database).unwrap();
            format!("{number:#x}=[configdir='sql:{}' tokenDescription='{label}']", database.display())
        })
        .collect();
    format!("configdir='' flags=noCertDB,noModDB,forceOpen tokens=<{}>", tokens.join(" "))
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
