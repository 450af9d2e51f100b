//! The operator's desk: what a test does with `warifu device`, `merchant`, `module`, `pki`, `audit`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Server, program};

/// What is registered of a device.
pub struct NewDevice<'a> {
    pub id: &'a str,
    pub merchant: &'a str,
    pub scheme: &'a str,
    pub ksn: &'a str,
    pub format: &'a str,
    pub window: &'a str,
    pub card_check: &'a str,
    /// Empty: the test key of its scheme.
    pub bdk: &'a str,
}

/// An active AES device of the server's own merchant: native frames, no window.
pub fn keypad<'a>(id: &'a str, ksn: &'a str) -> NewDevice<'a> {
    NewDevice { id, merchant: "", scheme: "aes", ksn, format: "native", window: "0", card_check: "luhn", bdk: "" }
}

/// The same with TDES.
pub fn old_reader<'a>(id: &'a str, ksn: &'a str, format: &'a str) -> NewDevice<'a> {
    NewDevice { scheme: "tdes", format, ..keypad(id, ksn) }
}

/// A module's certificate and key.
pub struct ModuleFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Server {
    /// Registers a device and takes it into use.
    pub fn add_device(&self, device: &NewDevice<'_>) {
        self.device_add(device, &["--activate"]);
    }

    /// Registers a device.
    pub fn register_device(&self, device: &NewDevice<'_>) {
        self.device_add(device, &[]);
    }

    fn device_add(&self, device: &NewDevice<'_>, more: &[&str]) {
        let own = self.merchant();
        let merchant = if device.merchant.is_empty() { own.as_str() } else { device.merchant };
        let bdk = if device.bdk.is_empty() { self.bdk(device.scheme) } else { device.bdk };
        let add = [
            "device",
            "add",
            device.id,
            "--merchant",
            merchant,
            "--scheme",
            device.scheme,
            "--ksn",
            device.ksn,
            "--bdk",
            bdk,
            "--format",
            device.format,
            "--window",
            device.window,
            "--card-check",
            device.card_check,
        ];
        self.operated(&[&add[..], more].concat());
    }

    /// Registers a merchant and a module of it with a certificate of the server's authority.
    pub fn add_merchant(&self, merchant: &str, module: &str) -> ModuleFiles {
        self.operated(&["merchant", "add", merchant]);
        let files = self.issue(module);
        let certificate = files.certificate.to_str().expect("a path that is text");
        self.operated(&["module", "add", module, "--merchant", merchant, "--cert", certificate]);
        files
    }

    /// A certificate of the server's authority, not registered.
    pub fn issue(&self, module: &str) -> ModuleFiles {
        let pki = self.file("ca").parent().expect("a file is in a folder").to_owned();
        issue(&pki, module)
    }

    /// Exports the audit log of the server and gives its file.
    pub fn export_audit(&self, name: &str) -> PathBuf {
        let file = self.dir().join(name);
        self.operated(&["audit", "export", "--force", "--out", file.to_str().expect("a path that is text")]);
        file
    }

    /// All audit records, of every log in the export.
    pub fn audit_records(&self) -> Vec<Value> {
        let file = self.export_audit("audit-look.log");
        let text = std::fs::read_to_string(&file).expect("the export");
        entries(&text).into_iter().map(|entry| entry.record).collect()
    }
}

/// A record in an export.
pub struct Entry {
    /// Its log.
    pub log: String,
    /// The record.
    pub record: Value,
}

/// The records in an export, log by log, in order.
pub fn entries(export: &str) -> Vec<Entry> {
    let lines = export.lines().map(|line| serde_json::from_str::<Value>(line).expect("an export is JSON lines"));
    let entries = lines.filter_map(|line| line.get("record").cloned());
    entries
        .map(|entry| Entry {
            log: entry["log"].as_str().expect("a log").to_owned(),
            record: serde_json::from_str(entry["record"].as_str().expect("a record")).expect("a record is JSON"),
        })
        .collect()
}

/// Issues a certificate from the authority in a folder.
pub fn issue(pki: &Path, module: &str) -> ModuleFiles {
    run(&["pki", "issue", module, "--dir", pki.to_str().expect("a path that is text")]);
    ModuleFiles { certificate: pki.join(format!("{module}.pem")), key: pki.join(format!("{module}.key")) }
}

/// Runs a command that needs no configuration, which must succeed.
pub fn run(arguments: &[&str]) -> String {
    let output = Command::new(program("warifu")).args(arguments).output().expect("warifu runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
