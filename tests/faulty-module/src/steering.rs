//! The test's side: where the module is, what it is to do, what it did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::plan::Plan;
use crate::{NOTES, PLAN, REAL};

/// The built module, beside the test that runs.
///
/// # Panics
/// When it is not there: whoever depends on this crate has it built, so something about the build has changed.
pub fn library() -> PathBuf {
    let here = std::env::current_exe().expect("a running program has a path");
    let name = format!("{}warifu_faulty_module{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    // target/PROFILE/deps/test, or target/PROFILE/examples/example.
    let mut places =
        here.ancestors().skip(1).take(2).flat_map(|folder| [folder.join(&name), folder.join("deps").join(&name)]);
    let found = places.find(|place| place.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built beside {}", here.display()))
}

/// Steers the module in whatever process was started with [`Steering::environment`].
pub struct Steering {
    plan: PathBuf,
    notes: PathBuf,
}

/// What a module wrote down.
#[derive(Debug)]
pub struct Notes(Vec<String>);

impl Steering {
    /// In a folder of the test's own, with nothing planned.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        let steering = Self { plan: folder.join("faults.plan"), notes: folder.join("faults.notes") };
        fs::write(&steering.notes, "").expect("the notes can be begun");
        steering.plan("");
        steering
    }

    /// The variables a process needs besides the path of [`library`].
    pub fn environment(&self, real: &Path) -> [(&'static str, PathBuf); 3] {
        [(REAL, real.to_owned()), (PLAN, self.plan.clone()), (NOTES, self.notes.clone())]
    }

    /// Plans this instead of what was planned before, from the next call on.
    ///
    /// # Panics
    /// When it is no plan, or cannot be written.
    pub fn plan(&self, text: &str) {
        text.parse::<Plan>().unwrap_or_else(|error| panic!("{error}"));
        // Replaced in one step: the module may be reading.
        let draft = self.plan.with_extension("draft");
        fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.plan)).expect("the plan can be written");
    }

    /// What the module has written down so far.
    ///
    /// # Panics
    /// When that cannot be read.
    pub fn notes(&self) -> Notes {
        let text = fs::read_to_string(&self.notes).expect("the notes can be read");
        Notes(text.lines().map(str::to_owned).collect())
    }
}

impl Notes {
    /// How many calls failed as planned.
    pub fn faults(&self) -> usize {
        self.0.iter().filter(|line| line.starts_with("fault ")).count()
    }

    /// How often somebody logged in, or tried to.
    pub fn logins(&self) -> usize {
        self.0.iter().filter(|line| *line == "call C_Login").count()
    }

    /// How often each function was called, as of when the module was last finalized.
    ///
    /// # Panics
    /// When a line is not as the module writes it.
    pub fn made(&self) -> BTreeMap<String, u64> {
        let sums = self.0.iter().filter_map(|line| line.strip_prefix("made ")?.split_once(' '));
        sums.map(|(function, times)| (function.to_owned(), times.parse().expect("a number of calls"))).collect()
    }
}
