//! Generations of vault keys: which one each token and each merchant's key is of, and a second column of fingerprints.

#![allow(elided_lifetimes_in_paths, reason = "async_trait binds the lifetimes of sea-orm-migration's trait so")]

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0004_vault"
    }
}

/// The index of fingerprints of odd generations, as [`INDEXES`].
pub(super) const FINGERPRINT_ODD: &str = "CREATE UNIQUE INDEX token_fingerprint_odd ON token (merchant_id, \
                                          fingerprint_odd) WHERE fingerprint_odd IS NOT NULL";

/// Only rows that have a fingerprint of that kind are in its index: outside of rotations it costs nothing.
const INDEXES: [&str; 2] = [
    FINGERPRINT_ODD,
    "CREATE UNIQUE INDEX token_fingerprint_even ON token (merchant_id, fingerprint_even) \
     WHERE fingerprint_even IS NOT NULL",
];

/// SQLite cannot make a column optional: the table is written anew.
const SQLITE: [&str; 4] = [
    "CREATE TABLE token_by_generation (merchant_id text NOT NULL, token text NOT NULL, fingerprint_odd blob, \
     fingerprint_even blob, vault_generation bigint NOT NULL DEFAULT 1, nonce blob NOT NULL, ciphertext blob NOT NULL, \
     masked_pan text NOT NULL, brand text NOT NULL, created_at_ms bigint NOT NULL, PRIMARY KEY (merchant_id, token)) \
     WITHOUT ROWID",
    "INSERT INTO token_by_generation (merchant_id, token, fingerprint_odd, nonce, ciphertext, masked_pan, brand, \
     created_at_ms) SELECT merchant_id, token, fingerprint, nonce, ciphertext, masked_pan, brand, created_at_ms \
     FROM token ORDER BY merchant_id, token",
    "DROP TABLE token",
    "ALTER TABLE token_by_generation RENAME TO token",
];

const POSTGRES: [&str; 5] = [
    "ALTER TABLE token RENAME COLUMN fingerprint TO fingerprint_odd",
    "ALTER TABLE token ALTER COLUMN fingerprint_odd DROP NOT NULL",
    "ALTER TABLE token ADD COLUMN fingerprint_even bytea",
    "ALTER TABLE token ADD COLUMN vault_generation bigint NOT NULL DEFAULT 1",
    "DROP INDEX token_fingerprint",
];

const MERCHANT: [&str; 3] = [
    "ALTER TABLE merchant ADD COLUMN vault_generation bigint NOT NULL DEFAULT 1",
    "ALTER TABLE merchant ADD COLUMN vault_accepts bigint NOT NULL DEFAULT 1",
    "ALTER TABLE merchant ADD COLUMN former_vault_key {bytes}",
];

#[async_trait::async_trait]
impl MigrationTrait for Step {
    /// SQLite too makes all of it or none.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table.table("vault_generation");
        table.col(ColumnDef::new("generation").big_integer().not_null().primary_key());
        table.col(ColumnDef::new("state").text().not_null());
        table.col(ColumnDef::new("proof").text().null());
        table.col(ColumnDef::new("created_at_ms").big_integer().not_null());
        manager.create_table(table).await?;

        let sqlite = manager.get_database_backend() == DbBackend::Sqlite;
        let (token, bytes): (&[&str], _) = if sqlite { (&SQLITE, "blob") } else { (&POSTGRES, "bytea") };
        let db = manager.get_connection();
        for statement in MERCHANT {
            db.execute_unprepared(&statement.replace("{bytes}", bytes)).await?;
        }
        for statement in token.iter().chain(&INDEXES) {
            db.execute_unprepared(statement).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("tokens are not thrown away by a migration".to_owned()))
    }
}
