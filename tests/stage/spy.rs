//! OpenSC's PKCS#11 spy: a module that stands before another and writes every call down. For tests only: it writes clear
//! data, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use warifu_hsm::pkcs11::{SOFTHSM_MISSING, find_softhsm};

/// Where distributions put it.
const PLACES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/usr/lib64/pkcs11/pkcs11-spy.so",
];

/// A spy and its notes.
pub struct Spy {
    notes: PathBuf,
}

impl Spy {
    /// A spy that writes into a folder.
    pub fn new(dir: &Path) -> Self {
        Self { notes: dir.join("spy.log") }
    }

    /// What makes a server talk to its HSM through the spy.
    pub fn environment(&self) -> Vec<(String, String)> {
        let spy = PLACES.into_iter().find(|place| Path::new(place).exists());
        let spy = spy.expect("the PKCS#11 spy is missing: apt-get install opensc-pkcs11, or scripts/prepare spy");
        let module = find_softhsm().unwrap_or_else(|| panic!("{SOFTHSM_MISSING}"));
        let text = |path: &Path| path.to_str().expect("a path that is text").to_owned();
        vec![
            ("WARIFU__HSM__MODULE".to_owned(), spy.to_owned()),
            ("PKCS11SPY".to_owned(), text(&module)),
            ("PKCS11SPY_OUTPUT".to_owned(), text(&self.notes)),
        ]
    }

    /// How often each function was called.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let notes = String::from_utf8_lossy(&std::fs::read(&self.notes).expect("the spy has notes")).into_owned();
        let mut calls = BTreeMap::new();
        for line in notes.lines() {
            // "17: C_DeriveKey"
            let Some((number, function)) = line.split_once(": ") else { continue };
            if function.starts_with("C_") && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) {
                *calls.entry(function.trim_end().to_owned()).or_default() += 1;
            }
        }
        calls
    }

    /// How often one function was called.
    pub fn count(&self, function: &str) -> u64 {
        self.calls().get(function).copied().unwrap_or(0)
    }
}
