//! A vault that moves to its next keys while cards come in, on both databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sea_orm::{ConnectionTrait, Statement};
use warifu_actors::record::Kind;
use warifu_actors::store::job::{Rejection, Take};
use warifu_actors::store::probe::fill_tokens;
use warifu_actors::store::{
    Fingerprints, MerchantRecord, Registry, Resealed, SchemaState, Store, StoreError, TokenRecord, Vault,
    VaultGenerationRecord, VaultGenerationState, VaultStage,
};
use warifu_core::custody::KeyProof;
use warifu_core::merchant::MerchantId;
use warifu_hsm::{SealedPan, VaultGeneration};

use crate::support::{
    AT_MS, Stage, candidate, done, everywhere, fingerprint_of, job, log, merchant, on_postgres, record, take, taken,
    vault_key,
};

const FIRST: VaultGeneration = VaultGeneration::FIRST;

fn shop() -> MerchantId {
    MerchantId::parse("shop").unwrap()
}

/// As a server sees a card while the vault of its merchant moves to `to`.
fn moving(to: VaultGeneration, card: u64, take: Take) -> Take {
    let former = to.former().map(|former| fingerprint_of(former, card));
    Take { fingerprints: Fingerprints { generation: to, current: fingerprint_of(to, card), former }, ..take }
}

/// As a server sees a card of a vault at rest.
fn resting(at: VaultGeneration, card: u64, take: Take) -> Take {
    Take { fingerprints: Fingerprints { generation: at, current: fingerprint_of(at, card), former: None }, ..take }
}

async fn announce(registry: &Registry, to: VaultGeneration) {
    let from = vault_key(to.former().unwrap());
    registry.begin_vault_move(&shop(), &from, &vault_key(to), AT_MS).await.unwrap();
}

/// At once closed for the key before: servers had no time to learn of it.
async fn begin(registry: &Registry, to: VaultGeneration) {
    announce(registry, to).await;
    registry.close_vault_move(&shop(), to, AT_MS).await.unwrap();
}

/// Moves what is left, as an HSM would: `card_of` knows the card behind a token.
async fn reseal_all(store: &Store, registry: &Registry, to: VaultGeneration, card_of: impl Fn(&TokenRecord) -> u64) {
    let left = store.tokens_of(&shop(), to.former().unwrap(), None, 1000).await.unwrap();
    let resealed: Vec<_> = left.iter().map(|token| resealed(token, to, card_of(token))).collect();
    let record = record(Kind::CardsResealed).because(resealed.len());
    registry.reseal(&shop(), to, &resealed, &record).await.unwrap();
}

fn resealed(token: &TokenRecord, to: VaultGeneration, card: u64) -> Resealed {
    let sealed = SealedPan { nonce: [9; 12], ciphertext: vec![0xCD; 32] };
    Resealed { token: token.token, sealed, fingerprint: fingerprint_of(to, card) }
}

async fn end(store: &Store, registry: &Registry, to: VaultGeneration) {
    registry.end_vault_move(&shop(), to, AT_MS).await.unwrap();
    while store.forget_fingerprints(&shop(), to.former().unwrap(), 2).await.unwrap() > 0 {}
}

/// Fingerprints of a generation's column that are in the table.
async fn fingerprints(stage: &Stage, column: &str) -> i64 {
    let outside = stage.place.outside().await;
    let sql = format!("SELECT count({column}) AS n FROM token");
    let row = outside.query_one_raw(Statement::from_string(outside.get_database_backend(), sql)).await.unwrap();
    let count = row.unwrap().try_get("", "n").unwrap();
    outside.close().await.unwrap();
    count
}

