//! The emulated devices: each a process of its own, as a real one is a box of its own.
//!
//! A device takes its commands from `DIR/devices/NAME.in`, a named pipe this process holds open for writing: anyone in
//! the machine's shell can type on it, and the device ends when this process does, however that ends.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::{Ksn, Scheme};

use super::folder::{Folder, TEST_AES_BDK, TEST_TDES_BDK, write_once};
use super::registered::{EMULATED, Known};
use crate::commands::output::remark;
use crate::exit::{Attempt as _, Exit, Failure};

/// The emulator, found beside this program.
const PROGRAM: &str = "device-emu";
/// How long a device may take to end by itself.
const FAREWELL: Duration = Duration::from_millis(500);

/// The running devices.
pub(super) struct Emulators(Vec<Emulator>);

struct Emulator {
    device: &'static Known,
    connection: String,
    pipe: PathBuf,
    child: Child,
    /// Held so that the device's pipe has a writer as long as this process lives.
    _writer: File,
}

impl Emulators {
    /// No devices.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Starts them all.
    pub(super) fn start(folder: &Folder) -> Result<Self, Failure> {
        let program = beside(PROGRAM);
        if !program.is_file() {
            let message = format!(
                "{} is missing: build it (cargo build -p warifu-device-emu), or say --no-devices",
                program.display()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let started = EMULATED.iter().map(|device| Emulator::start(&program, device, folder));
        Ok(Self(started.collect::<Result<_, _>>()?))
    }

    /// Where a device's commands go and where it is connected; `None` if it was not started.
    pub(super) fn of(&self, id: &str) -> Option<(&Path, &str)> {
        let one = self.0.iter().find(|one| one.device.id == id)?;
        Some((&one.pipe, &one.connection))
    }

    /// For programs: every emulated device, started or not.
    pub(super) fn json(&self) -> Vec<Value> {
        EMULATED
            .iter()
            .map(|device| {
                let (pipe, connection) = self.of(device.id).unzip();
                json!({
                    "id": device.id,
                    "what": device.what,
                    "scheme": scheme_flag(device.scheme),
                    "mode": device.mode(),
                    "format": device.format.name(),
                    "ksn": device.ksn,
                    "connection": connection,
                    "commands": pipe,
                })
            })
            .collect()
    }
}

/// A program of the same build.
pub(super) fn beside(name: &str) -> PathBuf {
    env::current_exe().ok().and_then(|here| Some(here.parent()?.join(name))).unwrap_or_else(|| PathBuf::from(name))
}

/// Arguments that make an emulator this device, but for the place it listens at and its commands.
pub(super) fn arguments(device: &Known, folder: &Folder) -> Vec<String> {
    let file = |ending: &str| folder.devices().join(format!("{}.{ending}", device.id)).to_string_lossy().into_owned();
    [
        "--scheme",
        scheme_flag(device.scheme),
        "--format",
        device.format.name(),
        "--ksn",
        device.ksn,
        "--ik-file",
        &file("ik"),
        "--state",
        &file("state"),
        "--name",
        device.id,
    ]
    .map(str::to_owned)
    .to_vec()
}

impl Emulator {
    fn start(program: &Path, device: &'static Known, folder: &Folder) -> Result<Self, Failure> {
        let attempt = format!("start the emulated device {}", device.id);
        let key = initial_key(&device.ksn_device()?);
        let key_file = folder.devices().join(format!("{}.ik", device.id));
        write_once(&key_file, &hex::encode_upper(key.expose())).or_exit(Exit::Usage, &attempt)?;
        let pipe = folder.devices().join(format!("{}.in", device.id));
        let (writer, reader) = open_pipe(&pipe).or_exit(Exit::Usage, &attempt)?;
        let mut child = Command::new(program)
            .args(["--listen", "tcp:127.0.0.1:0"])
            .args(arguments(device, folder))
            .stdin(Stdio::from(reader))
            .stdout(Stdio::piped())
            .spawn()
            .or_exit(Exit::Usage, &attempt)?;
        let said = child.stdout.take().map(BufReader::new);
        let mut emulator = Self { device, connection: String::new(), pipe, child, _writer: writer };
        let Some(mut said) = said else { return Err(Failure::new(Exit::Internal, attempt)) };
        let mut line = String::new();
        said.read_line(&mut line).or_exit(Exit::Usage, &attempt)?;
        match line.trim().strip_prefix("ready ") {
            Some(connection) => emulator.connection = connection.to_owned(),
            None => return Err(Failure::new(Exit::Usage, format!("could not {attempt}: it did not get ready"))),
        }
        std::thread::spawn(move || pass_on(device.id, said));
        Ok(emulator)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::TERM);
        }
        let pause = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        while waited < FAREWELL {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(pause);
            waited += pause;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a device says goes to the terminal under its name.
fn pass_on(id: &str, said: BufReader<ChildStdout>) {
    // A line is short; a device gone mad is cut off.
    for line in said.take(1 << 20).lines().map_while(Result::ok) {
        remark(format_args!("[{id}] {line}"));
    }
}

/// Both ends of a named pipe; the writing end is opened first, so that neither waits for the other.
fn open_pipe(path: &Path) -> io::Result<(File, File)> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let writer = OpenOptions::new().read(true).write(true).open(path)?;
    Ok((writer, File::open(path)?))
}

fn initial_key(ksn: &Ksn) -> KeyBytes {
    let bdk = |bytes: &[u8; 16]| KeyBytes::filled(KeyLen::K128, |key| key.copy_from_slice(bytes));
    match ksn {
        Ksn::Aes(ksn) => aes::initial_key(&bdk(&TEST_AES_BDK), ksn.ik_id()),
        Ksn::Tdes(ksn) => tdes::initial_key(&bdk(&TEST_TDES_BDK), ksn),
    }
}

fn scheme_flag(scheme: Scheme) -> &'static str {
    crate::rpc::scheme_name(scheme)
}
