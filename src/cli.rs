//! The command line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    audit, bench, calc, config, custodian, dev, device, hsm, key, merchant, module, pki, sales, serve, vault,
};
use crate::config::{Config, ConfigError};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::process;

/// Where the configuration is looked for when nobody says.
const USUAL_FILE: &str = "warifu.toml";

/// Point-to-point-encryption payment server: opens card data under HSM keys, gives back tokens, authorizes payments.
#[derive(Parser)]
#[command(
    name = "warifu",
    version,
    after_help = "\
First steps:
  warifu dev                             a whole throw-away server with emulated devices, on this machine
  warifu config check --config FILE      is this configuration usable?
  warifu serve --config FILE             run the server

Exit codes:
   0 done          1 found or refused something   2 usage or configuration   3 HSM
   4 data store    5 address in use               6 stopped with work left  70 a defect
   7 hsm doctor: the PKCS#11 module cannot be loaded

Settings: defaults < the file < WARIFU__SECTION__KEY in the environment < flags."
)]
pub struct Cli {
    /// The configuration file; without it ./warifu.toml, if there is one.
    #[arg(long, short, global = true, value_name = "FILE", env = "WARIFU_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Dev(dev::Dev),
    Config(config::ConfigCommand),
    Merchant(merchant::MerchantCommand),
    Module(module::ModuleCommand),
    Device(device::DeviceCommand),
    Key(key::KeyCommand),
    Vault(vault::VaultCommand),
    Custodian(custodian::CustodianCommand),
    Sales(sales::SalesCommand),
    Audit(audit::AuditCommand),
    Hsm(hsm::HsmCommand),
    Pki(pki::PkiCommand),
    Bench(bench::Bench),
    Calc(calc::Calc),
}

impl Cli {
    /// Runs the command and says how it ended.
    pub fn run(self) -> ExitCode {
        process::keep_files_private();
        process::quiet_panics();
        // One provider for every TLS connection of the process; it is there already only if this ran before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        match self.dispatch() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                let _ = writeln!(io::stderr(), "warifu: {failure}");
                ExitCode::from(&failure)
            }
        }
    }

    fn dispatch(self) -> Result<(), Failure> {
        let file = ConfigFile(self.config);
        match self.command {
            Command::Serve(command) => command.run(&file),
            Command::Dev(command) => command.run(),
            Command::Config(command) => command.run(&file),
            Command::Merchant(command) => command.run(&file),
            Command::Module(command) => command.run(&file),
            Command::Device(command) => command.run(&file),
            Command::Key(command) => command.run(&file),
            Command::Vault(command) => command.run(&file),
            Command::Custodian(command) => command.run(&file),
            Command::Sales(command) => command.run(&file),
            Command::Audit(command) => command.run(&file),
            Command::Hsm(command) => command.run(&file),
            Command::Pki(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Calc(command) => command.run(),
        }
    }
}

/// Which configuration file the user means.
#[derive(Debug)]
pub struct ConfigFile(Option<PathBuf>);

impl ConfigFile {
    /// The file: the one named, else the usual one if it is there.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Some(file) => Some(file),
            None => Some(Path::new(USUAL_FILE)).filter(|file| file.is_file()),
        }
    }

    /// Reads and checks it, with these flags over it.
    pub fn load(&self, flags: &[(&str, &str)]) -> Result<Config, Failure> {
        let no_file = || ConfigError::NoFile(USUAL_FILE);
        match Config::load(self.path(), flags) {
            // Without any file, what is missing is the file.
            Err(ConfigError::Missing(_)) if self.path().is_none() => Err(no_file()),
            other => other,
        }
        .or_exit(Exit::Usage, "use the configuration")
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_manual_parse() {
        for line in [
            "warifu serve --config warifu.toml --listen 127.0.0.1:0",
            "warifu --config warifu.toml serve",
            "warifu dev --dir d --listen 127.0.0.1:0 --no-devices --json",
            "warifu config check --config warifu.toml",
            "warifu config show",
            "warifu merchant add shop --name Shop --last-four keep",
            "warifu merchant list --json",
            "warifu module add till-1 --merchant shop --cert till-1.pem",
            "warifu module block till-1",
            "warifu device add kp-1 --merchant shop --scheme aes --ksn 123456789012000100000000 --bdk b --format native",
            "warifu device activate kp-1",
            "warifu device show kp-1 --json",
            "warifu key register phone-2026 --kcv 7AD386C376 --merchant shop --expires 2029-12-31",
            "warifu key list --json",
            "warifu key init --transcript t",
            "warifu key export-ik --device kp-1 --kbpk factory --out kp-1.tr31 --again",
            "warifu key export-ik --device kp-1-2029 --update-of kp-1 --out kp-1.update",
            "warifu key destroy phone-2026 --transcript t",
            "warifu key ceremony factory --kbpk --bits 128 --transcript t",
            "warifu key ceremony phone-2026 --custodians 3 --transcript t --lang ja",
            "warifu key transcript verify t --public-key audit-key.hex --json",
            "warifu custodian add aiko --cert aiko.pem",
            "warifu key activate phone-2026",
            "warifu vault show --json",
            "warifu vault rotate --transcript t --custodians 3 --lang ja",
            "warifu vault resume",
            "warifu vault retire --transcript t",
            "warifu key deactivate phone-2026 --compromised",
            "warifu sales list --merchant shop --order 42 --json",
            "warifu audit export --out log.jsonl",
            "warifu audit export --out log.jsonl --force",
            "warifu audit verify log.jsonl --previous earlier.jsonl --public-key key.hex",
            "warifu audit key",
            "warifu audit verify log.jsonl --json",
            "warifu hsm doctor --json",
            "warifu hsm doctor --module m.so --token-label t --pin-file pin",
            "warifu hsm doctor --module m.so --module-arguments flags=none --token-label t --pin-file pin",
            "warifu pki init --dir pki",
            "warifu pki issue till-1 --dir pki",
            "warifu calc counter --scheme aes --counter 1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_is_an_error() {
        for (line, kind) in [
            ("warifu", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("warifu sell", ErrorKind::InvalidSubcommand),
            ("warifu module add till-1", ErrorKind::MissingRequiredArgument),
            ("warifu key export-ik --device kp-1 --out f", ErrorKind::MissingRequiredArgument),
            ("warifu key export-ik --device kp-1 --out f --kbpk a --update-of b", ErrorKind::ArgumentConflict),
            ("warifu pki issue ../till-1 --dir pki", ErrorKind::ValueValidation),
            ("warifu device add kp-1 --merchant s --scheme rsa --ksn 00 --bdk b", ErrorKind::InvalidValue),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
        }
    }
}
