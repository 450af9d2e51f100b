//! A signed head keeps the frontier of its tree: where a log is taken over, hashing goes on from there.

#![allow(elided_lifetimes_in_paths, reason = "async_trait binds the lifetimes of sea-orm-migration's trait so")]

use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0005_head_frontier"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::alter();
        table.table("audit_head").add_column(ColumnDef::new("frontier").blob().null());
        manager.alter_table(table).await
    }
}
