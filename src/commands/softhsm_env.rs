//! SoftHSM reads the place of its tokens from `SOFTHSM2_CONF` alone, so the process begins again with it set.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, absolute};
use std::process::Command;
use std::{env, io};

use crate::config::HsmSettings;
use crate::exit::{Attempt as _, Exit, Failure};

const VARIABLE: &str = "SOFTHSM2_CONF";

/// Makes sure that the variable is as the configuration says; begins again if it is not.
pub(crate) fn apply(settings: &HsmSettings) -> Result<(), Failure> {
    match &settings.softhsm_config {
        Some(config) if !is_set(config) => {
            begin_again(config, &[]).or_exit(Exit::Internal, "begin again with SoftHSM's configuration")?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether this process has the right variable.
pub(crate) fn is_set(config: &Path) -> bool {
    match (env::var_os(VARIABLE), absolute(config)) {
        (Some(set), Ok(wanted)) => set == wanted,
        _ => false,
    }
}

/// Begins this process again with the same arguments, and these after them. Returns only if that fails.
pub(crate) fn begin_again(config: &Path, more: &[&str]) -> Result<Infallible, io::Error> {
    let program = env::current_exe()?;
    let mut again = Command::new(program);
    again.args(env::args_os().skip(1)).args(more).env(VARIABLE, absolute(config)?);
    Err(again.exec())
}
