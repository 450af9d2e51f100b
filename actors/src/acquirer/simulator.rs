//! An acquirer that is not one, for demonstrations and tests: the amount says what happens.
//!
//! The last two digits of the amount are the ISO 8583 response code: `00` approves, `51` has no funds, `91` finds no
//! issuer. `68` is approved and answered too late. A card that has ended is declined with `54`. Everything decided is
//! in a journal on disk before it is answered, so that an inquiry after a crash finds it; the journal knows payments
//! and amounts, no cards.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use uuid::Uuid;
use warifu_core::payment::{ApprovalCode, ResponseCode};

use super::{Acquirer, AcquirerError, AuthorizationRequest, Decision, Inquiry};
use crate::clock::{Clock, year_and_month};
use crate::store::job::PaymentId;

/// Questions that may wait for the simulator's thread.
const QUEUE: usize = 4096;
/// Questions whose answers are made durable together.
const BATCH: usize = 256;
/// The code that is answered too late.
const LATE: &str = "68";
/// The code of a card that has ended.
const EXPIRED: &str = "54";

/// The simulator. Its thread ends when it is dropped.
#[derive(Clone)]
pub struct Simulator {
    questions: SyncSender<Question>,
    clock: Arc<dyn Clock>,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// It cannot be opened, read or cut.
    #[error("the acquirer simulator's journal cannot be used")]
    Journal(#[source] io::Error),
    /// A line in the middle is damaged.
    #[error("line {0} of the acquirer simulator's journal is damaged")]
    Damaged(usize),
}

/// One line of the journal: one thing that happened to one payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which payment.
    pub payment: Uuid,
    /// Its trace number, if it was authorized.
    pub stan: Option<u32>,
    /// How much, in minor units.
    pub minor: Option<i64>,
    /// In which currency.
    pub currency: Option<String>,
    /// What came of it.
    pub answer: Answered,
}

/// What came of a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answered {
    /// Approved, with this code.
    Approved(String),
    /// Declined, with this code.
    Declined(String),
    /// Taken back.
    Reversed,
}

/// What was asked, without the card: only what it came to.
enum Question {
    Authorize { entry: Entry, reply: oneshot::Sender<Answered> },
    Inquire { payment: Uuid, reply: oneshot::Sender<Option<Answered>> },
    Reverse { payment: Uuid, reply: oneshot::Sender<()> },
}

impl Simulator {
    /// Opens or creates the journal. A last line that a crash cut short was never answered and is removed.
    ///
    /// # Errors
    /// When the file cannot be used, or is damaged anywhere but at its end.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, SimulatorError> {
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(path).map_err(SimulatorError::Journal)?;
        let (entries, whole) = read(&file)?;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(SimulatorError::Journal)?;
        let mut desk = Desk { file, decided: HashMap::new() };
        entries.into_iter().for_each(|entry| desk.remember(&entry));
        let (questions, asked) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new().name("acquirer".to_owned());
        thread.spawn(move || desk.serve(&asked)).map_err(SimulatorError::Journal)?;
        Ok(Self { questions, clock })
    }

    /// What a journal holds, oldest first: what tests count effects by.
    ///
    /// # Errors
    /// As [`Simulator::open`].
    pub fn journal(path: &Path) -> Result<Vec<Entry>, SimulatorError> {
        File::open(path).map_err(SimulatorError::Journal).and_then(|file| read(&file)).map(|(entries, _)| entries)
    }

    /// What the amount and the date on the card say.
    fn decide(&self, request: &AuthorizationRequest) -> Answered {
        let (year, month) = year_and_month(self.clock.now_ms());
        let code = format!("{:02}", request.amount.minor().rem_euclid(100));
        if request.card.expiry().is_some_and(|expiry| expiry.is_past(year, month)) {
            Answered::Declined(EXPIRED.to_owned())
        } else if code == "00" || code == LATE {
            // Six characters that follow from the payment, as an issuer's do from its own log.
            let tail = request.payment.0.as_u128() & 0x00FF_FFFF;
            Answered::Approved(format!("{tail:06X}"))
        } else {
            Answered::Declined(code)
        }
    }

    fn ask(&self, question: Question) -> Result<(), AcquirerError> {
        self.questions.try_send(question).map_err(|refused| match refused {
            TrySendError::Full(_) => AcquirerError::Silent,
            TrySendError::Disconnected(_) => AcquirerError::Unreachable,
        })
    }
}

