//! The folder of a dev server: SoftHSM's files, certificates, configuration, database. What is there stays.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;
use warifu_core::custody::KeyProof;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::pkcs11::provision::{create_service_keys, import_bdk, init_token};
use warifu_hsm::pkcs11::{Pin, SOFTHSM_MISSING, Slot, SlotConfig, find_softhsm, softhsm_configuration};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, HsmError};

use crate::ca::{Authority, Purpose};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{close_slot, read_pin};

/// The AES test key of X9.24-3: public, so worth nothing.
pub(in crate::commands) const TEST_AES_BDK: [u8; 16] =
    [0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1];
/// The TDES test key of X9.24-1: public, so worth nothing.
pub(super) const TEST_TDES_BDK: [u8; 16] =
    [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10];
/// Their names say what they are.
pub(in crate::commands) const AES_BDK_ID: &str = "TEST-aes-128";
/// As above.
pub(super) const TDES_BDK_ID: &str = "TEST-tdes";
/// The merchant of a dev server.
pub(in crate::commands) const MERCHANT: &str = "demo-shop";
/// Its module.
pub(in crate::commands) const MODULE: &str = "demo-pos";

const TOKEN_LABEL: &str = "warifu-dev";

/// The folder of a dev server.
pub(in crate::commands) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder if it is missing, with SoftHSM's configuration in it.
    pub(in crate::commands) fn open(dir: &Path) -> Result<Self, Failure> {
        let folder = Self(dir.to_owned());
        let make = || -> io::Result<()> {
            for dir in [dir.to_owned(), dir.join("tokens"), folder.pki(), folder.devices()] {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            write_once(&folder.softhsm_config(), &softhsm_configuration(&dir.join("tokens")))
        };
        make().or_exit(Exit::Usage, &format!("make {}", dir.display()))?;
        Ok(folder)
    }

    /// Makes what is missing of certificates, PIN and configuration, and tells where SoftHSM is.
    pub(super) fn provision(&self, store_url: Option<&str>) -> Result<PathBuf, Failure> {
        let module = find_softhsm().ok_or_else(|| Failure::new(Exit::Hsm, SOFTHSM_MISSING))?;
        self.provision_for(&module, store_url)?;
        Ok(module)
    }

    /// As [`Folder::provision`], for a module that is somewhere, or nowhere if no HSM is to be used.
    pub(in crate::commands) fn provision_for(&self, module: &Path, store_url: Option<&str>) -> Result<(), Failure> {
        self.make_certificates()?;
        let store_url = store_url.unwrap_or("sqlite://warifu.db?mode=rwc");
        let write = || -> io::Result<()> {
            write_once(&self.pin(), &format!("{}\n", Uuid::new_v4().simple()))?;
            write_once(&self.config(), &configuration(module, store_url))
        };
        write().or_exit(Exit::Usage, "write the configuration")
    }

    fn make_certificates(&self) -> Result<(), Failure> {
        let (pki, make) = (self.pki(), "make certificates");
        let authority = if pki.join("ca.pem").exists() {
            Authority::load(&pki.join("ca.pem"), &pki.join("ca.key")).or_exit(Exit::Usage, make)?
        } else {
            let authority = Authority::create("warifu DEV authority").or_exit(Exit::Usage, make)?;
            authority.identity().write(&pki, "ca").or_exit(Exit::Usage, make)?;
            authority
        };
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let wanted = [("server", "warifu DEV server", Purpose::Server(names)), (MODULE, MODULE, Purpose::Module)];
        for (file, name, purpose) in wanted {
            if !pki.join(format!("{file}.pem")).exists() {
                let identity = authority.issue(name, &purpose).or_exit(Exit::Usage, make)?;
                identity.write(&pki, file).or_exit(Exit::Usage, make)?;
            }
        }
        Ok(())
    }

    /// Makes the token and keys that are missing, and tells the calls to the HSM that took.
    pub(in crate::commands) fn make_keys(&self, module: &Path) -> Result<CallTally, Failure> {
        let mut calls = CallTally::default();
        let open = || -> Result<Slot, Failure> {
            let config = SlotConfig {
                module: module.to_owned(),
                module_arguments: None,
                token_label: TOKEN_LABEL.to_owned(),
                pin: read_pin(&self.pin())?,
                cache_nodes: 0,
                accept_non_p2pe: true,
            };
            match Slot::open(config) {
                Err(HsmError::SlotMissing { .. }) => Err(Failure::new(Exit::Refused, "no token yet")),
                other => other.or_exit(Exit::Hsm, "open the HSM"),
            }
        };
        let slot = match open() {
            Err(failure) if failure.exit() == Exit::Refused => {
                let so_pin = Pin::copied(&Uuid::new_v4().simple().to_string());
                let made = init_token(module, None, TOKEN_LABEL, &so_pin, &read_pin(&self.pin())?);
                calls.add(&made.or_exit(Exit::Hsm, "make a SoftHSM token")?);
                open()?
            }
            other => other?,
        };
        let made = there(create_service_keys(&slot))
            .and_then(|()| test_bdks().iter().try_for_each(|(spec, key)| there(import_bdk(&slot, spec, key))));
        calls.add(&slot.take_calls());
        calls.add(&close_slot(slot));
        made.or_exit(Exit::Hsm, "make the keys")?;
        Ok(calls)
    }

    /// The folder itself.
    pub(in crate::commands) fn path(&self) -> &Path {
        &self.0
    }

    /// The configuration, for every other command.
    pub(in crate::commands) fn config(&self) -> PathBuf {
        self.0.join("warifu.toml")
    }

    /// SoftHSM's configuration.
    pub(in crate::commands) fn softhsm_config(&self) -> PathBuf {
        self.0.join("softhsm2.conf")
    }

    /// The certificates.
    pub(in crate::commands) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// What belongs to the emulated devices.
    pub(super) fn devices(&self) -> PathBuf {
        self.0.join("devices")
    }

    fn pin(&self) -> PathBuf {
        self.0.join("hsm-pin")
    }
}

