//! `warifu vault`: the keys that card numbers are sealed and known by, and their rotation.

mod moving;
mod retire;
mod rotate;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;
use warifu_actors::store::{MerchantRecord, Store, StoreError, VaultGenerationRecord, VaultGenerationState};
use warifu_core::custody::{Environment, KeyProof};
use warifu_hsm::{VaultGeneration, VaultSpec, WrappedVaultKey};

use super::output::{Listing, moment, remark, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use super::softhsm_env;
use crate::app::harden;
use crate::cli::ConfigFile;
use crate::config::Server;
use crate::exit::{Exit, Failure};
use crate::process;
use retire::Retire;
use rotate::Rotate;

/// Rotate the keys that card numbers are sealed and known by. Tokens stay as they are.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu vault show
  warifu vault rotate --transcript vault-2.transcript
  warifu vault resume
  warifu vault retire --transcript vault-1.gone

A rotation makes a new vault root and a new fingerprint key in the HSM, gives each merchant a new vault key, and seals
every card number anew. Servers go on meanwhile. What was cut off is taken up by `warifu vault resume`.")]
pub(crate) struct VaultCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Show the generations of vault keys, and how far each merchant's vault has moved.
    Show(Listing),
    /// Make the next generation of vault keys and move everything to it; takes two custodians.
    Rotate(Rotate),
    /// Bring a rotation to its end that was cut off.
    Resume,
    /// Destroy the vault keys nothing is sealed under any more; takes two custodians.
    Retire(Retire),
}

impl VaultCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        if !matches!(self.command, What::Show(_)) {
            let config = file.load(&[])?;
            softhsm_env::apply(&config.hsm)?;
            // Card numbers pass here: only a test may ask for a memory that can be looked into.
            let test = config.server.environment == Environment::Test;
            harden(&Server { dumpable: config.server.dumpable && test, ..config.server })?;
        }
        at_desk(file, async |desk| match self.command {
            What::Show(listing) => show(&desk, &listing).await,
            What::Rotate(rotate) => rotate.hold(&desk).await,
            What::Resume => resume(&desk).await,
            What::Retire(retire) => retire.hold(&desk).await,
        })
    }
}

/// Where all vaults stand.
struct Standing {
    generations: Vec<VaultGenerationRecord>,
    merchants: Vec<MerchantRecord>,
}

impl Standing {
    async fn of(store: &Store) -> Result<Self, Failure> {
        let generations = store.vault_generations().await.stored("list the generations of vault keys")?;
        let merchants = store.merchants().await.stored("list the merchants")?;
        Ok(Self { generations, merchants })
    }

    /// The generation new vaults are of. Nobody need have registered the first one.
    fn newest(&self) -> VaultGeneration {
        let ready = self.generations.iter().filter(|known| known.state == VaultGenerationState::Ready);
        ready.map(|known| known.generation).max().unwrap_or(VaultGeneration::FIRST)
    }

    fn proof(&self, generation: VaultGeneration) -> Option<KeyProof> {
        self.generations.iter().find(|known| known.generation == generation)?.proof
    }

    /// The vaults that have not come to rest under the newest keys.
    fn unfinished(&self) -> impl Iterator<Item = &MerchantRecord> {
        let newest = self.newest();
        self.merchants
            .iter()
            .filter(move |merchant| merchant.vault.key.generation != newest || merchant.vault.former.is_some())
    }
}

/// A generation of vault keys that is in use.
pub(crate) struct Needed {
    pub(crate) spec: VaultSpec,
    /// Some merchants' keys that were made under it, as far as there are any: its root is proven by what it unwraps. More than
    /// one, so that one spoiled row stops nobody else.
    pub(crate) made: Vec<WrappedVaultKey>,
}

/// Merchants' keys that prove a vault root.
const SOME: usize = 3;

