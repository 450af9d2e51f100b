//! `warifu custodian`: the people who take part in key ceremonies.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use warifu_actors::store::CustodianRecord;
use warifu_actors::store::custodian::Role;
use warifu_actors::store::module::ModuleState;
use warifu_core::merchant::CustodianId;

use super::output::{Listing, moment, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::identity::CertificateId;
use crate::tls;

/// Register, list and block key custodians.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu pki issue aiko --dir pki
  warifu custodian add aiko --cert pki/aiko.pem --config warifu.toml
  warifu custodian block aiko

A custodian is a person with a certificate of the authority in tls.client_ca and its private key. Register a person
once: a ceremony takes two different ones.")]
pub(crate) struct CustodianCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a person by certificate.
    Add {
        /// The person's id: letters, digits, - _ .
        #[arg(value_parser = CustodianId::parse)]
        id: CustodianId,
        /// The certificate, PEM.
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// An operator instead: sees the keys over the network (KeyService), and takes no part in ceremonies.
        #[arg(long)]
        operator: bool,
    },
    /// List the custodians.
    List(Listing),
    /// Let a person take part no more.
    Block {
        /// The person's id.
        #[arg(value_parser = CustodianId::parse)]
        id: CustodianId,
    },
}

impl CustodianCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        at_desk(file, async |desk| match self.command {
            What::Add { id, cert, operator } => {
                let role = if operator { Role::Operator } else { Role::Custodian };
                add(&desk, id, &cert, role).await
            }
            What::List(listing) => list(&desk, &listing).await,
            What::Block { id } => {
                desk.registry.block_custodian(&id, now_ms()).await.stored("block the custodian")?;
                say(format_args!("custodian {id} blocked"));
                Ok(())
            }
        })
    }
}

async fn add(desk: &Desk, id: CustodianId, cert: &Path, role: Role) -> Result<(), Failure> {
    let chain = tls::certificates(cert).or_exit(Exit::Usage, "read the certificate")?;
    let leaf = chain.first().ok_or_else(|| Failure::new(Exit::Usage, "the file holds no certificate"))?;
    let custodian = CustodianRecord {
        id,
        certificate_sha256: CertificateId::of(leaf).0,
        role,
        state: ModuleState::Active,
        created_at_ms: now_ms(),
    };
    desk.registry.register_custodian(&custodian).await.stored("register the custodian")?;
    say(format_args!("{} {} registered", role.name(), custodian.id));
    Ok(())
}

async fn list(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let custodians = desk.store.custodians().await.stored("list the custodians")?;
    let rows = custodians.iter().map(|custodian| {
        json!({
            "id": custodian.id.as_str(),
            "role": custodian.role.name(),
            "state": custodian.state.name(),
            "certificate_sha256": CertificateId(custodian.certificate_sha256).to_string(),
            "created_at": moment(custodian.created_at_ms),
        })
    });
    listing.print(&["id", "role", "state", "certificate_sha256", "created_at"], rows.collect());
    Ok(())
}