/// A key that is there already is what was wanted.
fn there(made: Result<(), HsmError>) -> Result<(), HsmError> {
    match made {
        Err(HsmError::KeyExists { .. }) => Ok(()),
        other => other,
    }
}

pub(in crate::commands) fn test_bdks() -> [(BdkSpec, KeyBytes); 2] {
    let id = |text| BdkId::parse(text).expect("a short plain name");
    let key = |bytes: &[u8; 16]| KeyBytes::filled(KeyLen::K128, |key| key.copy_from_slice(bytes));
    let bdk = |name, scheme, mode, bytes| {
        let key = key(bytes);
        let proof = Some(KeyProof::of(scheme, &key));
        (BdkSpec { id: id(name), scheme, len: KeyLen::K128, mode, proof }, key)
    };
    [
        bdk(AES_BDK_ID, Scheme::Aes, DecryptionMode::Hardware, &TEST_AES_BDK),
        bdk(TDES_BDK_ID, Scheme::Tdes, DecryptionMode::HostDerived, &TEST_TDES_BDK),
    ]
}

fn configuration(module: &Path, store_url: &str) -> String {
    let module = toml::Value::String(module.to_string_lossy().into_owned());
    let store_url = toml::Value::String(store_url.to_owned());
    format!(
        "# Made by `warifu dev`: a DEV server with public TEST keys. Never a real card.

[server]
listen = \"127.0.0.1:7443\"
http_listen = \"127.0.0.1:7480\"
instance = \"dev\"
environment = \"test\"
data_dir = \".\"
reflection = true

[tls]
certificate = \"pki/server.pem\"
key = \"pki/server.key\"
client_ca = \"pki/ca.pem\"

[store]
url = {store_url}

[hsm]
module = {module}
token_label = \"{TOKEN_LABEL}\"
pin_file = \"hsm-pin\"
softhsm_config = \"softhsm2.conf\"
# TDES devices need it; it is not P2PE.
accept_non_p2pe = true

[[bdk]]
id = \"{AES_BDK_ID}\"
scheme = \"aes\"
bits = 128
mode = \"hardware\"

[[bdk]]
id = \"{TDES_BDK_ID}\"
scheme = \"tdes\"
mode = \"host-derived\"

[acquirer]
kind = \"simulator\"
journal = \"acquirer.jsonl\"
"
    )
}

/// Writes a private file unless it is there.
pub(super) fn write_once(file: &Path, text: &str) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Ok(mut out) => out.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
