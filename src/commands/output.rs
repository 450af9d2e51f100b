//! What a command says: its result on stdout, its remarks on stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A line of the result.
pub(crate) fn say(line: impl Display) {
    // A reader that has gone away (`| head`) is no error of the command.
    let _ = writeln!(io::stdout(), "{line}");
}

/// A remark for the person at the terminal.
pub(crate) fn remark(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints what is known of one thing: an object, as JSON or one fact a line.
pub(crate) fn facts(facts: Value, json: bool) {
    match facts {
        Value::Object(facts) if !json => {
            facts.iter().for_each(|(name, value)| say(format_args!("{name:20}{}", cell(value))));
        }
        facts => say(facts),
    }
}

/// How a list is wanted.
#[derive(clap::Args)]
pub(crate) struct Listing {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Listing {
    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints objects as a JSON array, or as a table of these columns.
    pub(crate) fn print(&self, columns: &[&str], rows: Vec<Value>) {
        if self.json {
            return say(Value::Array(rows));
        }
        let text: Vec<Vec<String>> =
            rows.iter().map(|row| columns.iter().map(|name| cell(&row[*name])).collect()).collect();
        let widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(at, name)| text.iter().map(|row| row[at].chars().count()).chain([name.len()]).max().unwrap_or(0))
            .collect();
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        say(line(columns.to_vec()));
        text.iter().for_each(|row| say(line(row.iter().map(String::as_str).collect())));
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A moment as people and programs read it: `2026-11-22T10:00:00.123Z`.
pub(crate) fn moment(at_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| at_ms.to_string())
}
