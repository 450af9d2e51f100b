//! Many rows in one statement, whose text does not depend on how many they are: so it is prepared once, and a batch
//! of any size is one round trip.
//!
//! PostgreSQL takes an array for each column and unnests them; SQLite takes all rows as one JSON text.

use sea_orm::sea_query::{ArrayType, Values};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, QueryResult, Statement, Value};
use uuid::Uuid;

use super::error::{Cause, Failure};
use super::words::hex;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// An empty text stands for none.
    TextOrNull,
    Int,
    Bytes,
    /// No bytes stand for none.
    BytesOrNull,
    Uuid,
    /// The nil UUID stands for none.
    UuidOrNull,
}

/// Rows to bind, one array for each column.
pub(super) struct Rows {
    columns: &'static [(&'static str, Kind)],
    values: Vec<Vec<Value>>,
    len: usize,
}

/// One statement that writes rows, and must change as many as it is given.
pub(super) struct Write {
    /// Up to and with `FROM`.
    head: &'static str,
    rows: Rows,
    /// What follows the rows, which are called `v`.
    tail: &'static str,
}

impl Rows {
    pub(super) fn new(columns: &'static [(&'static str, Kind)]) -> Self {
        Self { columns, values: columns.iter().map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Adds a row: one value for each column, of its kind.
    pub(super) fn push<const N: usize>(&mut self, row: [Value; N]) {
        debug_assert_eq!(N, self.columns.len());
        for (column, value) in self.values.iter_mut().zip(row) {
            column.push(value);
        }
        self.len += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many rows are to be changed.
    fn wanted(&self) -> i64 {
        i64::try_from(self.len).unwrap_or(i64::MAX)
    }

    /// A statement around the rows.
    fn between(self, head: &str, tail: &str, backend: DbBackend, values: &mut Vec<Value>) -> String {
        let source = self.source(backend, values);
        format!("{head} {source} {tail}")
    }

    /// The rows as a table called `v`; its values are added to `values`. On SQLite that is one value, whose place has no
    /// number: of many statements in one call each takes the next.
    fn source(self, backend: DbBackend, values: &mut Vec<Value>) -> String {
        match backend {
            DbBackend::Sqlite => self.json_source(values),
            _ => self.array_source(values),
        }
    }

    fn array_source(self, values: &mut Vec<Value>) -> String {
        let mut arrays = Vec::with_capacity(self.columns.len());
        let mut shown = Vec::with_capacity(self.columns.len());
        for ((name, kind), column) in self.columns.iter().zip(self.values) {
            let (array, sql) = match kind {
                Kind::Text | Kind::TextOrNull => (ArrayType::String, "text"),
                Kind::Int => (ArrayType::BigInt, "bigint"),
                Kind::Bytes | Kind::BytesOrNull => (ArrayType::Bytes, "bytea"),
                Kind::Uuid | Kind::UuidOrNull => (ArrayType::Uuid, "uuid"),
            };
            values.push(Value::Array(array, Some(Box::new(column))));
            arrays.push(format!("${}::{sql}[]", values.len()));
            shown.push(match kind {
                Kind::TextOrNull => format!("NULLIF(u.{name}, '') AS {name}"),
                Kind::BytesOrNull => format!("NULLIF(u.{name}, ''::bytea) AS {name}"),
                Kind::UuidOrNull => format!("NULLIF(u.{name}, '{}'::uuid) AS {name}", Uuid::nil()),
                Kind::Text | Kind::Int | Kind::Bytes | Kind::Uuid => format!("u.{name}"),
            });
        }
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        format!("(SELECT {} FROM unnest({}) AS u({})) AS v", shown.join(", "), arrays.join(", "), names.join(", "))
    }

    fn json_source(self, values: &mut Vec<Value>) -> String {
        let mut columns: Vec<_> = self.values.into_iter().map(Vec::into_iter).collect();
        let rows: Vec<serde_json::Value> =
            (0..self.len).map(|_| columns.iter_mut().filter_map(Iterator::next).map(json).collect()).collect();
        values.push(serde_json::Value::Array(rows).to_string().into());
        let shown: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (name, kind))| match kind {
                Kind::Text | Kind::Int => format!("value ->> {index} AS {name}"),
                Kind::TextOrNull => format!("NULLIF(value ->> {index}, '') AS {name}"),
                Kind::Bytes | Kind::Uuid => format!("unhex(value ->> {index}) AS {name}"),
                Kind::BytesOrNull => format!("NULLIF(unhex(value ->> {index}), X'') AS {name}"),
                Kind::UuidOrNull => {
                    format!("NULLIF(unhex(value ->> {index}), X'{}') AS {name}", Uuid::nil().simple())
                }
            })
            .collect();
        format!("(SELECT {} FROM json_each(?)) AS v", shown.join(", "))
    }
}

