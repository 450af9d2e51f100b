//! `warifu merchant`: who may take cards.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use warifu_actors::record::{Kind, Record};
use warifu_actors::store::{MerchantRecord, Vault};
use warifu_core::merchant::MerchantId;
use warifu_core::token::LastFour;
use warifu_hsm::WrappedVaultKey;

use super::output::{Listing, moment, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use super::{softhsm_env, vault};
use crate::app::harden;
use crate::cli::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::hsm;

/// Register and list merchants.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu merchant add flower-shop --name \"Hana flowers\" --config warifu.toml
  warifu merchant list --json")]
pub(crate) struct MerchantCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a merchant; its vault key is made in the HSM.
    Add {
        /// Its id: letters, digits, - _ .
        #[arg(value_parser = MerchantId::parse)]
        id: MerchantId,
        /// How people call it; the id if not given.
        #[arg(long)]
        name: Option<String>,
        /// Whether its tokens end as its cards do.
        #[arg(long, value_enum, default_value_t = LastFourArg::Keep)]
        last_four: LastFourArg,
    },
    /// List the merchants.
    List(Listing),
}

/// The last four digits of tokens.
#[derive(Clone, Copy, ValueEnum)]
enum LastFourArg {
    /// Those of the card.
    Keep,
    /// Random.
    Random,
}

impl MerchantCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        match self.command {
            What::Add { id, name, last_four } => {
                let config = file.load(&[])?;
                softhsm_env::apply(&config.hsm)?;
                harden(&config.server)?;
                let last_four = match last_four {
                    LastFourArg::Keep => LastFour::Keep,
                    LastFourArg::Random => LastFour::Random,
                };
                let name = name.unwrap_or_else(|| id.to_string());
                at_desk(file, async |desk| {
                    add(&desk, id.clone(), name, last_four).await?;
                    say(format_args!("merchant {id} registered"));
                    Ok(())
                })
            }
            What::List(listing) => at_desk(file, async |desk| list(&desk, &listing).await),
        }
    }
}

/// Makes the merchant's vault key in the HSM and registers the merchant.
pub(crate) async fn add(desk: &Desk, id: MerchantId, name: String, last_four: LastFour) -> Result<(), Failure> {
    if desk.store.merchant(&id).await.stored("look the merchant up")?.is_some() {
        return Err(Failure::new(Exit::Refused, "the merchant is registered already"));
    }
    let at_ms = now_ms();
    let vault_key = create_vault_key(desk, &id, at_ms).await?;
    let merchant = MerchantRecord { id, name, last_four, vault: Vault::of(vault_key), created_at_ms: at_ms };
    desk.registry.register_merchant(&merchant).await.stored("register the merchant")
}

/// Every call to the HSM is in the audit log before its result is used.
async fn create_vault_key(desk: &Desk, merchant: &MerchantId, at_ms: i64) -> Result<WrappedVaultKey, Failure> {
    let what = "make the merchant's vault key";
    let (generation, registered) = vault::newest(desk).await?;
    let vaults = vault::needed(&desk.store).await?;
    let (made, calls) = hsm::use_once(&desk.config.hsm, what, |slot, session| {
        hsm::own_keys(slot, &vaults)?;
        let key = session.create_vault_key(generation)?;
        let proof = if registered { None } else { Some(session.fingerprint_proof(generation)?) };
        Ok((key, proof))
    });
    let kind = if made.is_ok() { Kind::VaultKeyCreated } else { Kind::HsmFailed };
    let mut record = Record::new(u64::try_from(at_ms).unwrap_or_default(), kind).with_calls(&calls);
    record.merchant = Some(merchant.to_string());
    desk.registry.note(&record).await.stored("write the audit record")?;
    let (key, proof) = made?;
    if let Some(proof) = proof {
        vault::register_first(desk, proof).await?;
    }
    Ok(key)
}

async fn list(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let merchants = desk.store.merchants().await.stored("list the merchants")?;
    let rows = merchants.iter().map(|merchant| {
        let last_four = match merchant.last_four {
            LastFour::Keep => "keep",
            LastFour::Random => "random",
        };
        json!({
            "id": merchant.id.as_str(),
            "name": merchant.name,
            "last_four": last_four,
            "created_at": moment(merchant.created_at_ms),
        })
    });
    listing.print(&["id", "name", "last_four", "created_at"], rows.collect());
    Ok(())
}