/// The generations of vault keys a server needs: the newest, and those some merchant's vault is still of.
pub(crate) async fn needed(store: &Store) -> Result<Vec<Needed>, Failure> {
    let standing = Standing::of(store).await?;
    let mut needed = BTreeMap::from([(standing.newest(), Vec::new())]);
    let vaults = standing.merchants.iter().map(|merchant| &merchant.vault);
    for key in vaults.flat_map(|vault| std::iter::once(&vault.key).chain(&vault.former)) {
        let made = needed.entry(key.generation).or_default();
        if made.len() < SOME {
            made.push(key.clone());
        }
    }
    let of = |(generation, made)| Needed { spec: VaultSpec { generation, proof: standing.proof(generation) }, made };
    Ok(needed.into_iter().map(of).collect())
}

/// The generation of vault keys a new merchant's vault begins with, and whether it is registered.
pub(crate) async fn newest(desk: &Desk) -> Result<(VaultGeneration, bool), Failure> {
    let standing = Standing::of(&desk.store).await?;
    Ok((standing.newest(), !standing.generations.is_empty()))
}

/// Registers the first generation of vault keys, with what tells its fingerprint key from every other one: from now on
/// servers hold the slot to it.
pub(crate) async fn register_first(desk: &Desk, proof: KeyProof) -> Result<(), Failure> {
    let at_ms = now_ms();
    let (generation, state) = (VaultGeneration::FIRST, VaultGenerationState::Ready);
    let record = VaultGenerationRecord { generation, state, proof: Some(proof), created_at_ms: at_ms };
    match desk.registry.note_vault_generation(None, &record, at_ms).await {
        // Another command was faster.
        Err(StoreError::Exists(_)) if Standing::of(&desk.store).await?.proof(generation) == Some(proof) => Ok(()),
        noted => noted.stored("register the vault keys"),
    }
}

async fn show(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let standing = Standing::of(&desk.store).await?;
    let generations = standing.generations.iter().map(|known| {
        json!({
            "generation": known.generation.number(),
            "state": known.state.name(),
            "proof": known.proof.map(|proof| proof.to_string()),
            "created_at": moment(known.created_at_ms),
        })
    });
    let generations: Vec<_> = generations.collect();
    let mut vaults = Vec::new();
    for merchant in &standing.merchants {
        let former = merchant.vault.former.as_ref().map(|former| former.generation);
        let left = match former {
            Some(former) => Some(left(&desk.store, merchant, former).await?),
            None => None,
        };
        let behind = merchant.vault.key.generation != standing.newest();
        vaults.push(json!({
            "merchant": merchant.id.as_str(),
            "generation": merchant.vault.key.generation.number(),
            "state": if former.is_some() { "moving" } else if behind { "to be moved" } else { "at rest" },
            "tokens_left": left,
        }));
    }
    if listing.is_json() {
        say(json!({ "generations": generations, "vaults": vaults }));
    } else {
        listing.print(&["generation", "state", "proof", "created_at"], generations);
        say("");
        listing.print(&["merchant", "generation", "state", "tokens_left"], vaults);
    }
    Ok(())
}

/// How many of a merchant's tokens are still of a generation.
async fn left(store: &Store, merchant: &MerchantRecord, former: VaultGeneration) -> Result<u64, Failure> {
    store.count_tokens_of(&merchant.id, former).await.stored("count the merchant's tokens")
}

async fn resume(desk: &Desk) -> Result<(), Failure> {
    if let Err(error) = process::lock_memory() {
        remark(format_args!(
            "memory is not locked, and card numbers pass there: the system may write it to swap: {error}"
        ));
    }
    let standing = Standing::of(&desk.store).await?;
    if let Some(making) = standing.generations.iter().find(|known| known.state == VaultGenerationState::Making) {
        return Err(Failure::new(
            Exit::Refused,
            format_args!(
                "the keys of generation {} were not made to their end: hold `warifu vault rotate` again",
                making.generation
            ),
        ));
    }
    moving::move_all(desk, &standing).await
}
