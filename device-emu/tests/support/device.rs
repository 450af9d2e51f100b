//! An emulated device as its own process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Device {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Where it listens.
    pub address: String,
}

impl Device {
    pub fn start(arguments: &[&str]) -> Self {
        Self::try_start(arguments).unwrap_or_else(|said| panic!("the device did not start: {said}"))
    }

    /// The device, or what it said on standard error when it did not start.
    pub fn try_start(arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_device-emu"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        match ready.trim_end().strip_prefix("ready ") {
            Some(address) => Ok(Self { address: address.to_owned(), child, stdin, stdout }),
            None => {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert!(!child.wait().unwrap().success(), "a device that is not ready fails");
                Err(said)
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something and gives its answer.
    pub fn say(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Types without ending the line.
    pub fn type_only(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Its next answer.
    pub fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Closes its standard input.
    pub fn hush(&mut self) {
        self.stdin = None;
    }

    /// Connects to its TCP port.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address.strip_prefix("tcp:").unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Asks for its status until it says what is wanted.
    pub fn until_status(&mut self, wanted: &str) {
        let start = Instant::now();
        loop {
            let status = self.say("status");
            if status.contains(wanted) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "never {wanted}: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "the device does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exactly so many bytes from a stream.
pub fn read_bytes(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// One native frame from a stream.
pub fn read_frame(stream: &mut impl Read) -> Vec<u8> {
    let mut frame = read_bytes(stream, 8);
    let ciphertext = usize::from(u16::from_be_bytes([frame[6], frame[7]]));
    let (ksn, mac) = if frame[3] == 0x10 { (10, 8) } else { (12, 16) };
    frame.extend(read_bytes(stream, ksn + ciphertext + mac));
    frame
}
