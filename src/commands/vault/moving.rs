//! Moving vaults to the newest keys: first each gets its key, then, when every server knows of it, merchant by merchant is
//! moved, a few hundred card numbers at a time. What was done stays done
//! wherever it is cut off, and whoever takes it up looks at what is left.

use warifu_actors::record::{Kind, Record};
use warifu_actors::store::{LEASE, MerchantRecord, Resealed, TokenRecord, Vault};
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::pkcs11::{Pkcs11Hsm, Slot};
use warifu_hsm::{CallTally, Hsm as _, HsmError, VaultGeneration, VaultSpec, WrappedVaultKey};

use super::{Standing, left};
use crate::commands::output::{remark, say};
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::{close_slot, open_slot_counted};

/// Card numbers of one transaction.
const TOGETHER: u64 = 256;
/// Old fingerprints that are forgotten at a time.
const FORGOTTEN: u32 = 1000;
/// How often a person hears how far it is: every so many card numbers.
const TOLD: u64 = 20 * TOGETHER;

/// Moves every vault that is not at rest under the newest keys.
pub(super) async fn move_all(desk: &Desk, standing: &Standing) -> Result<(), Failure> {
    let newest = standing.newest();
    let mut calls = CallTally::default();
    let opened = open_slot_counted(&desk.config.hsm, &mut calls);
    let slot = match opened {
        Ok(slot) => slot,
        Err(failure) => {
            note(desk, Kind::HsmFailed, None, "to seal card numbers anew", &calls).await?;
            return Err(failure);
        }
    };
    let moved = Mover::move_all(desk, standing, &slot).await;
    let mut calls = slot.take_calls();
    calls.add(&close_slot(slot));
    note(desk, Kind::HsmSessionOpened, None, "closed after card numbers were sealed anew", &calls).await?;
    let tokens = moved?;
    say(format_args!(
        "every vault is at rest under the keys of generation {newest}; {tokens} card numbers sealed anew"
    ));
    Ok(())
}

/// Writes a use of the HSM down.
async fn note(
    desk: &Desk,
    kind: Kind,
    merchant: Option<&MerchantId>,
    cause: &str,
    calls: &CallTally,
) -> Result<(), Failure> {
    if calls.total() == 0 {
        return Ok(());
    }
    let record = Record::new(u64::try_from(now_ms()).unwrap_or_default(), kind);
    let record = Record { merchant: merchant.map(ToString::to_string), ..record }.because(cause).with_calls(calls);
    desk.registry.note(&record).await.stored("write the audit record")
}

/// Whoever moves vaults, with a session of its own.
struct Mover<'a> {
    desk: &'a Desk,
    session: Pkcs11Hsm,
    /// Calls of a record that could not be written.
    unwritten: CallTally,
    newest: VaultGeneration,
    /// Why vaults could not be moved.
    kept: Vec<String>,
}

impl<'a> Mover<'a> {
    async fn move_all(desk: &'a Desk, standing: &Standing, slot: &Slot) -> Result<u64, Failure> {
        let newest = standing.newest();
        let vaults =
            standing.generations.iter().map(|known| VaultSpec { generation: known.generation, proof: known.proof });
        let vaults: Vec<_> = vaults.collect();
        let session = slot.session_with(&[], &vaults).or_exit(Exit::Hsm, "open a session")?;
        let mut mover = Self { desk, session, unwritten: CallTally::default(), newest, kept: Vec::new() };
        let moved = mover.move_each(&standing.merchants).await;
        let owed = match &moved {
            Ok(_) => mover.owe(Kind::HsmSessionOpened, "card numbers were sealed anew").await,
            Err(_) => mover.owe(Kind::HsmFailed, "sealing card numbers anew was given up").await,
        };
        let tokens = moved?;
        owed?;
        match mover.kept.is_empty() {
            true => Ok(tokens),
            false => Err(Failure::new(Exit::Refused, mover.kept.join("; "))),
        }
    }

    /// Every merchant gets its next key first; when all servers know of them, one vault after another is moved.
    async fn move_each(&mut self, merchants: &[MerchantRecord]) -> Result<u64, Failure> {
        for merchant in merchants {
            let begun = self.begin(merchant).await;
            self.keep_back(begun)?;
        }
        let merchants = self.desk.store.merchants().await.stored("list the merchants")?;
        if merchants.iter().any(|merchant| merchant.vault.accepts < merchant.vault.key.generation) {
            let wait = LEASE + self.desk.config.server.request_timeout;
            remark(format_args!("waiting {} s, until no server seals under the old keys", wait.as_secs_f32().ceil()));
            tokio::time::sleep(wait).await;
        }
        let mut tokens = 0;
        for merchant in &merchants {
            let moved = self.bring(merchant).await;
            tokens += self.keep_back(moved)?.unwrap_or_default();
        }
        Ok(tokens)
    }

