//! Reading what is typed, one character at a time into one buffer that is wiped.
//!
//! Architecture invariant: the process never holds a character of a line it is not working on, so what waits in a
//! pipe or a script is not in its memory. On a terminal, card data is never shown: stars come back.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroize;

use crate::wire::Ending;

/// Longest line: room for any reader's output in hex.
const LONGEST: usize = 16 * 1024;

/// One line being typed, wiped when it is done with.
pub struct Line {
    buffer: Box<[u8; LONGEST]>,
    len: usize,
}

/// How reading a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A whole line.
    Line,
    /// A line longer than any command; it was dropped.
    TooLong,
    /// Nothing more will come.
    End,
}

/// Where lines come from.
pub enum Source {
    /// A pipe or a file.
    Plain(OwnedFd),
    /// Somebody at a terminal.
    Terminal(OwnedFd, Prompt),
}

/// What a terminal shows before each line, and where.
pub struct Prompt {
    /// The name of the device.
    pub name: String,
    /// Where it is shown, as is what was typed, masked.
    pub screen: OwnedFd,
}

impl Default for Line {
    fn default() -> Self {
        Self { buffer: Box::new([0; LONGEST]), len: 0 }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Line {
    /// What was typed.
    pub fn typed(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Forgets it.
    pub fn wipe(&mut self) {
        self.buffer[..self.len].zeroize();
        self.len = 0;
    }

    /// Whether there was room.
    fn push(&mut self, byte: u8) -> bool {
        let Some(free) = self.buffer.get_mut(self.len) else { return false };
        *free = byte;
        self.len += 1;
        true
    }

    fn pop(&mut self) -> bool {
        let Some(last) = self.len.checked_sub(1) else { return false };
        self.buffer[last].zeroize();
        self.len = last;
        true
    }
}

impl Source {
    /// How the device is to end when no more lines come: somebody at a terminal has seen what was delivered, and
    /// wants to leave.
    pub fn ending(&self) -> Ending {
        match self {
            Self::Plain(_) => Ending::Delivered,
            Self::Terminal(..) => Ending::Soon,
        }
    }

    /// Reads the next line.
    pub fn read(&mut self, line: &mut Line) -> io::Result<Read> {
        line.wipe();
        match self {
            Self::Plain(input) => plain(input, line),
            Self::Terminal(input, prompt) => prompt.read(input, line),
        }
    }
}

fn plain(input: &OwnedFd, line: &mut Line) -> io::Result<Read> {
    let mut fits = true;
    loop {
        match byte(input)? {
            None if line.len == 0 => return Ok(Read::End),
            None | Some(b'\n') => return Ok(if fits { Read::Line } else { Read::TooLong }),
            Some(byte) => fits = fits && line.push(byte),
        }
    }
}

/// One byte by one read, so that nothing behind it is taken.
fn byte(input: &OwnedFd) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match rustix::io::read(input, &mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Prompt {
    fn read(&self, input: &OwnedFd, line: &mut Line) -> io::Result<Read> {
        self.show(format!("{}> ", self.name).as_bytes())?;
        loop {
            match byte(input)? {
                // End of input, or the end-of-transmission character on an empty line, or the interrupt character.
                None | Some(0x03) => return self.ended(Read::End),
                Some(0x04) if line.len == 0 => return self.ended(Read::End),
                Some(b'\r' | b'\n') => return self.ended(Read::Line),
                Some(0x08 | 0x7F) => {
                    if line.pop() {
                        self.show(b"\x08 \x08")?;
                    }
                }
                Some(0x15) => {
                    while line.pop() {
                        self.show(b"\x08 \x08")?;
                    }
                }
                Some(byte) if byte.is_ascii_graphic() || byte == b' ' => {
                    if line.push(byte) {
                        self.show(&[shown(line.typed())])?;
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn ended(&self, how: Read) -> io::Result<Read> {
        self.show(b"\n")?;
        Ok(how)
    }

    fn show(&self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            text = &text[rustix::io::write(&self.screen, text)?..];
        }
        Ok(())
    }
}

/// What is shown for the character typed last: itself in the words of commands that carry no card; else a star,
/// and also for every digit before it is clear which command this will be.
fn shown(typed: &[u8]) -> u8 {
    const OPEN: [&[u8]; 7] = [b"flip", b"flip-last", b"cut", b"slow", b"skip", b"raw", b"garbage"];
    let typed = typed.trim_ascii_start();
    let last = typed.last().copied().unwrap_or(b' ');
    match typed.iter().position(|byte| *byte == b' ') {
        _ if last == b' ' => b' ',
        None if last.is_ascii_digit() => b'*',
        None => last,
        Some(end) if OPEN.contains(&&typed[..end]) => last,
        Some(_) => b'*',
    }
}

/// A terminal that shows nothing of itself and gives each character at once; as it was before when dropped.
pub struct Silenced {
    terminal: OwnedFd,
    before: Termios,
}

impl Silenced {
    /// Silences a terminal.
    pub fn new(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Now, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(line: &str) -> String {
        (1..=line.len()).map(|end| char::from(shown(&line.as_bytes()[..end]))).collect()
    }

    #[test]
    fn card_data_is_shown_as_stars() {
        assert_eq!(echo("key 4111111111111111 3012 123"), "key **************** **** ***");
        assert_eq!(echo("swipe 4111111111111111 3012 TARO/CARD"), "swipe **************** **** *********");
        assert_eq!(echo(" dip 4111"), " dip ****");
        assert_eq!(echo("4111111111111111"), "****************");
        assert_eq!(echo("kye 4111"), "kye ****");
    }

    #[test]
    fn other_commands_are_shown() {
        assert_eq!(echo("flip 12 80"), "flip 12 80");
        assert_eq!(echo("status"), "status");
    }

    #[test]
    fn lines_are_read_one_by_one_and_the_last_needs_no_end() {
        let (input, mut pipe) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut pipe, b"one\n\nthree").unwrap();
        drop(pipe);
        let mut source = Source::Plain(input.into());
        let mut line = Line::default();
        for expected in [b"one".as_slice(), b"", b"three"] {
            assert_eq!(source.read(&mut line).unwrap(), Read::Line);
            assert_eq!(line.typed(), expected);
        }
        assert_eq!(source.read(&mut line).unwrap(), Read::End);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_whole() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &vec![b'x'; LONGEST + 5]).unwrap();
        std::io::Write::write_all(&mut file, b"\nstatus\n").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut source = Source::Plain(file.into());
        let mut line = Line::default();
        assert_eq!(source.read(&mut line).unwrap(), Read::TooLong);
        assert_eq!(source.read(&mut line).unwrap(), Read::Line);
        assert_eq!(line.typed(), b"status");
    }

    #[test]
    fn a_wiped_line_leaves_nothing_in_its_buffer() {
        let mut line = Line::default();
        b"key 4111".iter().for_each(|byte| assert!(line.push(*byte)));
        line.wipe();
        assert!(line.buffer.iter().all(|byte| *byte == 0));
    }
}
