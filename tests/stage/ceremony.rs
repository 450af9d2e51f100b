//! Key ceremonies, held by the program's own command with its answers on standard input.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use warifu_core::kcv::Kcv;
use warifu_core::key::KeyBytes;

use super::{Server, program};

/// A person with a certificate.
pub struct Custodian {
    /// Registered under this name.
    pub name: String,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A component as it stands on paper.
pub struct Paper {
    /// Hex digits.
    pub component: String,
    /// Its check value.
    pub kcv: String,
}

impl Paper {
    /// Of an AES component.
    pub fn of(component: &str) -> Self {
        Self { component: component.to_owned(), kcv: aes_kcv(component) }
    }

    /// Two components of an AES key: the first is what the test says.
    pub fn two(key: &str, first: &str) -> [Self; 2] {
        let (key, part) = (hex::decode(key).unwrap(), hex::decode(first).unwrap());
        let second: Vec<u8> = key.iter().zip(&part).map(|(key, part)| key ^ part).collect();
        [Self::of(first), Self::of(&hex::encode_upper(second))]
    }
}

/// The check value of an AES key.
pub fn aes_kcv(key: &str) -> String {
    Kcv::aes_cmac(&KeyBytes::copied(&hex::decode(key).unwrap()).unwrap()).to_string()
}

/// What a custodian answers.
pub fn answers(person: &Custodian, paper: &Paper) -> String {
    let (certificate, key) = (person.certificate.display(), person.key.display());
    format!("{certificate}\n{key}\n{}\n{}\n", paper.component, paper.kcv)
}

impl Server {
    /// Makes and registers a custodian.
    pub fn add_custodian(&self, name: &str) -> Custodian {
        let files = self.issue(name);
        self.operated(&["custodian", "add", name, "--cert", files.certificate.to_str().unwrap()]);
        Custodian { name: name.to_owned(), certificate: files.certificate, key: files.key }
    }

    /// Adds a key to the configuration.
    pub fn configure_bdk(&self, id: &str, bits: usize, mode: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.dir().join("warifu.toml")).unwrap();
        writeln!(file, "\n[[bdk]]\nid = \"{id}\"\nscheme = \"aes\"\nbits = {bits}\nmode = \"{mode}\"").unwrap();
    }

    /// Begins a ceremony; its transcript goes to `ID.transcript` in the server's folder.
    pub fn begin_ceremony(&self, id: &str, more: &[&str]) -> Child {
        let mut command = Command::new(program("warifu"));
        command.args(["key", "ceremony", id, "--script"]).args(more).arg("--transcript").arg(self.transcript(id));
        command.arg("--config").arg(self.dir().join("warifu.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("warifu runs")
    }

    /// Holds a ceremony to whatever end it comes to.
    pub fn ceremony(&self, id: &str, script: &str) -> Output {
        self.ceremony_with(id, &[], script)
    }

    /// The same, with more arguments.
    pub fn ceremony_with(&self, id: &str, more: &[&str], script: &str) -> Output {
        let mut ceremony = self.begin_ceremony(id, more);
        // Whoever gave up does not read to the end.
        let _ = ceremony.stdin.take().unwrap().write_all(script.as_bytes());
        ceremony.wait_with_output().expect("the ceremony ends")
    }

    /// Puts an AES key of known bytes into the HSM by a ceremony, and takes it into use.
    pub fn load_bdk(&self, people: &[Custodian; 2], id: &str, key: &str, first: &str) {
        let papers = Paper::two(key, first);
        let script: String = people.iter().zip(&papers).map(|(person, paper)| answers(person, paper)).collect();
        let held = self.ceremony(id, &(script + &aes_kcv(key) + "\n"));
        assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
        self.operated(&["key", "activate", id]);
    }

    /// Where the transcript of a ceremony lies.
    pub fn transcript(&self, id: &str) -> PathBuf {
        self.dir().join(format!("{id}.transcript"))
    }

    /// How many objects its HSM holds: files of SoftHSM.
    pub fn hsm_objects(&self) -> usize {
        let mut folders = vec![self.dir().join("tokens")];
        let mut objects = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => objects += usize::from(path.extension().is_some_and(|ending| ending == "object")),
                }
            }
        }
        objects
    }
}
