//! What a database costs by itself: the least a durable row can cost, beside which the server's own figures are read; and
//! how it is filled as years would fill it.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use sea_orm::{ConnectionTrait, Database, DbErr};

use warifu_core::merchant::MerchantId;

use super::connect::writing;
use super::error::Failure;
use super::{StoreError, migration};

/// The table of the rows, gone afterwards.
const TABLE: &str = "warifu_probe";

/// The time to insert so many rows one by one, each its own transaction, durable as the server's own writer makes it,
/// shared by so many connections. In a database nobody else uses.
///
/// # Errors
/// When the database cannot be used.
pub async fn single_rows(url: &str, connections: u32, rows: u32) -> Result<Duration, StoreError> {
    Ok(insert(url, connections, rows).await.map_err(Failure::from)?)
}

/// Makes an empty database on the PostgreSQL server of `url`, and gives its address.
///
/// # Errors
/// When the server cannot be used, or may not be asked for a database.
pub async fn new_database(url: &str, name: &str) -> Result<String, StoreError> {
    let (address, settings) = url.split_once('?').map_or((url, None), |(address, settings)| (address, Some(settings)));
    let (server, database) = address.rsplit_once('/').unwrap_or_default();
    if server.ends_with('/') || database.is_empty() {
        return Err(StoreError::Address("it names no database"));
    }
    told(url, &format!("CREATE DATABASE {name}")).await?;
    let settings = settings.map(|settings| format!("?{settings}")).unwrap_or_default();
    Ok(format!("{server}/{name}{settings}"))
}

/// Removes a database made by [`new_database`].
///
/// # Errors
/// As [`new_database`].
pub async fn drop_database(url: &str, name: &str) -> Result<(), StoreError> {
    told(url, &format!("DROP DATABASE {name} WITH (FORCE)")).await
}

async fn told(url: &str, statement: &str) -> Result<(), StoreError> {
    let told = async {
        let server = Database::connect(url).await?;
        server.execute_unprepared(statement).await?;
        server.close().await
    };
    Ok(told.await.map_err(Failure::from)?)
}

async fn insert(url: &str, connections: u32, rows: u32) -> Result<Duration, DbErr> {
    let mut open = Vec::new();
    for _ in 0..connections.max(1) {
        open.push(Database::connect(writing(url)).await?);
    }
    let Some(first) = open.first() else { return Ok(Duration::ZERO) };
    first.execute_unprepared(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    first.execute_unprepared(&format!("CREATE TABLE {TABLE} (id BIGINT PRIMARY KEY, body TEXT NOT NULL)")).await?;
    let backend = first.get_database_backend();
    let share = rows.div_ceil(connections.max(1));
    let body = "x".repeat(200);
    let sql = match backend {
        sea_orm::DbBackend::Sqlite => format!("INSERT INTO {TABLE} (id, body) VALUES (?1, ?2)"),
        _ => format!("INSERT INTO {TABLE} (id, body) VALUES ($1, $2)"),
    };
    let begun = Instant::now();
    let inserted = open.iter().zip(0u32..).map(|(db, connection)| {
        let (sql, body) = (&sql, &body);
        async move {
            for row in 0..share {
                let id = i64::from(connection * share + row);
                let values = [id.into(), body.as_str().into()];
                db.execute_raw(sea_orm::Statement::from_sql_and_values(backend, sql, values)).await?;
            }
            Ok::<(), DbErr>(())
        }
    });
    try_join_all(inserted).await?;
    let taken = begun.elapsed();
    first.execute_unprepared(&format!("DROP TABLE {TABLE}")).await?;
    for db in open {
        db.close().await?;
    }
    Ok(taken)
}

/// Tokens of one statement.
const FILL: u64 = 250_000;

/// Stores so many tokens of a merchant, of cards nobody has, all over the range that tokens have. `told` hears how many
/// there are by now. In a database made to be thrown away.
///
/// # Errors
/// When the database cannot be used.
pub async fn fill_tokens(
    url: &str,
    merchant: &MerchantId,
    tokens: u64,
    told: impl FnMut(u64),
) -> Result<(), StoreError> {
    Ok(fill(url, merchant, tokens, told).await.map_err(Failure::from)?)
}

async fn fill(url: &str, merchant: &MerchantId, tokens: u64, mut told: impl FnMut(u64)) -> Result<(), DbErr> {
    let mut options = writing(url);
    // One statement takes longer than any of the server's may.
    options.map_sqlx_postgres_pool_opts(|options| options);
    let db = Database::connect(options).await?;
    let backend = db.get_database_backend();
    // An index is made of many rows faster than it takes them in one by one.
    db.execute_unprepared("DROP INDEX token_fingerprint_odd").await?;
    let step = 10_000_000_000_000_000 / tokens.max(1);
    let sql = match backend {
        sea_orm::DbBackend::Sqlite => {
            "INSERT INTO token (merchant_id, token, fingerprint_odd, nonce, ciphertext, masked_pan, brand, created_at_ms) \
             WITH RECURSIVE count(i) AS (SELECT ?2 UNION ALL SELECT i + 1 FROM count WHERE i + 1 < ?3) \
             SELECT ?1, printf('%016d', i * ?4 + abs(random()) % ?4), randomblob(32), zeroblob(12), zeroblob(32), \
             '411111******1111', 'visa', 0 FROM count"
        }
        _ => {
            "INSERT INTO token (merchant_id, token, fingerprint_odd, nonce, ciphertext, masked_pan, brand, created_at_ms) \
             SELECT $1, lpad((i * $4 + floor(random() * $4)::bigint)::text, 16, '0'), sha256(i::text::bytea), \
             decode(repeat('00', 12), 'hex'), decode(repeat('00', 32), 'hex'), '411111******1111', 'visa', 0 \
             FROM generate_series($2, $3 - 1) AS i"
        }
    };
    let number = |number: u64| sea_orm::Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    let mut done = 0;
    while done < tokens {
        let until = tokens.min(done + FILL);
        let values = [merchant.as_str().into(), number(done), number(until), number(step)];
        db.execute_raw(sea_orm::Statement::from_sql_and_values(backend, sql, values)).await?;
        done = until;
        told(done);
    }
    db.execute_unprepared(migration::FINGERPRINT_ODD).await?;
    db.execute_unprepared("ANALYZE token").await?;
    db.close().await
}