impl Acquirer for Simulator {
    fn authorize(&self, request: AuthorizationRequest) -> BoxFuture<'static, Result<Decision, AcquirerError>> {
        let answer = self.decide(&request);
        let late = request.amount.minor().rem_euclid(100) == 68;
        let entry = Entry {
            payment: request.payment.0,
            stan: Some(request.stan),
            minor: Some(request.amount.minor()),
            currency: Some(request.amount.currency().code().to_owned()),
            answer,
        };
        drop(request);
        let (reply, answered) = oneshot::channel();
        let asked = self.ask(Question::Authorize { entry, reply });
        async move {
            asked?;
            let answer = answered.await.map_err(|_| AcquirerError::Unreachable)?;
            if late {
                // The answer is on its way and never arrives in anybody's time.
                return std::future::pending().await;
            }
            decision(&answer)
        }
        .boxed()
    }

    fn inquire(&self, payment: PaymentId) -> BoxFuture<'static, Result<Inquiry, AcquirerError>> {
        let (reply, answered) = oneshot::channel();
        let asked = self.ask(Question::Inquire { payment: payment.0, reply });
        async move {
            asked?;
            match answered.await.map_err(|_| AcquirerError::Unreachable)? {
                None => Ok(Inquiry::NeverSeen),
                Some(Answered::Reversed) => Ok(Inquiry::Reversed),
                Some(answer) => decision(&answer).map(Inquiry::Decided),
            }
        }
        .boxed()
    }

    fn reverse(&self, payment: PaymentId) -> BoxFuture<'static, Result<(), AcquirerError>> {
        let (reply, answered) = oneshot::channel();
        let asked = self.ask(Question::Reverse { payment: payment.0, reply });
        async move {
            asked?;
            answered.await.map_err(|_| AcquirerError::Unreachable)
        }
        .boxed()
    }
}

fn decision(answer: &Answered) -> Result<Decision, AcquirerError> {
    match answer {
        Answered::Approved(code) => ApprovalCode::parse(code).map(Decision::Approved),
        Answered::Declined(code) => ResponseCode::parse(code).map(Decision::Declined),
        // Whoever authorizes a payment that was taken back gets no money for it: "invalid transaction".
        Answered::Reversed => ResponseCode::parse("12").map(Decision::Declined),
    }
    .map_err(|_| AcquirerError::Garbled)
}

/// The journal and what it says of each payment.
struct Desk {
    file: File,
    decided: HashMap<Uuid, Answered>,
}

impl Desk {
    fn serve(mut self, asked: &Receiver<Question>) {
        while let Ok(first) = asked.recv() {
            let batch: Vec<Question> = std::iter::once(first).chain(asked.try_iter().take(BATCH - 1)).collect();
            if self.answer(batch).is_err() {
                // Without a journal there is no answer: whoever asks finds nobody there.
                return;
            }
        }
    }

