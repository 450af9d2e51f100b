//! The words a device understands on its standard input.
//!
//! Architecture invariant: what is typed is looked at where it was typed; only a [`Card`] takes a copy, and no error
//! repeats anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use warifu_core::frame::Entry;

use crate::card::{Card, CardError};
use crate::fault::Flip;

/// What there is to say, for `help` and for the prompt.
pub const HELP: &str = "\
key PAN YYMM [CVV]               type a card on the keypad
swipe PAN YYMM [NAME [SERVICE]]  draw it through the stripe reader ('_' in a name is a space)
dip PAN YYMM [NAME]              put it into the chip reader
replay                           send the last frame again
flip OFFSET [MASK]               turn bits over in the next frame (mask in hex, 01 if not given)
flip-last OFFSET [MASK]          send the last frame again with bits turned over
cut N                            send only the first N bytes of the next frame
slow MS                          from now on wait MS milliseconds before each byte (0: as before)
skip N                           pass over N counters
raw HEX | @FILE | text:...       send these bytes exactly (in text: \\r \\n \\t \\\\)
garbage N                        send N bytes that are no frame
update BLOCK | @FILE             take a new initial key out of a key block under the update key (aes)
status | help | quit";

/// Longest garbage and raw output.
const LONGEST: usize = 64 * 1024;
/// The same, as file sizes are told.
const LONGEST_FILE: u64 = 64 * 1024;
/// Slowest byte: one in ten seconds.
const SLOWEST_MS: u64 = 10_000;

/// What the device is told to do.
pub enum Command {
    /// Nothing: an empty line or a comment (`#`).
    Nothing,
    /// Take a card this way.
    Take(Entry, Card),
    /// Send the last frame again, with or without bits turned over.
    Replay(Option<Flip>),
    /// Turn bits over in the next frame.
    Flip(Flip),
    /// Send only so many bytes of the next frame.
    Cut(usize),
    /// Wait before each byte.
    Slow(Duration),
    /// Pass over counters.
    Skip(u32),
    /// Send these bytes.
    Raw(Vec<u8>),
    /// Send bytes that are no frame.
    Garbage(usize),
    /// Take a new initial key out of this key block.
    Update(String),
    /// Tell how things stand.
    Status,
    /// Tell what can be said.
    Help,
    /// End.
    Quit,
}

/// What is no command. Constant texts: nothing typed is repeated.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not a word of the list.
    #[error("no such command; try help")]
    Unknown,
    /// The words do not fit the command.
    #[error("usage: {0}")]
    Usage(&'static str),
    /// Not a card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The file of `raw @FILE` or `update @FILE`.
    #[error("the file cannot be read, or is too long")]
    File,
    /// More than will be sent.
    #[error("at most {LONGEST} bytes")]
    TooLong,
}

impl Command {
    /// Understands a line. The caller still owns, and must wipe, it.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let line = line.trim_ascii_start();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        let mut words = Words { rest, usage: usage(word) };
        let command = match word {
            b"" | [b'#', ..] => return Ok(Self::Nothing),
            b"key" => Self::Take(Entry::Keyed, words.card_with(&[Card::with_code])?),
            b"swipe" => Self::Take(Entry::Swiped, words.card_with(&[Card::with_name, Card::with_service])?),
            b"dip" => Self::Take(Entry::Dipped, words.card_with(&[Card::with_name])?),
            b"replay" => Self::Replay(None),
            b"flip" => Self::Flip(words.flip()?),
            b"flip-last" => Self::Replay(Some(words.flip()?)),
            b"cut" => Self::Cut(words.number()?),
            b"slow" => match words.number()? {
                ms if ms <= SLOWEST_MS => Self::Slow(Duration::from_millis(ms)),
                _ => return Err(words.misused()),
            },
            b"skip" => Self::Skip(words.number()?),
            b"raw" => return raw(rest.get(1..).unwrap_or_default()).map(Self::Raw),
            b"garbage" => match words.number()? {
                len if len <= LONGEST => Self::Garbage(len),
                _ => return Err(CommandError::TooLong),
            },
            b"update" => Self::Update(words.block()?),
            b"status" => Self::Status,
            b"help" => Self::Help,
            b"quit" => Self::Quit,
            _ => return Err(CommandError::Unknown),
        };
        match words.next() {
            None => Ok(command),
            Some(_) => Err(words.misused()),
        }
    }
}

/// The words after the first.
struct Words<'a> {
    rest: &'a [u8],
    usage: &'static str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.trim_ascii();
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn required(&mut self) -> Result<&'a [u8], CommandError> {
        self.next().ok_or(self.misused())
    }

    fn misused(&self) -> CommandError {
        CommandError::Usage(self.usage)
    }

    /// A number and an expiry, and as many of the details as there are words for.
    fn card_with(&mut self, details: &[Detail]) -> Result<Card, CommandError> {
        let mut card = Card::new(self.required()?, self.required()?)?;
        for detail in details {
            let Some(word) = self.next() else { break };
            card = detail(card, word)?;
        }
        Ok(card)
    }

    fn number<N: FromStr>(&mut self) -> Result<N, CommandError> {
        let word = self.required()?;
        std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).ok_or(self.misused())
    }

    /// A key block, or the file it is in.
    fn block(&mut self) -> Result<String, CommandError> {
        let bytes = match self.required()? {
            [b'@', path @ ..] => file(path)?,
            block => block.to_vec(),
        };
        String::from_utf8(bytes).map_err(|_| CommandError::File)
    }

    fn flip(&mut self) -> Result<Flip, CommandError> {
        let offset = self.number()?;
        let mask = match self.next() {
            None => 1,
            Some(mask) => std::str::from_utf8(mask)
                .ok()
                .and_then(|mask| u8::from_str_radix(mask, 16).ok())
                .ok_or(self.misused())?,
        };
        Ok(Flip { offset, mask })
    }
}