#[tokio::test]
async fn a_card_keeps_its_token_through_two_rotations() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let token = |card: u64| candidate(card).token;
        for card in 0..4 {
            let counter = u32::try_from(card).unwrap() + 1;
            let given = taken(done(&stage.writer, job(take(&format!("a{card}"), 0, counter, card, card))).await);
            assert_eq!(given.card.token, token(card));
        }
        let mut counter = 100;
        let mut see = async |what: &str, card: u64, seen: &dyn Fn(Take) -> Take, new: u64| {
            counter += 1;
            let asked = seen(take(&format!("{what}-{counter}"), 0, counter, card, new));
            taken(done(&stage.writer, job(asked)).await).card.token
        };
        let card_of = |record: &TokenRecord| (0..9).find(|card| candidate(*card).token == record.token).unwrap();
        for (to, new) in [(FIRST.next(), 4), (FIRST.next().next(), 5)] {
            let (moving, resting) =
                (|card| move |take| moving(to, card, take), |card| move |take| resting(to, card, take));
            begin(&registry, to).await;
            assert_eq!(see("known", 1, &moving(1), 77).await, token(1));
            // A new card is of the new generation at once, and found by either key.
            assert_eq!(see("new", new, &moving(new), new).await, token(new));
            let stored = stage.store.token(&shop(), &token(new)).await.unwrap().unwrap();
            assert_eq!(stored.generation, to);
            for generation in [to, to.former().unwrap()] {
                let found = stage.store.token_by_fingerprint(&shop(), &fingerprint_of(generation, new)).await.unwrap();
                assert_eq!(found.unwrap().token, token(new));
            }
            // A kill after the first few: whoever goes on sees what is left.
            let few = stage.store.tokens_of(&shop(), to.former().unwrap(), None, 2).await.unwrap();
            let few: Vec<_> = few.iter().map(|token| resealed(token, to, card_of(token))).collect();
            registry.reseal(&shop(), to, &few, &record(Kind::CardsResealed)).await.unwrap();
            let left = stage.store.count_tokens_of(&shop(), to.former().unwrap()).await.unwrap();
            assert_eq!(left, new - 2);
            assert_eq!(see("half-way", 0, &moving(0), 77).await, token(0));
            assert_eq!(see("half-way", 3, &moving(3), 77).await, token(3));
            assert_eq!(
                stage.store.forget_fingerprints(&shop(), to.former().unwrap(), 100).await.unwrap(),
                0,
                "what is still looked up is not forgotten"
            );
            let again = registry.reseal(&shop(), to, &few, &record(Kind::CardsResealed)).await;
            assert!(again.is_err(), "nothing is sealed twice");
            reseal_all(&stage.store, &registry, to, card_of).await;
            end(&stage.store, &registry, to).await;
            for card in 0..=new {
                assert_eq!(see("after", card, &resting(card), 77).await, token(card));
            }
            assert_eq!(stage.store.count_tokens_of(&shop(), to).await.unwrap(), new + 1);
        }
        assert_eq!(
            (fingerprints(&stage, "fingerprint_odd").await, fingerprints(&stage, "fingerprint_even").await),
            (6, 0)
        );
        // A command that slept through a rotation forgets nothing: its column is another generation's now.
        assert_eq!(stage.store.forget_fingerprints(&shop(), FIRST, 100).await.unwrap(), 0);
        assert_eq!(fingerprints(&stage, "fingerprint_odd").await, 6);
        let merchant = stage.store.merchant(&shop()).await.unwrap().unwrap();
        assert_eq!((merchant.vault.key.clone(), merchant.vault.former.clone()), (vault_key(FIRST.next().next()), None));
        stage.check_log("one").await;
        stage.check_log("cli").await;
    })
    .await;
}

#[tokio::test]
async fn nothing_new_is_sealed_under_keys_a_vault_has_left() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let second = FIRST.next();
        // Both servers know the device and its vault at rest.
        let (_, other) = stage.second("two").await;
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        taken(done(&other, job(take("r2", 1, 1, 2, 2))).await);
        announce(&registry, second).await;
        let early = |device: u8| {
            job(take(&format!("early-{device}"), device, 2, 60 + u64::from(device), 60 + u64::from(device)))
        };
        // Who does not know of the new key yet goes on under the old one; who knows is found by it too.
        let first = taken(done(&stage.writer, early(0)).await).card.token;
        let found = moving(second, 60, take("early-found", 1, 2, 0, 99));
        assert_eq!(taken(done(&other, job(found)).await).card.token, first);
        let not_yet = registry.end_vault_move(&shop(), second, AT_MS).await;
        assert!(matches!(not_yet, Err(StoreError::NotFound("vault"))), "{not_yet:?}");
        registry.close_vault_move(&shop(), second, AT_MS).await.unwrap();
        for (writer, device) in [(&stage.writer, 0), (&other, 1)] {
            let old = job(take(&format!("old-{device}"), device, 3, 10 + u64::from(device), 10 + u64::from(device)));
            assert_eq!(done(writer, old.clone()).await, Err(Rejection::VaultMoved));
            // Its counter is not used: the same request comes again under the new keys.
            let again = moving(
                second,
                10 + u64::from(device),
                take(&format!("old-{device}"), device, 3, 0, 20 + u64::from(device)),
            );
            taken(done(writer, job(again)).await);
        }
        // A card that is known is known, whoever looks how.
        taken(done(&other, job(take("known", 1, 4, 1, 30))).await);
        let card_of = |token: &TokenRecord| [1, 2, 60].into_iter().find(|card| candidate(*card).token == token.token);
        reseal_all(&stage.store, &registry, second, |token| card_of(token).unwrap()).await;
        end(&stage.store, &registry, second).await;
        let late = job(take("late-1", 0, 5, 50, 50));
        assert_eq!(done(&stage.writer, late).await, Err(Rejection::VaultMoved));
        taken(done(&stage.writer, job(resting(second, 50, take("late-1", 0, 5, 0, 50)))).await);
        // Who believes that it still moves seals under the right key.
        taken(done(&stage.writer, job(moving(second, 51, take("late-2", 0, 6, 0, 51)))).await);
        assert_eq!(stage.store.forget_fingerprints(&shop(), FIRST, 10).await.unwrap(), 1);
        assert_eq!(stage.store.count_tokens_of(&shop(), FIRST).await.unwrap(), 0);
    })
    .await;
}

