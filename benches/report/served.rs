//! What `warifu bench` measured: a whole server beside what its database does alone.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// A report and its title.
pub(crate) type Titled = (String, Vec<Served>);

/// One row of a report.
pub(crate) struct Served {
    pub(crate) what: String,
    pub(crate) median_ns: f64,
    pub(crate) against: String,
}

/// The reports in a folder, each with a title, in the order of their names; none if there is no such folder.
pub(crate) fn served(folder: &Path) -> Result<Vec<Titled>, Box<dyn Error>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.sort();
    files.iter().map(|file| report(file)).collect()
}

fn report(file: &Path) -> Result<Titled, Box<dyn Error>> {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let (hsm, store) = name.split_once('-').unwrap_or((name, ""));
    let keys = if hsm == "softhsm" { "SoftHSM in hardware mode" } else { "keys in software" };
    let store = if store == "sqlite" { "SQLite" } else { "PostgreSQL" };
    let read: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let rows = read["rows"].as_array().ok_or("a report without rows")?;
    let links = &read["links"];
    let linked = [links["per_second"].as_f64(), links["bytes_each"].as_f64()];
    let mut rows: Vec<Served> = rows.iter().map(row).collect();
    if let [Some(a_second), Some(bytes_each)] = linked {
        let against = format!("{:.1} KiB of memory each", bytes_each / 1024.0);
        rows.push(Served { what: format!("{} idle links", links["count"]), median_ns: 1e9 / a_second, against });
    }
    Ok((format!("a durable token over gRPC and mTLS: {keys}, {store}"), rows))
}

fn row(row: &Value) -> Served {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| row[key].as_f64();
    let against = match (number("ratio"), number("at_most")) {
        (None, _) => String::new(),
        (Some(ratio), Some(_)) => format!("{ratio:.2} × the time of “{}”", text("against")),
        (Some(ratio), None) => format!("{ratio:.2} × the rate of “{}”", text("against")),
    };
    Served { what: text("what"), median_ns: number("median_us").unwrap_or(f64::NAN) * 1e3, against }
}
