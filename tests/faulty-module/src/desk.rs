//! Where the module in a process keeps its plan, counts its calls and writes its notes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use cryptoki_sys::CK_SLOT_ID;

use crate::function::Function;
use crate::plan::{Fault, Plan};

/// How often a call that hangs looks for a new plan.
const LOOK: Duration = Duration::from_millis(5);

/// The desk of this process.
pub(crate) struct Desk {
    plan: PathBuf,
    notes: File,
    papers: Mutex<Papers>,
}

#[derive(Default)]
struct Papers {
    plan: Plan,
    /// What the file was like when it was last read.
    stamp: Option<Stamp>,
    /// Plans so far.
    edition: u64,
    /// Calls since the module was loaded.
    made: BTreeMap<Function, u64>,
    /// Slots in which sessions were opened.
    used: BTreeSet<CK_SLOT_ID>,
}

/// A file that is replaced has another number or time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: u64,
    modified: Option<SystemTime>,
    len: u64,
}

impl Desk {
    /// The one of this process.
    ///
    /// # Panics
    /// Without the variables: a test that forgot them would see no fault, and pass.
    pub(crate) fn here() -> &'static Self {
        static DESK: OnceLock<Desk> = OnceLock::new();
        DESK.get_or_init(|| {
            let file = |variable| PathBuf::from(variable_named(variable));
            let notes = OpenOptions::new().append(true).create(true).open(file(crate::NOTES));
            Desk {
                plan: file(crate::PLAN),
                notes: notes.expect("the file for the notes can be written"),
                papers: Mutex::default(),
            }
        })
    }

    /// Counts a call and says what happens to it, once it is no longer held up.
    pub(crate) fn order(&self, function: Function) -> Option<Fault> {
        let (fault, edition) = {
            let mut papers = self.papers();
            *papers.made.entry(function).or_default() += 1;
            let fault = papers.plan.next(function);
            (fault, papers.edition)
        };
        if function == Function::C_Login {
            self.note(&format!("call {}", function.name()));
        }
        if let Some(fault) = fault {
            self.note(&format!("fault {} {fault}", function.name()));
        }
        match fault {
            Some(Fault::Delay(time)) => thread::sleep(time),
            Some(Fault::Hang) => {
                while self.papers().edition == edition {
                    thread::sleep(LOOK);
                }
            }
            other => return other,
        }
        // Meanwhile the token may have gone.
        self.papers().plan.is_gone().then_some(Fault::Gone)
    }

    /// Remembers a slot in which a session is opened.
    pub(crate) fn uses(&self, slot: CK_SLOT_ID) {
        self.papers().used.insert(slot);
    }

    /// The slots in which sessions were opened, each once.
    pub(crate) fn take_used(&self) -> BTreeSet<CK_SLOT_ID> {
        std::mem::take(&mut self.papers().used)
    }

    /// Writes down how often each function was called.
    pub(crate) fn sum_up(&self) {
        let made = self.papers().made.clone();
        for (function, times) in made {
            self.note(&format!("made {} {times}", function.name()));
        }
    }

    /// The papers, with the newest plan on top.
    fn papers(&self) -> MutexGuard<'_, Papers> {
        let mut papers = self.papers.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        if papers.stamp != Some(stamp) {
            let text = fs::read_to_string(&self.plan).expect("the plan can be read");
            papers.plan = text.parse().unwrap_or_else(|error| panic!("{error}"));
            papers.stamp = Some(stamp);
            papers.edition += 1;
        }
        papers
    }

    fn stamp(&self) -> Stamp {
        use std::os::unix::fs::MetadataExt as _;
        let about = fs::metadata(&self.plan).expect("there is a plan, be it an empty one");
        Stamp { file: about.ino(), modified: about.modified().ok(), len: about.len() }
    }

    fn note(&self, line: &str) {
        // In one piece: other threads and processes write as well.
        (&self.notes).write_all(format!("{line}\n").as_bytes()).expect("the notes can be written");
    }
}

/// A variable without which this module cannot be.
pub(crate) fn variable_named(name: &str) -> std::ffi::OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("the variable {name} is not set"))
}