/// A value as JSON; bytes in hex, which SQL turns back.
fn json(value: Value) -> serde_json::Value {
    match value {
        Value::String(Some(text)) => serde_json::Value::String(text),
        Value::BigInt(Some(number)) => number.into(),
        Value::Bytes(Some(bytes)) => hex(&bytes).into(),
        Value::Uuid(Some(id)) => id.simple().to_string().into(),
        // Rows::push is given these four only.
        _ => serde_json::Value::Null,
    }
}

/// One statement that reads rows.
pub(super) struct Select {
    head: &'static str,
    rows: Rows,
    tail: &'static str,
}

impl Select {
    /// Reads what belongs to `rows`: `head` ends with `FROM`, the rows come first, in `v`, so that each is looked up by
    /// key; `tail` goes on with `CROSS JOIN …`.
    pub(super) const fn new(head: &'static str, rows: Rows, tail: &'static str) -> Self {
        Self { head, rows, tail }
    }

    fn sql(self, backend: DbBackend, values: &mut Vec<Value>) -> String {
        self.rows.between(self.head, self.tail, backend, values)
    }

    /// The statement; none for no rows.
    pub(super) fn statement(self, backend: DbBackend) -> Option<Statement> {
        if self.rows.is_empty() {
            return None;
        }
        let mut values = Vec::new();
        let sql = self.sql(backend, &mut values);
        #[cfg(test)]
        seen::note(&sql);
        Some(Statement::from_sql_and_values(backend, sql, values))
    }
}

/// Carries out all selects, in order: with one call on SQLite, where each is a change of threads; one by one on
/// PostgreSQL, whose later ones must see what an earlier one waited for. As many results, in the same order.
pub(super) async fn read<const N: usize>(
    txn: &DatabaseTransaction,
    selects: [Select; N],
) -> Result<[Vec<QueryResult>; N], Failure> {
    let mut found: [Vec<QueryResult>; N] = std::array::from_fn(|_| Vec::new());
    match txn.get_database_backend() {
        DbBackend::Sqlite => read_together(txn, selects, &mut found).await?,
        backend => {
            for (select, found) in selects.into_iter().zip(&mut found) {
                if let Some(statement) = select.statement(backend) {
                    *found = txn.query_all_raw(statement).await?;
                }
            }
        }
    }
    Ok(found)
}

/// Each row says in its column `part` which of the selects it answers.
async fn read_together<const N: usize>(
    txn: &DatabaseTransaction,
    selects: [Select; N],
    found: &mut [Vec<QueryResult>; N],
) -> Result<(), Failure> {
    let (mut statements, mut values) = (Vec::new(), Vec::new());
    for (part, select) in selects.into_iter().enumerate().filter(|(_, select)| !select.rows.is_empty()) {
        let sql = select.sql(DbBackend::Sqlite, &mut values);
        #[cfg(test)]
        seen::note(&sql);
        statements.push(sql.replacen("SELECT", &format!("SELECT {part} AS part,"), 1));
    }
    if statements.is_empty() {
        return Ok(());
    }
    let statement = Statement::from_sql_and_values(DbBackend::Sqlite, statements.join("; "), values);
    for row in txn.query_all_raw(statement).await? {
        let part = usize::try_from(row.try_get::<i64>("", "part")?).ok().and_then(|part| found.get_mut(part));
        part.ok_or(Failure::Corrupt("a part"))?.push(row);
    }
    Ok(())
}

impl Write {
    pub(super) const fn new(head: &'static str, rows: Rows, tail: &'static str) -> Self {
        Self { head, rows, tail }
    }

    fn sql(self, backend: DbBackend, values: &mut Vec<Value>) -> String {
        self.rows.between(self.head, self.tail, backend, values)
    }
}

/// Carries out all writes: in one call on SQLite, as one statement on PostgreSQL.
///
/// # Errors
/// A race if any of them did not change as many rows as it was given.
pub(super) async fn write(txn: &DatabaseTransaction, writes: Vec<Write>) -> Result<(), Failure> {
    let writes: Vec<Write> = writes.into_iter().filter(|write| !write.rows.is_empty()).collect();
    if writes.is_empty() {
        return Ok(());
    }
    match txn.get_database_backend() {
        DbBackend::Sqlite => write_together(txn, writes).await,
        _ => write_at_once(txn, writes).await,
    }
}

