//! The HSM alone: the most frames a second it opens with nothing else to do, as `warifu hsm doctor --bench` finds out in a
//! process of its own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::exit::{Attempt as _, Exit, Failure};

/// The time of one frame, when as many sessions share the work as are fastest.
pub(super) fn a_frame(config: &Path) -> Result<Duration, Failure> {
    let failed = "measure the HSM alone";
    let program = std::env::current_exe().or_exit(Exit::Internal, failed)?;
    let doctor = Command::new(program)
        .args(["hsm", "doctor", "--bench", "--json", "--config"])
        .arg(config)
        .stderr(Stdio::null())
        .output()
        .or_exit(Exit::Internal, failed)?;
    let said: Value = serde_json::from_slice(&doctor.stdout).or_exit(Exit::Hsm, failed)?;
    let rates = said["pace"]["sessions"].as_array().into_iter().flatten();
    let best = rates.filter_map(|one| one["frames_per_second"].as_f64()).fold(0.0, f64::max);
    Duration::try_from_secs_f64(best.recip()).or_exit(Exit::Hsm, failed)
}