/// Two servers take new cards under keys they learned a while ago, while a vault moves twice.
#[tokio::test(flavor = "multi_thread")]
async fn servers_with_an_old_view_leave_nothing_behind() {
    /// Cards under one view.
    const VIEW: u32 = 200;
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let over = Arc::new(AtomicBool::new(false));
        let (store, other) = stage.second("two").await;
        let servers = [(0_u8, stage.store.clone(), stage.writer.clone()), (1, store, other)];
        let servers = servers.map(|(device, store, writer)| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let (mut given, mut refused) = (0, 0);
                for counter in 1..400_u32 {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Seen once in many.
                    let mut seen = store.merchant(&shop()).await.unwrap().unwrap().vault.stage();
                    for step in 0..VIEW {
                        let number = u64::from(device) * 1_000_000 + u64::from(counter * VIEW + step);
                        let asked = take(&format!("c{number}"), device, counter * VIEW + step + 1, 0, number);
                        let as_seen = |seen: VaultStage, asked: Take| match seen.moving {
                            true => moving(seen.generation, number, asked),
                            false => resting(seen.generation, number, asked),
                        };
                        match done(&writer, job(as_seen(seen, asked.clone()))).await {
                            Ok(_) => given += 1,
                            Err(Rejection::VaultMoved) => {
                                refused += 1;
                                seen = store
                                    .merchants()
                                    .await
                                    .unwrap()
                                    .into_iter()
                                    .find(|it| it.id == shop())
                                    .unwrap()
                                    .vault
                                    .stage();
                            }
                            Err(Rejection::TokenCollision) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                (given, refused)
            })
        });
        for to in [FIRST.next(), FIRST.next().next()] {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            begin(&registry, to).await;
            // One pass over what was there when it began.
            let mut after = None;
            loop {
                let left = stage.store.tokens_of(&shop(), to.former().unwrap(), after.as_ref(), 64).await.unwrap();
                let Some(last) = left.last() else { break };
                after = Some(last.token);
                // Which card it is does not matter here, only that each is another.
                let cards = left.iter().map(|token| {
                    let digits: u64 = token.token.as_str().parse().unwrap();
                    resealed(token, to, digits)
                });
                let cards: Vec<_> = cards.collect();
                registry.reseal(&shop(), to, &cards, &record(Kind::CardsResealed)).await.unwrap();
            }
            end(&stage.store, &registry, to).await;
            assert_eq!(stage.store.count_tokens_of(&shop(), to.former().unwrap()).await.unwrap(), 0, "left behind");
        }
        over.store(true, Ordering::Relaxed);
        let mut refused = 0;
        for server in servers {
            let (given, its) = server.await.unwrap();
            assert!(given > 0);
            refused += its;
        }
        assert!(refused > 0, "nobody had an old view: the test shows nothing");
        for former in [FIRST, FIRST.next()] {
            assert_eq!(stage.store.count_tokens_of(&shop(), former).await.unwrap(), 0, "left behind afterwards");
        }
        while stage.store.forget_fingerprints(&shop(), FIRST.next(), 1000).await.unwrap() > 0 {}
        assert_eq!(fingerprints(&stage, "fingerprint_even").await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_move_is_begun_and_ended_once_and_in_order() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let second = FIRST.next();
        let not_found =
            |done: Result<(), StoreError>| assert!(matches!(done, Err(StoreError::NotFound("vault"))), "{done:?}");
        not_found(registry.end_vault_move(&shop(), FIRST, AT_MS).await);
        let foreign = vault_key(second);
        not_found(registry.begin_vault_move(&shop(), &foreign, &vault_key(second.next()), AT_MS).await);
        begin(&registry, second).await;
        not_found(registry.begin_vault_move(&shop(), &vault_key(FIRST), &vault_key(second), AT_MS).await);
        not_found(registry.begin_vault_move(&shop(), &vault_key(second), &vault_key(second.next()), AT_MS).await);
        not_found(registry.end_vault_move(&shop(), second.next(), AT_MS).await);
        registry.end_vault_move(&shop(), second, AT_MS).await.unwrap();
        not_found(registry.end_vault_move(&shop(), second, AT_MS).await);

        use VaultGenerationState::{Destroyed, Making, Ready};
        let generation = |state, proof: Option<[u8; 16]>, created_at_ms| VaultGenerationRecord {
            generation: second,
            state,
            proof: proof.map(KeyProof),
            created_at_ms,
        };
        let note = async |seen: Option<&VaultGenerationRecord>, new: &VaultGenerationRecord| {
            let noted = registry.note_vault_generation(seen, new, AT_MS).await;
            assert!(matches!(noted, Ok(()) | Err(StoreError::Exists("vault generation"))), "{noted:?}");
            noted.is_ok()
        };
        let making = generation(Making, None, 5);
        assert!(note(None, &making).await);
        assert!(!note(None, &generation(Making, None, 6)).await, "one command makes the keys");
        assert!(!note(Some(&making), &generation(Destroyed, None, 5)).await);
        // Taken up by another command: the first one's keys never come into use.
        let again = generation(Making, None, 7);
        assert!(note(Some(&making), &again).await);
        assert!(!note(Some(&making), &generation(Ready, Some([7; 16]), 5)).await);
        assert!(!note(Some(&making), &generation(Making, None, 8)).await);
        let ready = generation(Ready, Some([8; 16]), 7);
        assert!(note(Some(&again), &ready).await);
        assert!(!note(Some(&again), &generation(Making, None, 9)).await, "keys that are in use are not made again");
        assert!(!note(Some(&ready), &generation(Ready, Some([9; 16]), 7)).await, "another key takes no key's place");
        assert_eq!(stage.store.vault_generations().await.unwrap(), std::slice::from_ref(&ready));
        // Merchants come with the newest keys only, and keys some vault needs stay.
        let newcomer =
            |id: &str, generation| MerchantRecord { vault: Vault::of(vault_key(generation)), ..merchant(id) };
        let late = registry.register_merchant(&newcomer("late", FIRST)).await;
        assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
        registry.register_merchant(&newcomer("new", second)).await.unwrap();
        let gone = generation(Destroyed, Some([8; 16]), 7);
        let needed = registry.note_vault_generation(Some(&ready), &gone, AT_MS).await;
        assert!(matches!(needed, Err(StoreError::InUse(_))), "{needed:?}");
        let all = stage.store.merchants().await.unwrap();
        for it in &all {
            for (from, to) in [(FIRST, second), (second, second.next())] {
                if it.vault.key.generation <= from {
                    registry.begin_vault_move(&it.id, &vault_key(from), &vault_key(to), AT_MS).await.unwrap();
                    registry.close_vault_move(&it.id, to, AT_MS).await.unwrap();
                    let still = registry.note_vault_generation(Some(&ready), &gone, AT_MS).await;
                    assert!(matches!(still, Err(StoreError::InUse(_))), "{still:?}");
                    registry.end_vault_move(&it.id, to, AT_MS).await.unwrap();
                }
            }
        }
        assert!(note(Some(&ready), &gone).await);
        assert!(!note(Some(&gone), &ready).await);
    })
    .await;
}

