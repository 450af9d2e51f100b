//! `warifu module`: which comm modules may connect, and whose they are.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use warifu_actors::store::module::{ModuleRecord, ModuleState};
use warifu_core::merchant::{MerchantId, ModuleId};

use super::output::{Listing, moment, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::identity::CertificateId;
use crate::tls;

/// Register, list and block comm modules.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu module add till-1 --merchant flower-shop --cert pki/till-1.pem --config warifu.toml
  warifu module block till-1

A module is known by the SHA-256 of its certificate; a new certificate is a new module.")]
pub(crate) struct ModuleCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a module by its certificate.
    Add {
        /// Its id: letters, digits, - _ .
        #[arg(value_parser = ModuleId::parse)]
        id: ModuleId,
        /// Whose it is.
        #[arg(long, value_parser = MerchantId::parse)]
        merchant: MerchantId,
        /// Its certificate, PEM.
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
    },
    /// List the modules.
    List(Listing),
    /// Let a module connect no more.
    Block {
        /// Its id.
        #[arg(value_parser = ModuleId::parse)]
        id: ModuleId,
    },
}

impl ModuleCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        at_desk(file, async |desk| match self.command {
            What::Add { id, merchant, cert } => {
                add(&desk, id.clone(), merchant, &cert).await?;
                say(format_args!("module {id} registered"));
                Ok(())
            }
            What::List(listing) => list(&desk, &listing).await,
            What::Block { id } => {
                desk.registry.block_module(&id, now_ms()).await.stored("block the module")?;
                desk.in_force().await;
                say(format_args!("module {id} blocked"));
                Ok(())
            }
        })
    }
}

/// Registers a module by its certificate.
pub(crate) async fn add(desk: &Desk, id: ModuleId, merchant: MerchantId, cert: &Path) -> Result<(), Failure> {
    let chain = tls::certificates(cert).or_exit(Exit::Usage, "read the certificate")?;
    let leaf = chain.first().ok_or_else(|| Failure::new(Exit::Usage, "the file holds no certificate"))?;
    let module = ModuleRecord {
        id,
        merchant,
        certificate_sha256: CertificateId::of(leaf).0,
        state: ModuleState::Active,
        created_at_ms: now_ms(),
    };
    desk.registry.register_module(&module).await.stored("register the module")
}

async fn list(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let modules = desk.store.modules().await.stored("list the modules")?;
    let rows = modules.iter().map(|module| {
        json!({
            "id": module.id.as_str(),
            "merchant": module.merchant.as_str(),
            "state": module.state.name(),
            "certificate_sha256": CertificateId(module.certificate_sha256).to_string(),
            "created_at": moment(module.created_at_ms),
        })
    });
    listing.print(&["id", "merchant", "state", "certificate_sha256", "created_at"], rows.collect());
    Ok(())
}
