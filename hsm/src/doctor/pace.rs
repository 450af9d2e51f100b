//! How fast a slot is.

use std::fmt;
use std::time::Duration;

use crate::HsmError;
use crate::pkcs11::{Slot, pace};

/// How fast a slot is.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Each operation by itself.
    pub timings: Vec<Timing>,
    /// Frames a second in so many sessions at once.
    pub sessions: Vec<(usize, f64)>,
}

/// How long an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Which.
    pub operation: &'static str,
    /// Half of them take longer.
    pub median: Duration,
    /// One in a hundred takes longer.
    pub p99: Duration,
}

/// Numbers of sessions that are measured.
const SESSIONS: [usize; 5] = [1, 2, 4, 8, 16];
/// Share of the best rate that is as good.
const AS_GOOD: f64 = 0.9;

/// Measures a slot, which takes some seconds. `before` is told what is measured next.
///
/// # Errors
/// When the slot cannot do one of the operations, or answers no more.
pub fn measure(slot: &Slot, mut before: impl FnMut(&str)) -> Result<Pace, HsmError> {
    before("each operation by itself");
    let timings = pace::operations(slot)?;
    let mut sessions = Vec::new();
    for many in SESSIONS {
        before(&format!("frames in {many} sessions at once"));
        sessions.push((many, pace::frames_a_second(slot, many)?));
    }
    Ok(Pace { timings, sessions })
}

impl Pace {
    /// The fewest sessions that are about as fast as any number of them.
    pub fn proposed_derivers(&self) -> usize {
        let best = self.sessions.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let enough = self.sessions.iter().find(|(_, rate)| *rate >= AS_GOOD * best);
        enough.map_or(1, |(sessions, _)| *sessions)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36}{:>12}{:>12}", "operation", "median", "p99")?;
        for Timing { operation, median, p99 } in &self.timings {
            writeln!(f, "{operation:<36}{:>12}{:>12}", format!("{median:.1?}"), format!("{p99:.1?}"))?;
        }
        writeln!(f)?;
        writeln!(f, "{:<36}{:>12}", "sessions at once", "frames/s")?;
        for (sessions, rate) in &self.sessions {
            writeln!(f, "{sessions:<36}{rate:>12.0}")?;
        }
        write!(f, "\nproposed    hsm.derivers = {}", self.proposed_derivers())
    }
}
