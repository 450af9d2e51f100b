//! Somebody at a terminal: what comes back on the screen never shows a card.
#![allow(clippy::unwrap_used, reason = "a terminal that cannot be made must fail the run")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

struct Terminal {
    keyboard: File,
    side: OwnedFd,
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

fn terminal() -> Terminal {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let path = ptsname(&keyboard, Vec::new()).unwrap();
    let side = rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_device-emu"))
        .args(["--scheme", "aes", "--ik", "1273671EA26AC29AFA4D1084127652A1", "--ksn", "1234567890123456"])
        .stdin(Stdio::from(side.try_clone().unwrap()))
        .stderr(Stdio::from(side.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    answers.read_line(&mut ready).unwrap();
    assert!(ready.starts_with("ready tcp:127.0.0.1:"));
    Terminal { keyboard: keyboard.into(), side, child, answers }
}

impl Terminal {
    /// Everything on the screen up to and with `end`.
    fn screen(&mut self, end: &str) -> String {
        let mut screen = Vec::new();
        while !screen.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.keyboard.read_exact(&mut byte).unwrap();
            screen.push(byte[0]);
        }
        String::from_utf8(screen).unwrap()
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.side).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }
}

#[test]
fn a_typed_card_comes_back_as_stars_and_the_terminal_is_given_back() {
    let mut terminal = terminal();
    terminal.screen("kp-1> ");
    assert!(!terminal.echoes());
    terminal.keyboard.write_all(b"key 4929310987651235\x7f4 2911 7391\r").unwrap();
    assert_eq!(terminal.answer(), "ok frame 68 bytes counter 1\n");
    assert_eq!(terminal.screen("kp-1> "), "key ****************\x08 \x08* **** ****\r\nkp-1> ");
    terminal.keyboard.write_all(b"4929310987651234\x15skip 5\r").unwrap();
    assert_eq!(terminal.answer(), "ok skip 5 next 7\n");
    let screen = terminal.screen("kp-1> ");
    assert!(screen.starts_with("****************\x08 \x08") && screen.ends_with("skip 5\r\nkp-1> "), "{screen:?}");
    terminal.keyboard.write_all(b"quit\r").unwrap();
    assert_eq!(terminal.answer(), "ok quit\n");
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes());
}

#[test]
fn the_terminal_is_given_back_when_a_signal_ends_the_device() {
    let mut terminal = terminal();
    terminal.screen("kp-1> ");
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).unwrap();
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes());
}

#[test]
fn the_end_of_transmission_and_the_interrupt_key_end_it() {
    for end in [b"\x04", b"\x03"] {
        let mut terminal = terminal();
        terminal.screen("kp-1> ");
        terminal.keyboard.write_all(b"key 4929310987651234 2911\r").unwrap();
        terminal.answer();
        terminal.keyboard.write_all(end).unwrap();
        assert!(terminal.child.wait().unwrap().success());
        assert!(terminal.echoes());
    }
}
