//! The registry of base derivation keys, of the people who carry their components, and of the initial keys
//! that left.

#![allow(elided_lifetimes_in_paths, reason = "async_trait binds the lifetimes of sea-orm-migration's trait so")]

use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0003_bdk"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table.table("bdk");
        table.col(ColumnDef::new("id").text().not_null().primary_key());
        for name in ["purpose", "scheme", "environment", "proof", "state"] {
            table.col(ColumnDef::new(name).text().not_null());
        }
        for name in ["merchant_id", "kcv"] {
            table.col(ColumnDef::new(name).text().null());
        }
        for name in ["bits", "created_at_ms"] {
            table.col(ColumnDef::new(name).big_integer().not_null());
        }
        for name in ["activated_at_ms", "expires_at_ms"] {
            table.col(ColumnDef::new(name).big_integer().null());
        }
        manager.create_table(table).await?;
        // One key has one life: out of use under one name, it does not come back under another.
        let once = "CREATE UNIQUE INDEX bdk_proof ON bdk (purpose, scheme, proof)";
        manager.get_connection().execute_unprepared(once).await?;

        let mut table = Table::create();
        table.table("custodian");
        table.col(ColumnDef::new("id").text().not_null().primary_key());
        table.col(ColumnDef::new("certificate_sha256").text().not_null().unique_key());
        table.col(ColumnDef::new("role").text().not_null());
        table.col(ColumnDef::new("state").text().not_null());
        table.col(ColumnDef::new("created_at_ms").big_integer().not_null());
        manager.create_table(table).await?;

        let mut table = Table::create();
        table.table("key_proposal");
        table.col(ColumnDef::new("key_id").text().not_null().primary_key());
        table.col(ColumnDef::new("to_state").text().not_null());
        table.col(ColumnDef::new("compromised").big_integer().not_null());
        table.col(ColumnDef::new("custodian_id").text().not_null());
        table.col(ColumnDef::new("at_ms").big_integer().not_null());
        manager.create_table(table).await?;

        let mut table = Table::create();
        table.table("ik_export");
        table.col(ColumnDef::new("device_id").text().not_null());
        table.col(ColumnDef::new("number").big_integer().not_null());
        table.col(ColumnDef::new("kbpk_id").text().not_null());
        table.col(ColumnDef::new("at_ms").big_integer().not_null());
        table.primary_key(Index::create().col("device_id").col("number"));
        manager.create_table(table).await
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("what is known of keys is not thrown away by a migration".to_owned()))
    }
}
