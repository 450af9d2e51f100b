//! The settings as they are in force, as TOML with the source of each, and no secret.

use std::fmt::Write as _;

use super::key::KEYS;
use super::layers::{Layers, Source, Value};

/// Writes all settings. A password inside `store.url` is hidden.
pub fn show(layers: &Layers) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in &KEYS {
        let (this, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if this != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[{this}]");
            section = this;
        }
        let _ = match layers.entry(key.path) {
            Some((value, Source::Default)) => writeln!(out, "{name} = {}", shown(key.path, value)),
            Some((value, source)) => writeln!(out, "{name} = {} # from: {source}", shown(key.path, value)),
            None => writeln!(out, "# {name}: not set; {}", key.help),
        };
    }
    for row in layers.bdks() {
        out.push_str("\n[[bdk]]\n");
        for (name, value) in row {
            let _ = writeln!(out, "{name} = {value}");
        }
    }
    out
}

fn shown(path: &str, value: &Value) -> Value {
    match value {
        Value::Text(text) if path == "store.url" => Value::Text(without_password(text)),
        other => other.clone(),
    }
}

/// `postgres://user:secret@host/db?password=secret` → the same with the secrets hidden.
fn without_password(url: &str) -> String {
    let (front, query) = url.split_once('?').map_or((url, None), |(front, query)| (front, Some(query)));
    let mut shown = match front.rsplit_once('@') {
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, login)) => {
                let user = login.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:***@{host}")
            }
            None => format!("***@{host}"),
        },
        None => front.to_owned(),
    };
    if let Some(query) = query {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some((name, _)) if name.contains("password") => format!("{name}=***"),
            _ => part.to_owned(),
        });
        shown = format!("{shown}?{}", parts.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// Whether an address of a data store has a password in it.
pub(super) fn has_password(url: &str) -> bool {
    let (front, query) = url.split_once('?').unwrap_or((url, ""));
    let login = front.rsplit_once('@').map_or("", |(before, _)| before);
    let login = login.split_once("://").map_or(login, |(_, login)| login);
    login.contains(':') || query.split('&').any(|part| part.split('=').next().is_some_and(|n| n.contains("password")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://pos:s3c@ret@db/warifu", "postgres://pos:***@db/warifu"),
            ("postgres://db/warifu?user=pos&password=s3c", "postgres://db/warifu?user=pos&password=***"),
            ("postgres://db/warifu?sslpassword=s3c", "postgres://db/warifu?sslpassword=***"),
            ("sqlite://warifu.db?mode=rwc", "sqlite://warifu.db?mode=rwc"),
        ] {
            assert_eq!(without_password(url), shown);
            assert_eq!(has_password(url), url != shown, "{url}");
        }
        assert!(!has_password("postgres://pos@db/warifu?sslmode=verify-full"));
    }
}
