//! The `warifu` program.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    warifu::cli::Cli::parse().run()
}
