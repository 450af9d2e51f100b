//! How often the registry was changed, so that servers need not read all of it to learn that it was not.

#![allow(elided_lifetimes_in_paths, reason = "async_trait binds the lifetimes of sea-orm-migration's trait so")]

use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0002_registry_generation"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        table.table("registry");
        table.col(ColumnDef::new("id").big_integer().not_null().primary_key());
        table.col(ColumnDef::new("generation").big_integer().not_null());
        manager.create_table(table).await?;
        let first = "INSERT INTO registry (id, generation) VALUES (1, 1)";
        manager.get_connection().execute_unprepared(first).await?;
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("servers of this version need the registry's generation".to_owned()))
    }
}
