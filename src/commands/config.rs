//! `warifu config`: is the configuration usable, and what is in force.

use clap::{Args, Subcommand};

use super::output::say;
use crate::cli::ConfigFile;
use crate::config::{self, Config};
use crate::exit::{Attempt as _, Exit, Failure};

/// Check or show the configuration.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu config check --config /etc/warifu/warifu.toml
  WARIFU__SERVER__LISTEN=0.0.0.0:7443 warifu config show --config warifu.toml")]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Check file and environment: unknown keys, impossible values, combinations that are not allowed.
    Check,
    /// Print every setting in force and where it comes from. Secrets are not shown.
    Show,
}

impl ConfigCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        match self.command {
            What::Check => {
                check_files(&file.load(&[])?);
                say("the configuration is usable");
            }
            What::Show => {
                let layers = config::read(file.path(), &[]).or_exit(Exit::Usage, "read the configuration")?;
                say(config::show(&layers).trim_end());
            }
        }
        Ok(())
    }
}

/// A file that is not there is a remark, not an error: the configuration may be checked on another machine.
fn check_files(config: &Config) {
    let files = [
        ("tls.certificate", &config.tls.certificate),
        ("tls.key", &config.tls.key),
        ("tls.client_ca", &config.tls.client_ca),
        ("hsm.module", &config.hsm.module),
        ("hsm.pin_file", &config.hsm.pin_file),
    ];
    for (key, file) in files {
        if !file.exists() {
            say(format_args!("note: {key}: {} is not on this machine", file.display()));
        }
    }
}
