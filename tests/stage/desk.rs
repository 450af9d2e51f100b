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
}

/// An active AES device of the server's own merchant: native frames, no window.
pub fn keypad<'a>(id: &'a str, ksn: &'a str) -> NewDevice<'a> {
    NewDevice { id, merchant: "", scheme: "aes", ksn, format: "native", window: "0", card_check: "luhn" }
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
        self.register_device(device);
        self.operated(&["device", "activate", device.id]);
    }

    /// Registers a device.
    pub fn register_device(&self, device: &NewDevice<'_>) {
        let own = self.merchant();
        let merchant = if device.merchant.is_empty() { &own } else { device.merchant };
        let bdk = self.bdk(device.scheme);
        self.operated(&[
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
            &bdk,
            "--format",
            device.format,
            "--window",
            device.window,
            "--card-check",
            device.card_check,
        ]);
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
        self.operated(&["audit", "export", "--out", file.to_str().expect("a path that is text")]);
        file
    }

    /// All audit records, of every log in the export.
    pub fn audit_records(&self) -> Vec<Value> {
        let file = self.export_audit("audit-look.log");
        let text = std::fs::read_to_string(&file).expect("the export");
        records(&text)
    }
}

/// The records in an export.
pub fn records(export: &str) -> Vec<Value> {
    export
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| match line.get("record") {
            Some(Value::String(text)) => serde_json::from_str(text).ok(),
            Some(record @ Value::Object(_)) => Some(record.clone()),
            _ => line.get("kind").is_some().then_some(line),
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
