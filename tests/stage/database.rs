//! Databases of a test's own, and a second hand in them.

use std::sync::atomic::{AtomicU32, Ordering};

use sea_orm::{ConnectionTrait as _, Database, Statement};

/// Set by `scripts/with-postgres`.
const VARIABLE: &str = "WARIFU_TEST_POSTGRES";

/// Makes an empty PostgreSQL database and gives its address.
pub async fn fresh_postgres() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = std::env::var(VARIABLE)
        .unwrap_or_else(|_| panic!("{VARIABLE} is not set: run this as `scripts/with-postgres cargo test`"));
    let name = format!("stage_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    execute(&server, &format!("CREATE DATABASE {name}")).await;
    let (host, _) = server.rsplit_once('/').expect("the address names a database");
    format!("{host}/{name}")
}

/// Executes a statement as somebody else than the server.
pub async fn execute(url: &str, statement: &str) {
    let connection = Database::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    connection.execute_unprepared(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    connection.close().await.expect("the connection closes");
}

/// Asks for one text.
pub async fn ask(url: &str, question: &str) -> String {
    let connection = Database::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let statement = Statement::from_string(connection.get_database_backend(), question);
    let row = connection.query_one_raw(statement).await.unwrap_or_else(|error| panic!("{question}: {error}"));
    let answer = row.expect("a row").try_get_by_index(0).expect("a text");
    connection.close().await.expect("the connection closes");
    answer
}
