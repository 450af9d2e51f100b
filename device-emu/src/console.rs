//! The console: reads commands, lets the device do them, answers each with one line.
//!
//! Architecture invariant: no answer carries anything of a card. The line is wiped before its card is sealed, and
//! the card before its frame goes to the wire.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::command::{Command, CommandError, HELP};
use crate::device::{Device, DeviceError, Frame};
use crate::fault::{FaultError, Faults, Flip, garbage};
use crate::typing::{Line, Read, Source};
use crate::wire::{Ending, Outbox, WireError};

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// `ok ...` and `error ...`.
    Text,
    /// The same facts as one JSON object a line.
    Json,
}

/// The console of one device.
pub struct Console<W> {
    name: String,
    device: Device,
    faults: Faults,
    outbox: Outbox,
    answers: Answers,
    out: W,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Fault(#[from] FaultError),
    #[error("no frame has been made yet")]
    NothingSent,
    #[error("the line is too long")]
    LineTooLong,
}

/// One answer: its words, and the same as an object.
struct Answer(String, Value);

impl<W: Write> Console<W> {
    /// A console that answers on `out`.
    pub fn new(name: String, device: Device, outbox: Outbox, answers: Answers, out: W) -> Self {
        Self { name, device, faults: Faults::default(), outbox, answers, out }
    }

    /// Does what is typed until nothing more comes or it is told to quit.
    pub fn run(&mut self, source: &mut Source) -> io::Result<Ending> {
        let mut line = Line::default();
        loop {
            let command = match source.read(&mut line)? {
                Read::End => return Ok(source.ending()),
                Read::TooLong => Err(Refusal::LineTooLong),
                Read::Line => Command::parse(line.typed()).map_err(Refusal::from),
            };
            line.wipe();
            if let Ok(Command::Nothing) = command {
                continue;
            }
            let quits = matches!(command, Ok(Command::Quit));
            let answer = command.and_then(|command| self.done(command));
            self.answer(answer)?;
            if quits {
                return Ok(Ending::Soon);
            }
        }
    }

    fn done(&mut self, command: Command) -> Result<Answer, Refusal> {
        match command {
            Command::Nothing => Ok(said("nothing")),
            Command::Take(entry, card) => {
                let room = self.outbox.room()?;
                let frame = self.device.take(entry, card)?;
                let bytes = self.faults.spoiled(&frame.bytes)?;
                let answer = sent("frame", bytes.len(), Some(frame));
                room.send(bytes, self.faults.pace());
                Ok(answer)
            }
            Command::Replay(flip) => self.replay(flip),
            Command::Flip(flip) => {
                self.faults.flip_next(flip);
                Ok(said("flip"))
            }
            Command::Cut(len) => {
                self.faults.cut_next(len);
                Ok(said("cut"))
            }
            Command::Slow(pace) => {
                self.faults.slow_down(pace);
                Ok(said("slow"))
            }
            Command::Skip(count) => {
                let next = self.device.skip(count)?;
                Ok(Answer(format!("skip {count} next {next}"), json!({"ok": "skip", "skipped": count, "next": next})))
            }
            Command::Raw(bytes) => self.send("raw", bytes),
            Command::Garbage(len) => self.send("garbage", garbage(len)),
            Command::Update(block) => {
                self.device.update(&block)?;
                let device = self.device.originator().device().to_string();
                Ok(Answer(format!("update device {device}"), json!({"ok": "update", "device": device})))
            }
            Command::Status => Ok(self.status()),
            Command::Help => {
                // Not an answer, so not where answers go.
                io::stderr().write_all(format!("{HELP}\n").as_bytes()).ok();
                Ok(said("help"))
            }
            Command::Quit => Ok(said("quit")),
        }
    }

    fn replay(&mut self, flip: Option<Flip>) -> Result<Answer, Refusal> {
        let frame = self.device.last().ok_or(Refusal::NothingSent)?;
        let bytes = flip.map_or_else(|| Ok(frame.bytes.clone()), |flip| flip.applied(&frame.bytes))?;
        let answer = sent("frame", bytes.len(), Some(frame));
        self.outbox.room()?.send(bytes, self.faults.pace());
        Ok(answer)
    }

    fn send(&mut self, what: &'static str, bytes: Vec<u8>) -> Result<Answer, Refusal> {
        let answer = sent(what, bytes.len(), None);
        if !bytes.is_empty() {
            self.outbox.room()?.send(bytes, self.faults.pace());
        }
        Ok(answer)
    }

    fn status(&self) -> Answer {
        let originator = self.device.originator();
        let (name, format, device) = (&self.name, self.device.format().name(), originator.device().to_string());
        let next = originator.next_counter();
        let (connected, waiting) = (self.outbox.is_connected(), self.outbox.waiting());
        Answer(
            format!(
                "status name {name} format {format} device {device} next {} peer {} waiting {waiting}",
                next.map_or("exhausted".to_owned(), |next| next.to_string()),
                if connected { "connected" } else { "none" },
            ),
            json!({"ok": "status", "name": name, "format": format, "device": device, "next": next,
                "exhausted": next.is_none(), "connected": connected, "waiting": waiting}),
        )
    }

    fn answer(&mut self, answer: Result<Answer, Refusal>) -> io::Result<()> {
        let line = match (self.answers, answer) {
            (Answers::Text, Ok(Answer(words, _))) => format!("ok {words}\n"),
            (Answers::Text, Err(refusal)) => format!("error {refusal}\n"),
            (Answers::Json, Ok(Answer(_, object))) => format!("{object}\n"),
            (Answers::Json, Err(refusal)) => format!("{}\n", json!({"error": refusal.to_string()})),
        };
        self.out.write_all(line.as_bytes())?;
        self.out.flush()
    }
}

fn said(what: &'static str) -> Answer {
    Answer(what.to_owned(), json!({"ok": what}))
}

fn sent(what: &'static str, len: usize, frame: Option<&Frame>) -> Answer {
    match frame.map(|frame| frame.counter) {
        Some(counter) => Answer(
            format!("{what} {len} bytes counter {counter}"),
            json!({"ok": what, "bytes": len, "counter": counter}),
        ),
        None => Answer(format!("{what} {len} bytes"), json!({"ok": what, "bytes": len})),
    }
}
