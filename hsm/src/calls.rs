//! The tally of calls made to the module: each use of the HSM is accounted for, by function.

use std::fmt;

/// How often each PKCS#11 function was called. Small, ordered by first use, no allocation once warm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallTally(Vec<(&'static str, u32)>);

impl CallTally {
    /// Counts one call.
    pub fn count(&mut self, function: &'static str) {
        self.count_many(function, 1);
    }

    /// Counts several calls.
    pub fn count_many(&mut self, function: &'static str, times: u32) {
        match self.0.iter_mut().find(|(name, _)| *name == function) {
            Some((_, count)) => *count += times,
            None if times > 0 => self.0.push((function, times)),
            None => {}
        }
    }

    /// Function names and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.0.iter().copied()
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: &Self) {
        for (function, times) in other.iter() {
            self.count_many(function, times);
        }
    }

    /// All calls together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, times)| u64::from(*times)).sum()
    }

    /// Takes the tally, leaving an empty one.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

impl fmt::Display for CallTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (function, times)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { " " };
            write!(f, "{comma}{function}={times}")?;
        }
        Ok(())
    }
}
