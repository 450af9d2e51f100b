//! `warifu pki`: a small authority for mutual TLS, for a first installation.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use warifu_core::merchant::ModuleId;

use super::output::{remark, say};
use crate::ca::{Authority, Purpose};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::identity::CertificateId;
use crate::tls;

/// Make certificates for the server and its modules.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu pki init --dir pki --server-name pay.example.com --server-name 10.0.0.7
  warifu pki issue till-1 --dir pki

Files: NAME.pem is the certificate, NAME.key its private key (mode 0600). Keep ca.key offline.")]
pub(crate) struct PkiCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Make an authority (ca.pem, ca.key) and the server's certificate (server.pem, server.key).
    Init {
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// A name or address modules reach the server by; may be given several times.
        #[arg(long, value_name = "NAME", default_values = ["localhost", "127.0.0.1"])]
        server_name: Vec<String>,
    },
    /// Issue a certificate for a comm module or a key custodian.
    Issue {
        /// The module's or person's name: letters, digits, - _ .
        #[arg(value_parser = ModuleId::parse)]
        name: ModuleId,
        /// The folder with ca.pem and ca.key; the certificate is written there.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

impl PkiCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            What::Init { dir, server_name } => init(&dir, server_name),
            What::Issue { name, dir } => issue(&dir, name.as_str()),
        }
    }
}

fn init(dir: &Path, names: Vec<String>) -> Result<(), Failure> {
    fs::create_dir_all(dir).or_exit(Exit::Usage, "make the folder")?;
    let authority = Authority::create("warifu authority").or_exit(Exit::Refused, "make the authority")?;
    let server =
        authority.issue("warifu server", &Purpose::Server(names)).or_exit(Exit::Usage, "issue a certificate")?;
    for (identity, name) in [(authority.identity(), "ca"), (&server, "server")] {
        let (certificate, key) = identity.write(dir, name).or_exit(Exit::Refused, "write a certificate")?;
        say(format_args!("{}\n{}", certificate.display(), key.display()));
    }
    Ok(())
}

fn issue(dir: &Path, name: &str) -> Result<(), Failure> {
    let authority =
        Authority::load(&dir.join("ca.pem"), &dir.join("ca.key")).or_exit(Exit::Usage, "read the authority")?;
    let identity = authority.issue(name, &Purpose::Module).or_exit(Exit::Usage, "issue the certificate")?;
    let (certificate, key) = identity.write(dir, name).or_exit(Exit::Refused, "write the certificate")?;
    say(format_args!("{}\n{}", certificate.display(), key.display()));
    let chain = tls::certificates(&certificate).or_exit(Exit::Internal, "read the certificate back")?;
    if let Some(leaf) = chain.first() {
        remark(format_args!("sha256 {}", CertificateId::of(leaf)));
    }
    remark(format_args!("next: warifu module add {name} --merchant MERCHANT --cert {}", certificate.display()));
    remark(format_args!("  or: warifu custodian add {name} --cert {}", certificate.display()));
    Ok(())
}
