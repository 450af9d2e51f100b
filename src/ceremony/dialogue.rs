//! Questions to the person at the terminal. Answers are read byte by byte, without a buffer that would keep them, and
//! what is secret is neither shown nor copied.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use warifu_core::secret::SecretBytes;
use zeroize::Zeroizing;

use super::attention::{self, Attention};

/// Longest answer, in bytes.
const LONGEST: usize = 1024;
/// Longest secret answer: a component of 32 bytes in groups.
const LONGEST_SECRET: usize = 160;
/// What a terminal sends for these keys.
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const SUSPEND: u8 = 0x1A;
const QUIT: u8 = 0x1C;
const BACKSPACE: [u8; 2] = [0x08, 0x7F];
const KILL_LINE: u8 = 0x15;

/// The conversation is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// Nobody answers any more, or somebody gave up.
    #[error("the ceremony was given up")]
    GivenUp,
    /// An answer that is too long to be one.
    #[error("the answer is too long")]
    TooLong,
    /// The terminal failed.
    #[error("the terminal cannot be used")]
    Terminal(#[from] io::Error),
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialogue {
    /// People at a terminal, one after another.
    Terminal,
    /// Lines of standard input: for tests.
    Script,
}

impl Dialogue {
    /// With people, if there are any.
    pub(crate) fn with_people() -> Option<Self> {
        (io::stdin().is_terminal() && io::stderr().is_terminal()).then_some(Self::Terminal)
    }

    /// While what this gives lives, Ctrl-C and the like end the conversation, not the program.
    pub(super) fn attend(self) -> Result<Attention, Silence> {
        Ok(Attention::begin()?)
    }

    /// Whether the conversation goes on: between two questions somebody may have ended it.
    pub(super) fn goes_on(self) -> Result<(), Silence> {
        if attention::is_over()? { Err(Silence::GivenUp) } else { Ok(()) }
    }

    /// Says something.
    pub(crate) fn tell(self, text: &str) -> Result<(), Silence> {
        Ok(writeln!(io::stderr(), "{text}")?)
    }

    /// Shows a secret to the one person at the screen, in groups of four hex digits; what is shown is wiped here.
    pub(crate) fn show(self, what: &str, secret: &[u8]) -> Result<(), Silence> {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let groups = secret.len().div_ceil(2);
        let text = SecretBytes::filled(2 * secret.len() + groups, |text| {
            let mut places = text.iter_mut();
            let mut put = |character| {
                if let Some(place) = places.next() {
                    *place = character;
                }
            };
            for (at, byte) in secret.iter().enumerate() {
                put(DIGITS[usize::from(byte >> 4)]);
                put(DIGITS[usize::from(byte & 0x0F)]);
                if at % 2 == 1 {
                    put(b' ');
                }
            }
        });
        let mut out = io::stderr();
        writeln!(out, "{what}")?;
        out.write_all(text.expose())?;
        Ok(writeln!(out)?)
    }

    /// Empties the screen and what was scrolled off it, so that the next person sees nothing of this one.
    pub(crate) fn clear(self) -> Result<(), Silence> {
        match self {
            Self::Terminal => {
                let mut out = io::stderr();
                out.write_all(b"\x1b[2J\x1b[3J\x1b[H")?;
                Ok(out.flush()?)
            }
            Self::Script => Ok(()),
        }
    }

    /// Asks a question. The answer is wiped, too: somebody may have typed a component too early.
    pub(crate) fn ask(self, question: &str) -> Result<Zeroizing<String>, Silence> {
        self.prompt(question)?;
        let mut answer = Zeroizing::new(Vec::with_capacity(LONGEST));
        loop {
            match next()? {
                None if answer.is_empty() => return Err(Silence::GivenUp),
                None | Some(b'\n') => break,
                Some(_) if answer.len() == LONGEST => return Err(Silence::TooLong),
                Some(byte) => answer.push(byte),
            }
        }
        let answer = str::from_utf8(&answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Zeroizing::new(answer.trim().to_owned()))
    }

    /// Asks a question whose answer is not shown.
    pub(crate) fn ask_secret(self, question: &str) -> Result<SecretBytes, Silence> {
        self.prompt(question)?;
        let quiet = match self {
            Self::Terminal => Some(Quiet::begin()?),
            Self::Script => None,
        };
        let (mut len, mut ended) = (0_usize, Ok(()));
        let mut typed = SecretBytes::filled(LONGEST_SECRET, |bytes| {
            ended = loop {
                match next() {
                    Ok(Some(b'\n' | b'\r')) => break Ok(()),
                    Ok(None) if len > 0 => break Ok(()),
                    Ok(None | Some(INTERRUPT | END | SUSPEND | QUIT)) => break Err(Silence::GivenUp),
                    Ok(Some(byte)) if quiet.is_some() && BACKSPACE.contains(&byte) => len = len.saturating_sub(1),
                    Ok(Some(KILL_LINE)) => len = 0,
                    Ok(Some(byte)) => match bytes.get_mut(len) {
                        Some(place) => {
                            *place = byte;
                            len += 1;
                        }
                        None => break Err(Silence::TooLong),
                    },
                    Err(error) => break Err(error),
                }
            };
        });
        if quiet.is_some() {
            self.tell("")?;
        }
        ended?;
        Ok(SecretBytes::copied(typed.expose_mut()[..len].trim_ascii()))
    }

    fn prompt(self, question: &str) -> Result<(), Silence> {
        let mut out = io::stderr();
        write!(out, "{question} ")?;
        Ok(out.flush()?)
    }
}

/// The next byte; `None` at the end.
fn next() -> Result<Option<u8>, Silence> {
    let mut byte = [0];
    loop {
        if !attention::key_comes()? {
            return Err(Silence::GivenUp);
        }
        match rustix::io::read(stdin(), &mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// A terminal that shows nothing and gives each key as it is pressed, Ctrl-C too: so that it is put back in every case.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What was typed ahead would be shown: it goes. A terminal that is gone needs no putting back.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}