    fn answer(&mut self, batch: Vec<Question>) -> io::Result<()> {
        let mut lines = Vec::new();
        for question in &batch {
            let entry = match question {
                Question::Authorize { entry, .. } if !self.decided.contains_key(&entry.payment) => entry.clone(),
                Question::Reverse { payment, .. } if self.decided.get(payment) != Some(&Answered::Reversed) => {
                    Entry { payment: *payment, stan: None, minor: None, currency: None, answer: Answered::Reversed }
                }
                Question::Authorize { .. } | Question::Reverse { .. } | Question::Inquire { .. } => continue,
            };
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
            self.remember(&entry);
        }
        if !lines.is_empty() {
            self.file.write_all(&lines)?;
            self.file.sync_data()?;
        }
        for question in batch {
            // Whoever stopped waiting asks again.
            match question {
                Question::Authorize { entry, reply } => {
                    let _ = reply.send(self.decided.get(&entry.payment).cloned().unwrap_or(entry.answer));
                }
                Question::Inquire { payment, reply } => {
                    let _ = reply.send(self.decided.get(&payment).cloned());
                }
                Question::Reverse { reply, .. } => {
                    let _ = reply.send(());
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, entry: &Entry) {
        self.decided.insert(entry.payment, entry.answer.clone());
    }
}

/// All whole lines, and how many bytes they have.
fn read(file: &File) -> Result<(Vec<Entry>, u64), SimulatorError> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0)).map_err(SimulatorError::Journal)?;
    let (mut entries, mut whole, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(SimulatorError::Journal)?;
        if line.last() != Some(&b'\n') {
            return Ok((entries, whole));
        }
        entries.push(serde_json::from_slice(&line).map_err(|_| SimulatorError::Damaged(entries.len() + 1))?);
        whole += u64::try_from(length).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use tempfile::TempDir;
    use warifu_core::merchant::MerchantId;
    use warifu_core::payment::Channel;

    use super::*;
    use crate::acquirer::tests::{card, yen};
    use crate::clock::SystemClock;

    fn journal() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acquirer.jsonl");
        (folder, path)
    }

    fn open(path: &Path) -> Simulator {
        Simulator::open(path, Arc::new(SystemClock)).unwrap()
    }

    fn asking(payment: PaymentId, minor: i64) -> AuthorizationRequest {
        AuthorizationRequest {
            payment,
            stan: 1,
            merchant: MerchantId::parse("shop-1").unwrap(),
            amount: yen(minor),
            channel: Channel::Mail,
            card: card(b"4111111111111111==123"),
        }
    }

    fn payment(number: u128) -> PaymentId {
        PaymentId(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn one_payment_is_decided_once_whatever_is_asked_later() {
        let (_folder, path) = journal();
        let simulator = open(&path);
        let first = simulator.authorize(asking(payment(1), 1200)).await.unwrap();
        assert!(matches!(first, Decision::Approved(_)));
        assert_eq!(simulator.authorize(asking(payment(1), 1251)).await.unwrap(), first);
        assert_eq!(simulator.inquire(payment(1)).await.unwrap(), Inquiry::Decided(first));
        assert_eq!(simulator.inquire(payment(2)).await.unwrap(), Inquiry::NeverSeen);
        assert_eq!(Simulator::journal(&path).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_was_decided_survives_and_a_line_cut_short_was_never_answered() {
        let (_folder, path) = journal();
        let first = open(&path).authorize(asking(payment(1), 1251)).await.unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"payment\":\"0000").unwrap();
        let simulator = open(&path);
        assert_eq!(simulator.inquire(payment(1)).await.unwrap(), Inquiry::Decided(first));
        simulator.authorize(asking(payment(2), 1200)).await.unwrap();
        assert_eq!(Simulator::journal(&path).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_payment_taken_back_before_it_came_is_declined_when_it_comes() {
        let (_folder, path) = journal();
        let simulator = open(&path);
        simulator.reverse(payment(1)).await.unwrap();
        simulator.reverse(payment(1)).await.unwrap();
        assert!(matches!(simulator.authorize(asking(payment(1), 1200)).await.unwrap(), Decision::Declined(_)));
        assert_eq!(simulator.inquire(payment(1)).await.unwrap(), Inquiry::Reversed);
        assert_eq!(Simulator::journal(&path).unwrap().len(), 1);
    }

    #[test]
    fn a_journal_damaged_in_the_middle_is_not_used() {
        let (_folder, path) = journal();
        std::fs::write(&path, b"nonsense\n").unwrap();
        let opened = Simulator::open(&path, Arc::new(SystemClock));
        assert!(matches!(opened.err(), Some(SimulatorError::Damaged(1))));
    }

    #[tokio::test]
    async fn the_journal_has_no_card() {
        let (_folder, path) = journal();
        open(&path).authorize(asking(payment(1), 1200)).await.unwrap();
        let journal = std::fs::read_to_string(&path).unwrap();
        assert!(!journal.contains("4111") && !journal.contains("123\""), "{journal}");
    }
}