/// None can change more rows than it is given, so all of them did what they should if the sum is right.
async fn write_together(txn: &DatabaseTransaction, writes: Vec<Write>) -> Result<(), Failure> {
    let (mut statements, mut values, mut wanted) = (Vec::new(), Vec::new(), 0_u64);
    for write in writes {
        wanted += u64::try_from(write.rows.len).unwrap_or(u64::MAX);
        let sql = write.sql(DbBackend::Sqlite, &mut values);
        #[cfg(test)]
        seen::note(&sql);
        statements.push(sql);
    }
    let statement = Statement::from_sql_and_values(DbBackend::Sqlite, statements.join("; "), values);
    let done = txn.execute_raw(statement).await?;
    if done.rows_affected() == wanted { Ok(()) } else { Err(changed_meanwhile()) }
}

/// Each write becomes one part of a `WITH`, and the statement tells how many rows each changed.
async fn write_at_once(txn: &DatabaseTransaction, writes: Vec<Write>) -> Result<(), Failure> {
    let backend = txn.get_database_backend();
    let mut values = Vec::new();
    let mut parts = Vec::with_capacity(writes.len());
    let mut counts = Vec::with_capacity(writes.len());
    let mut wanted = Vec::with_capacity(writes.len());
    for (index, write) in writes.into_iter().enumerate() {
        wanted.push(write.rows.wanted());
        parts.push(format!("w{index} AS ({} RETURNING 1)", write.sql(backend, &mut values)));
        counts.push(format!("(SELECT count(*) FROM w{index}) AS n{index}"));
    }
    let sql = format!("WITH {} SELECT {}", parts.join(", "), counts.join(", "));
    let row = txn
        .query_one_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?
        .ok_or(Failure::Corrupt("a count"))?;
    for (index, wanted) in wanted.into_iter().enumerate() {
        if row.try_get::<i64>("", &format!("n{index}"))? != wanted {
            return Err(changed_meanwhile());
        }
    }
    Ok(())
}

/// Writes as one call, outside any transaction.
pub(super) struct AtOnce {
    pub(super) sql: String,
    pub(super) values: Values,
    /// Rows the call brings if all of it was carried out.
    pub(super) rows: usize,
}

/// All writes as one call that is a transaction of its own, and fails as a whole unless each of them changes as many rows
/// as it is given; none for no rows.
pub(super) fn at_once(writes: Vec<Write>, backend: DbBackend) -> Option<AtOnce> {
    let mut writes = writes.into_iter().filter(|write| !write.rows.is_empty()).peekable();
    writes.peek()?;
    Some(match backend {
        DbBackend::Sqlite => sqlite_at_once(writes),
        _ => postgres_at_once(writes),
    })
}

/// SQLite has no other error that a statement could make on purpose.
const UNLESS_ALL: &str = "SELECT CASE WHEN changes() = ? THEN 0 ELSE abs(-9223372036854775808) END";

fn sqlite_at_once(writes: impl Iterator<Item = Write>) -> AtOnce {
    let mut values = Vec::new();
    let mut sql = String::from("BEGIN IMMEDIATE; ");
    let mut rows = 1;
    for write in writes {
        let wanted = write.rows.wanted();
        let write = write.sql(DbBackend::Sqlite, &mut values);
        #[cfg(test)]
        seen::note(&write);
        values.push(wanted.into());
        sql.extend([&write, "; ", UNLESS_ALL, "; "]);
        rows += 1;
    }
    // The last row is proof of what came before it.
    sql.push_str("COMMIT; SELECT 0");
    AtOnce { sql, values: Values(values), rows }
}

/// One part of a `WITH` for each write; divided by zero where any of them changed another number of rows.
fn postgres_at_once(writes: impl Iterator<Item = Write>) -> AtOnce {
    let mut values = Vec::new();
    let (mut parts, mut all) = (Vec::new(), Vec::new());
    for (index, write) in writes.enumerate() {
        let wanted = write.rows.wanted();
        parts.push(format!("w{index} AS ({} RETURNING 1)", write.sql(DbBackend::Postgres, &mut values)));
        values.push(wanted.into());
        all.push(format!("(SELECT count(*) FROM w{index}) = ${}", values.len()));
    }
    let sql = format!("WITH {} SELECT 1 / CASE WHEN {} THEN 1 ELSE 0 END", parts.join(", "), all.join(" AND "));
    AtOnce { sql, values: Values(values), rows: 1 }
}

pub(super) fn changed_meanwhile() -> Failure {
    Failure::Race(Cause::new("a row was changed by another process meanwhile"))
}

/// The statements this thread has seen, so that a test can ask how the database carries them out.
#[cfg(test)]
pub(super) mod seen {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn note(sql: &str) {
        SEEN.with_borrow_mut(|seen| seen.insert(sql.to_owned()));
    }

    pub(in crate::store) fn take() -> BTreeSet<String> {
        SEEN.take()
    }
}