/// As the version before left a database: tokens with one fingerprint, merchants with one key.
const BEFORE_SQLITE: &str = "DROP TABLE token; DROP TABLE vault_generation;
CREATE TABLE token (merchant_id text NOT NULL, token text NOT NULL, fingerprint blob NOT NULL, nonce blob NOT NULL,
ciphertext blob NOT NULL, masked_pan text NOT NULL, brand text NOT NULL, created_at_ms bigint NOT NULL,
PRIMARY KEY (merchant_id, token)) WITHOUT ROWID;
CREATE UNIQUE INDEX token_fingerprint ON token (merchant_id, fingerprint);
ALTER TABLE merchant DROP COLUMN vault_generation; ALTER TABLE merchant DROP COLUMN vault_accepts;
ALTER TABLE merchant DROP COLUMN former_vault_key;
DELETE FROM seaql_migrations WHERE version = 'm0004_vault';
INSERT INTO token VALUES ('shop', '{token}', X'{fingerprint}', X'{nonce}', X'{ciphertext}', '411111******1111', 'visa', 7)";

const BEFORE_POSTGRES: &str = "DROP TABLE token; DROP TABLE vault_generation;
CREATE TABLE token (merchant_id text NOT NULL, token text NOT NULL, fingerprint bytea NOT NULL, nonce bytea NOT NULL,
ciphertext bytea NOT NULL, masked_pan text NOT NULL, brand text NOT NULL, created_at_ms bigint NOT NULL,
PRIMARY KEY (merchant_id, token));
CREATE UNIQUE INDEX token_fingerprint ON token (merchant_id, fingerprint);
ALTER TABLE merchant DROP COLUMN vault_generation; ALTER TABLE merchant DROP COLUMN vault_accepts;
ALTER TABLE merchant DROP COLUMN former_vault_key;
DELETE FROM seaql_migrations WHERE version = 'm0004_vault';
INSERT INTO token VALUES ('shop', '{token}', '\\x{fingerprint}', '\\x{nonce}', '\\x{ciphertext}', '411111******1111',
'visa', 7)";

