//! Merchants, modules, devices, requests, tokens, payments and the audit log.

#![allow(elided_lifetimes_in_paths, reason = "async_trait binds the lifetimes of sea-orm-migration's trait so")]

use sea_orm::DbBackend;
use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_foundation"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables(manager.get_database_backend()) {
            manager.create_table(table).await?;
        }
        let db = manager.get_connection();
        for index in INDEXES {
            db.execute_unprepared(index).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration("tokens and audit records are not thrown away by a migration".to_owned()))
    }
}

/// What is looked up besides primary keys. The words of the partial index stand also in its query.
const INDEXES: [&str; 6] = [
    "CREATE UNIQUE INDEX module_certificate ON module (certificate_sha256)",
    "CREATE UNIQUE INDEX device_ksn ON device (ksn_device)",
    "CREATE UNIQUE INDEX token_fingerprint ON token (merchant_id, fingerprint)",
    "CREATE INDEX payment_order ON payment (merchant_id, order_number)",
    "CREATE INDEX payment_merchant ON payment (merchant_id, id)",
    "CREATE INDEX payment_open ON payment (instance) WHERE state IN ('sent', 'unknown')",
];

fn tables(backend: DbBackend) -> Vec<TableCreateStatement> {
    vec![
        merchant(),
        module(),
        device(),
        request(backend),
        token(backend),
        payment(),
        record(backend),
        frontier(),
        head(),
    ]
}

fn merchant() -> TableCreateStatement {
    table("merchant", [key("id"), text("name"), text("last_four"), bytes("wrapped_vault_key"), int("created_at_ms")])
}

fn module() -> TableCreateStatement {
    table("module", [key("id"), text("merchant_id"), text("certificate_sha256"), text("state"), int("created_at_ms")])
}

fn device() -> TableCreateStatement {
    table(
        "device",
        [
            key("id"),
            text("merchant_id"),
            text("scheme"),
            text("ksn_device"),
            text("bdk_id"),
            text("format"),
            optional(ColumnDef::new("key_variant").text()),
            text("state"),
            text("card_check"),
            int("ksn_window"),
            int("high_water"),
            int("used_below"),
            int("faults"),
            optional(ColumnDef::new("model").text()),
            optional(ColumnDef::new("firmware").text()),
            optional(ColumnDef::new("sred_approval").text()),
            optional(ColumnDef::new("sred_expires_at_ms").big_integer()),
            int("created_at_ms"),
        ],
    )
}

fn request(backend: DbBackend) -> TableCreateStatement {
    let columns = [
        text("merchant_id"),
        text("request_id"),
        bytes("digest"),
        text("token"),
        text("masked_pan"),
        text("brand"),
        text("device"),
        text("entry"),
        text("scheme"),
        text("mode"),
        optional(ColumnDef::new("payment_id").uuid()),
        int("created_at_ms"),
    ];
    clustered(table("request", columns), ["merchant_id", "request_id"], backend)
}

fn token(backend: DbBackend) -> TableCreateStatement {
    let columns = [
        text("merchant_id"),
        text("token"),
        bytes("fingerprint"),
        bytes("nonce"),
        bytes("ciphertext"),
        text("masked_pan"),
        text("brand"),
        int("created_at_ms"),
    ];
    clustered(table("token", columns), ["merchant_id", "token"], backend)
}

fn payment() -> TableCreateStatement {
    table(
        "payment",
        [
            ColumnDef::new("id").uuid().not_null().primary_key().take(),
            text("merchant_id"),
            text("order_number"),
            int("amount_minor"),
            text("currency"),
            text("channel"),
            text("token"),
            text("masked_pan"),
            text("brand"),
            text("device"),
            text("entry"),
            text("scheme"),
            text("mode"),
            text("state"),
            optional(ColumnDef::new("approval_code").text()),
            optional(ColumnDef::new("response_code").text()),
            text("instance"),
            int("created_at_ms"),
            int("updated_at_ms"),
        ],
    )
}

fn record(backend: DbBackend) -> TableCreateStatement {
    let columns = [text("log"), int("seq"), text("record"), bytes("leaf")];
    clustered(table("audit_record", columns), ["log", "seq"], backend)
}

fn frontier() -> TableCreateStatement {
    table(
        "audit_frontier",
        [key("log"), ColumnDef::new("owner").uuid().not_null().take(), int("size"), bytes("frontier")],
    )
}

fn head() -> TableCreateStatement {
    let columns = [text("log"), int("size"), bytes("root"), int("at_ms"), bytes("signature"), bytes("public_key")];
    let mut head = table("audit_head", columns);
    head.primary_key(Index::create().col("log").col("size")).take()
}

fn table(name: &'static str, columns: impl IntoIterator<Item = ColumnDef>) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(name);
    for column in columns {
        table.col(column);
    }
    table
}

/// A table that SQLite keeps inside its primary key: one tree to write to instead of two.
fn clustered(mut table: TableCreateStatement, key: [&'static str; 2], backend: DbBackend) -> TableCreateStatement {
    let [first, second] = key;
    table.primary_key(Index::create().col(first).col(second));
    if backend == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    table
}

fn key(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().primary_key().take()
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

fn int(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

fn bytes(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().not_null().take()
}

fn optional(column: &mut ColumnDef) -> ColumnDef {
    column.null().take()
}