/// What a word adds to a card.
type Detail = fn(Card, &[u8]) -> Result<Card, CardError>;

/// The line of the help that belongs to a command.
fn usage(word: &[u8]) -> &'static str {
    let of_word = |line: &&str| line.split_ascii_whitespace().next().is_some_and(|first| first.as_bytes() == word);
    let line = HELP.lines().find(of_word).unwrap_or_default();
    line.split("  ").next().unwrap_or_default()
}

fn raw(source: &[u8]) -> Result<Vec<u8>, CommandError> {
    let bytes = match source {
        [b'@', path @ ..] => file(path.trim_ascii())?,
        [b't', b'e', b'x', b't', b':', text @ ..] => unescaped(text)?,
        digits => {
            let digits: Vec<u8> = digits.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            hex::decode(digits).map_err(|_| CommandError::Usage(usage(b"raw")))?
        }
    };
    if bytes.is_empty() { Err(CommandError::Usage(usage(b"raw"))) } else { Ok(bytes) }
}

fn file(path: &[u8]) -> Result<Vec<u8>, CommandError> {
    let path = Path::new(OsStr::from_bytes(path));
    let fits = std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.len() <= LONGEST_FILE);
    fits.then(|| std::fs::read(path).ok()).flatten().ok_or(CommandError::File)
}

fn unescaped(text: &[u8]) -> Result<Vec<u8>, CommandError> {
    let mut text = text.iter().copied();
    let mut bytes = Vec::new();
    while let Some(byte) = text.next() {
        bytes.push(match byte {
            b'\\' => match text.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'\\') => b'\\',
                Some(_) | None => return Err(CommandError::Usage(usage(b"raw"))),
            },
            other => other,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        match Command::parse(line.as_bytes()) {
            Ok(_) => panic!("{line} was understood"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn cards_are_taken_in_three_ways() {
        let taken = |line: &str| match Command::parse(line.as_bytes()) {
            Ok(Command::Take(entry, card)) => (entry, card),
            _ => panic!("{line}"),
        };
        let (entry, card) = taken("key 4111111111111111 3012 123");
        assert!(entry == Entry::Keyed && card.code() == Some(b"123"));
        let (entry, card) = taken("  swipe 4111111111111111 3012 TARO_Y/CARD 101 ");
        assert!(entry == Entry::Swiped && card.name() == b"TARO Y/CARD" && card.service() == b"101");
        let (entry, card) = taken("dip 4111111111111111 3012");
        assert!(entry == Entry::Dipped && card.pan() == b"4111111111111111" && card.expiry() == b"3012");
    }

    #[test]
    fn a_refusal_never_repeats_what_was_typed() {
        assert_eq!(refused("4111111111111111 3012"), "no such command; try help");
        assert_eq!(refused("key 4111111111111111"), "usage: key PAN YYMM [CVV]");
        assert_eq!(refused("key 4111111111111111 3012 123 4"), "usage: key PAN YYMM [CVV]");
        assert_eq!(refused("key 4111-1111-1111-1111 3012"), "a card number has 12 to 19 digits");
        assert_eq!(refused("swipe 4111111111111111 3012 A^B"), CardError::Name.to_string());
        assert_eq!(refused("flip"), "usage: flip OFFSET [MASK]");
        assert_eq!(refused("flip 3 1FF"), "usage: flip OFFSET [MASK]");
        assert_eq!(refused("flip-last x"), "usage: flip-last OFFSET [MASK]");
        assert_eq!(refused("raw 123"), "usage: raw HEX | @FILE | text:...");
        assert_eq!(refused("raw @/nowhere"), "the file cannot be read, or is too long");
        assert_eq!(refused("garbage 99999999"), "at most 65536 bytes");
    }

    #[test]
    fn raw_bytes_are_sent_exactly_as_given() {
        let raw = |line: &str| match Command::parse(line.as_bytes()) {
            Ok(Command::Raw(bytes)) => bytes,
            _ => panic!("{line}"),
        };
        assert_eq!(raw("raw 02 32 01ff"), [0x02, 0x32, 0x01, 0xFF]);
        assert_eq!(raw(r"raw text:%B1^A  B ^|\r"), b"%B1^A  B ^|\r");
    }

    #[test]
    fn empty_lines_and_comments_do_nothing() {
        for line in ["", "   ", "# a comment"] {
            assert!(matches!(Command::parse(line.as_bytes()), Ok(Command::Nothing)));
        }
    }
}