#[tokio::test]
async fn tokens_of_the_version_before_are_kept_and_can_be_rotated() {
    everywhere(|stage| async move {
        let known = candidate(1);
        let before = if stage.place.is_sqlite() { BEFORE_SQLITE } else { BEFORE_POSTGRES };
        let before = before
            .replace("{token}", known.token.as_str())
            .replace("{fingerprint}", &hex(&fingerprint_of(FIRST, 1).0))
            .replace("{nonce}", &hex(&known.sealed.nonce))
            .replace("{ciphertext}", &hex(&known.sealed.ciphertext));
        stage.meddle(&before).await;
        assert_eq!(stage.store.schema_state().await.unwrap(), SchemaState::Behind { steps: 1 });
        stage.store.migrate().await.unwrap();

        let stored = stage.store.token(&shop(), &known.token).await.unwrap().unwrap();
        assert!(stored.sealed == known.sealed);
        assert_eq!((stored.generation, stored.masked, stored.created_at_ms), (FIRST, known.masked, 7));
        let merchants = stage.store.merchants().await.unwrap();
        assert!(
            merchants
                .iter()
                .all(|merchant| merchant.vault.stage() == (VaultStage { generation: FIRST, moving: false }))
        );
        let again = taken(done(&stage.writer, job(take("r1", 0, 1, 1, 2))).await);
        assert_eq!(again.card.token, known.token);
        let registry = stage.store.registry(log("cli"));
        begin(&registry, FIRST.next()).await;
        reseal_all(&stage.store, &registry, FIRST.next(), |_| 1).await;
        end(&stage.store, &registry, FIRST.next()).await;
        let moved = taken(done(&stage.writer, job(resting(FIRST.next(), 1, take("r2", 0, 2, 1, 2)))).await);
        assert_eq!(moved.card.token, known.token);
    })
    .await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Among many thousand others, in both columns' indexes: a look-up that reads its way to a card would stop a shop.
#[tokio::test]
async fn postgres_looks_a_card_up_by_key_among_many() {
    const MANY: u64 = 60_000;
    on_postgres(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        // A vacuum that comes by itself looks at every block, and would be counted as ours.
        stage.meddle("ALTER TABLE token SET (autovacuum_enabled = false)").await;
        fill_tokens(&stage.place.url, &shop(), MANY, |_| ()).await.unwrap();
        taken(done(&stage.writer, job(take("r1", 0, 1, 1, 1))).await);
        begin(&registry, FIRST.next()).await;
        taken(done(&stage.writer, job(moving(FIRST.next(), 2, take("r2", 0, 2, 0, 2)))).await);
        // Another server knows nothing yet, and reads.
        let (store, writer) = stage.second("two").await;
        let before = stage.blocks_of_tokens().await;
        for card in [1, 2, 3] {
            let known = moving(FIRST.next(), card, take("unused", 1, 1, 0, 0)).fingerprints;
            assert_eq!(store.knows_card(&shop(), &known).await.unwrap(), card != 3);
            // Refused from memory, and so read in its transaction: the counter was used.
            let asked = moving(FIRST.next(), card, take(&format!("again-{card}"), 0, 1, 0, 50 + card));
            assert_eq!(done(&writer, job(asked)).await, Err(Rejection::Replayed));
        }
        store.close().await;
        let blocks = stage.blocks_of_tokens().await - before;
        assert!(blocks < 300, "{blocks} blocks were looked at for three cards");
    })
    .await;
}
