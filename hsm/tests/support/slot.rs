//! A throw-away SoftHSM slot. A process without SoftHSM fails, and says what to type.

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

/// Points SoftHSM at a directory of this process's own, in memory where that is possible, and finds the module.
pub(crate) fn module() -> &'static Path {
    static MODULE: OnceLock<(PathBuf, TempDir)> = OnceLock::new();
    let (module, _) = MODULE.get_or_init(|| {
        let module = pkcs11::find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
        let memory = Path::new("/dev/shm");
        let directory = match TempDir::with_prefix_in("warifu-slot-", memory) {
            Ok(directory) => directory,
            Err(_) => TempDir::with_prefix("warifu-slot-").unwrap(),
        };
        let tokens = directory.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let configuration = directory.path().join("softhsm2.conf");
        std::fs::write(&configuration, pkcs11::softhsm_configuration(&tokens)).unwrap();
        // SAFETY: set once, before any other thread of this process asks for the module, which is the only C code
        // here that reads the environment; Rust's own readers take the same lock as this writer.
        unsafe { std::env::set_var("SOFTHSM2_CONF", &configuration) };
        (module, directory)
    });
    module
}

/// Makes a token and opens it.
pub(crate) fn new_slot(label: &str, cache_nodes: usize) -> Slot {
    provision::init_token(module(), label, &Pin::copied(SO_PIN), &Pin::copied(PIN)).unwrap();
    Slot::open(config(label, cache_nodes)).unwrap()
}

pub(crate) fn config(label: &str, cache_nodes: usize) -> SlotConfig {
    SlotConfig {
        module: module().to_owned(),
        token_label: label.to_owned(),
        pin: Pin::copied(PIN),
        cache_nodes,
        accept_non_p2pe: true,
    }
}

/// The slot the tests of a process share: service keys, and a base derivation key for each scheme, length and mode.
pub(crate) fn shared() -> &'static Slot {
    static SLOT: OnceLock<Slot> = OnceLock::new();
    SLOT.get_or_init(|| {
        let slot = new_slot("shared", 1000);
        provision::create_service_keys(&slot).unwrap();
        for (spec, key) in bdks() {
            provision::import_bdk(&slot, &spec, &key).unwrap();
        }
        slot
    })
}

pub(crate) fn spec(scheme: Scheme, len: KeyLen, mode: DecryptionMode) -> BdkSpec {
    let name = match scheme {
        Scheme::Aes => format!("aes{}-{}", len.bits(), mode.name()),
        Scheme::Tdes => format!("tdes-{}", mode.name()),
    };
    BdkSpec { id: BdkId::parse(&name).unwrap(), scheme, len, mode }
}

/// Every combination that can run, each with a key of its own made from its name.
pub(crate) fn bdks() -> Vec<(BdkSpec, KeyBytes)> {
    let mut specs = vec![spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived)];
    for mode in DecryptionMode::ALL {
        specs.extend([KeyLen::K128, KeyLen::K192, KeyLen::K256].map(|len| spec(Scheme::Aes, len, mode)));
    }
    specs.into_iter().map(|spec| (spec.clone(), key_of(&spec))).collect()
}

/// A key that is different for every name, and the same in every run.
pub(crate) fn key_of(spec: &BdkSpec) -> KeyBytes {
    let name = spec.id.as_str().as_bytes().iter().cycle();
    KeyBytes::filled(spec.len, |bytes| {
        for (at, (byte, letter)) in bytes.iter_mut().zip(name).enumerate() {
            *byte = letter.wrapping_mul(31).wrapping_add(u8::try_from(at).unwrap() * 7);
        }
    })
}
