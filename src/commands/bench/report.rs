//! What was measured: each figure beside what it is to be read against, and the ratio of the two.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::links::{LEAST_A_SECOND, Links, MOST_BYTES};

/// One thing that is measured: the time it takes, for one card or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    /// The database alone: single rows, by so many connections.
    Rows {
        /// How many.
        writers: u32,
    },
    /// The database alone: one row and one commit after the other.
    Commit,
    /// The HSM alone: a frame opened, with as many sessions as are fastest.
    Hsm,
    /// One caller, one card after the other.
    Alone,
    /// Many callers with a card that has a token.
    Known,
    /// Many callers, each card a new one.
    New,
    /// Many cards in one call.
    Together,
    /// As [`Row::Known`], with so many more tokens stored.
    KnownStored {
        /// How many.
        tokens: u64,
    },
    /// As [`Row::New`], with so many more tokens stored.
    NewStored {
        /// How many.
        tokens: u64,
    },
}

/// The times of all rounds.
pub(super) struct Report {
    postgres: bool,
    times: BTreeMap<Row, Vec<Duration>>,
    pub(super) links: Option<Links>,
}

/// A line of the report.
struct Line {
    what: String,
    median: Duration,
    /// What it is read against, the ratio, and what that should be.
    against: Option<(String, f64, Target)>,
}

#[derive(Clone, Copy)]
enum Target {
    /// The least rate.
    AtLeast(f64),
    /// The most time.
    AtMost(f64),
    /// Any rate: told for comparison.
    Any,
}

impl Report {
    pub(super) fn new(postgres: bool) -> Self {
        Self { postgres, times: BTreeMap::new(), links: None }
    }

    pub(super) fn note(&mut self, row: Row, time: Duration) {
        self.times.entry(row).or_default().push(time);
    }

    fn lines(&self) -> Vec<Line> {
        self.times.keys().map(|row| self.line(*row)).collect()
    }

    fn line(&self, row: Row) -> Line {
        let rows = self.times.keys().find(|row| matches!(row, Row::Rows { .. })).copied();
        let rate = |of: Option<Row>, target| {
            // The medians of the ratios of each round, not the ratio of the medians: rounds drift together.
            of.map(|of| (self.what(of), self.ratio(of, row), target))
        };
        let against = match row {
            Row::Rows { .. } | Row::Commit | Row::Hsm => None,
            Row::Known if self.times.contains_key(&Row::Hsm) => rate(Some(Row::Hsm), Target::AtLeast(0.75)),
            Row::Alone => Some((self.what(Row::Commit), self.ratio(row, Row::Commit), Target::AtMost(3.0))),
            Row::Known if self.postgres => rate(rows, Target::AtLeast(0.8)),
            Row::Known => rate(rows, Target::AtLeast(2.0)),
            Row::New => rate(Some(Row::Known), Target::Any),
            Row::Together => rate(Some(Row::Known), Target::AtLeast(3.0)),
            Row::KnownStored { .. } => Some((self.what(Row::Known), self.ratio(row, Row::Known), Target::AtMost(1.3))),
            Row::NewStored { .. } => Some((self.what(Row::New), self.ratio(row, Row::New), Target::AtMost(1.3))),
        };
        Line { what: self.what(row), median: self.median(row), against }
    }

    fn what(&self, row: Row) -> String {
        match row {
            Row::Rows { writers: 1 } => "the database alone: single rows".to_owned(),
            Row::Rows { writers } => format!("the database alone: single rows on {writers} connections"),
            Row::Commit => "the database alone: one row, one commit".to_owned(),
            Row::Hsm => "the HSM alone: frames opened".to_owned(),
            Row::Alone => "one caller".to_owned(),
            Row::Known => "64 callers, a known card".to_owned(),
            Row::New => "64 callers, each card new".to_owned(),
            Row::Together => "1000 cards a call".to_owned(),
            Row::KnownStored { tokens } => format!("64 callers, a known card, {tokens} tokens"),
            Row::NewStored { tokens } => format!("64 callers, each card new, {tokens} tokens"),
        }
    }

    fn median(&self, row: Row) -> Duration {
        let mut times = self.times.get(&row).cloned().unwrap_or_default();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// The median over the rounds of one time by another.
    fn ratio(&self, one: Row, other: Row) -> f64 {
        let times = |row| self.times.get(&row).into_iter().flatten().map(Duration::as_secs_f64);
        let mut ratios: Vec<f64> = times(one).zip(times(other)).map(|(one, other)| one / other).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// One object: every row with its figure, and with what it is read against.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .lines()
            .iter()
            .map(|line| {
                let (against, ratio, at_least, at_most) = match &line.against {
                    None => (Value::Null, Value::Null, Value::Null, Value::Null),
                    Some((against, ratio, Target::AtLeast(least))) => {
                        (json!(against), json!(ratio), json!(least), Value::Null)
                    }
                    Some((against, ratio, Target::AtMost(most))) => {
                        (json!(against), json!(ratio), Value::Null, json!(most))
                    }
                    Some((against, ratio, Target::Any)) => (json!(against), json!(ratio), Value::Null, Value::Null),
                };
                json!({
                    "what": line.what,
                    "median_us": line.median.as_secs_f64() * 1e6,
                    "per_second": line.median.as_secs_f64().recip(),
                    "against": against,
                    "ratio": ratio,
                    "at_least": at_least,
                    "at_most": at_most,
                })
            })
            .collect();
        let links = self.links.as_ref().map(|links| {
            json!({
                "count": links.count,
                "per_second": links.a_second,
                "per_second_at_least": LEAST_A_SECOND,
                "bytes_each": links.bytes_each,
                "bytes_each_at_most": MOST_BYTES,
            })
        });
        json!({ "store": if self.postgres { "postgresql" } else { "sqlite" }, "rows": rows, "links": links })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = if self.postgres { "PostgreSQL" } else { "SQLite" };
        writeln!(f, "a durable token over gRPC and mutual TLS, {store}")?;
        writeln!(f, "{:52} {:>10} {:>9}  ratio", "", "median", "a second")?;
        for Line { what, median, against } in self.lines() {
            let rate = median.as_secs_f64().recip();
            write!(f, "{what:52} {:>10} {rate:>9.0}", format!("{:.0} µs", median.as_secs_f64() * 1e6))?;
            match against {
                None => writeln!(f)?,
                Some((of, ratio, Target::AtLeast(least))) => {
                    writeln!(f, "  {ratio:.2} x the rate of \"{of}\" (aim: {least} or more)")?;
                }
                Some((of, ratio, Target::AtMost(most))) => {
                    writeln!(f, "  {ratio:.2} x the time of \"{of}\" (aim: {most} or less)")?;
                }
                Some((of, ratio, Target::Any)) => writeln!(f, "  {ratio:.2} x the rate of \"{of}\"")?,
            }
        }
        if let Some(Links { count, a_second, bytes_each }) = &self.links {
            let kib = bytes_each / 1024.0;
            writeln!(f, "{count} idle links: {kib:.1} KiB each (aim: {:.0} or less)", MOST_BYTES / 1024.0)?;
            writeln!(f, "{count} idle links: {a_second:.0} opened in a second (aim: {LEAST_A_SECOND:.0} or more)")?;
        }
        Ok(())
    }
}