    /// What one merchant is refused for holds up no other.
    fn keep_back<T>(&mut self, outcome: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(failure) if failure.exit() == Exit::Refused => {
                self.kept.push(failure.to_string());
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Writes down calls that are in no other record.
    async fn owe(&mut self, kind: Kind, cause: &str) -> Result<(), Failure> {
        let mut calls = self.unwritten.take();
        calls.add(&self.session.take_calls());
        note(self.desk, kind, None, cause, &calls).await
    }

    /// Gives a vault at rest its next key, beside the one it has.
    async fn begin(&mut self, merchant: &MerchantRecord) -> Result<(), Failure> {
        let MerchantRecord { id, vault, .. } = merchant;
        let from = &vault.key;
        if from.generation == self.newest || vault.former.is_some() {
            return Ok(());
        }
        if from.generation.next() != self.newest {
            return Err(Failure::new(
                Exit::Refused,
                format_args!("the vault of {id} is of generation {}, more than one behind", from.generation),
            ));
        }
        // Those of the generation before it share their column with the new ones.
        self.forget(id, from.generation.former()).await?;
        let key = self.session.create_vault_key(self.newest).or_exit(Exit::Hsm, "make the merchant's vault key");
        let kind = if key.is_ok() { Kind::VaultKeyCreated } else { Kind::HsmFailed };
        let calls = self.session.take_calls();
        let noted = note(self.desk, kind, Some(id), "a vault's next key", &calls).await;
        if noted.is_err() {
            self.unwritten.add(&calls);
        }
        noted?;
        let begun = self.desk.registry.begin_vault_move(id, from, &key?, now_ms()).await;
        begun.stored("give the merchant's vault its next key; if another command does the same, let it finish")
    }

    /// Brings a vault that moves to rest; tells how many card numbers were sealed anew.
    async fn bring(&mut self, merchant: &MerchantRecord) -> Result<u64, Failure> {
        let MerchantRecord { id, vault, .. } = merchant;
        let mut moved = 0;
        if let Vault { key: to, former: Some(from), accepts } = vault {
            if *accepts < to.generation {
                let closed = self.desk.registry.close_vault_move(id, to.generation, now_ms()).await;
                closed.stored(
                    "close the merchant's vault for its former key; if another command does the same, let it finish",
                )?;
            }
            moved = self.reseal_all(merchant, from, to).await?;
            let ended = self.desk.registry.end_vault_move(id, to.generation, now_ms()).await;
            ended.stored(
                "throw the merchant's former vault key away; if another command does the same, let it finish",
            )?;
            remark(format_args!("{id}: {moved} card numbers sealed anew, generation {}", to.generation));
        }
        self.forget(id, self.newest.former()).await?;
        Ok(moved)
    }

    /// One look at every token is enough: the vault is closed for the former generation.
    async fn reseal_all(
        &mut self,
        merchant: &MerchantRecord,
        from: &WrappedVaultKey,
        to: &WrappedVaultKey,
    ) -> Result<u64, Failure> {
        let id = &merchant.id;
        let all = left(&self.desk.store, merchant, from.generation).await?;
        let (mut done, mut after, mut unreadable) = (0, None, Vec::new());
        loop {
            let tokens = self.desk.store.tokens_of(id, from.generation, after.as_ref(), TOGETHER).await;
            let tokens = tokens.stored("read the merchant's tokens")?;
            let Some(last) = tokens.last() else { break };
            after = Some(last.token);
            let resealed = self.reseal(id, from, to, &tokens, &mut unreadable).await?;
            if done / TOLD != (done + resealed) / TOLD {
                remark(format_args!("{id}: {} of {all} card numbers sealed anew", done + resealed));
            }
            done += resealed;
        }
        match unreadable.first() {
            None => Ok(done),
            Some(first) => Err(Failure::new(
                Exit::Refused,
                format_args!(
                    "{} card numbers of {id} cannot be opened, that of token {first} among them: its former key is kept",
                    unreadable.len()
                ),
            )),
        }
    }

    async fn reseal(
        &mut self,
        merchant: &MerchantId,
        from: &WrappedVaultKey,
        to: &WrappedVaultKey,
        tokens: &[TokenRecord],
        unreadable: &mut Vec<Token>,
    ) -> Result<u64, Failure> {
        let mut resealed = Vec::with_capacity(tokens.len());
        for TokenRecord { token, sealed, .. } in tokens {
            match self.session.reseal(from, to, merchant, token, sealed) {
                Ok((sealed, fingerprint)) => resealed.push(Resealed { token: *token, sealed, fingerprint }),
                Err(HsmError::Sealed) => unreadable.push(*token),
                Err(error) => return Err(error).or_exit(Exit::Hsm, "seal the merchant's card numbers anew"),
            }
        }
        let record = Record::new(u64::try_from(now_ms()).unwrap_or_default(), Kind::CardsResealed);
        let record = Record { merchant: Some(merchant.to_string()), ..record };
        let record = record.because(format_args!("{} of {}", resealed.len(), tokens.len()));
        let calls = self.session.take_calls();
        let record = record.with_calls(&calls);
        let written = self.desk.registry.reseal(merchant, to.generation, &resealed, &record).await;
        if written.is_err() {
            self.unwritten.add(&calls);
        }
        written
            .stored("write card numbers down that were sealed anew; if no other command does the same, try again")?;
        Ok(u64::try_from(resealed.len()).unwrap_or(u64::MAX))
    }

    /// Forgets what the key of a generation that is over made of a merchant's cards.
    async fn forget(&self, merchant: &MerchantId, former: Option<VaultGeneration>) -> Result<(), Failure> {
        let Some(former) = former else { return Ok(()) };
        loop {
            let forgotten = self.desk.store.forget_fingerprints(merchant, former, FORGOTTEN).await;
            if forgotten.stored("forget the merchant's former fingerprints")? == 0 {
                return Ok(());
            }
        }
    }
}
