//! Settings laid over each other: defaults, then the file, then the environment, then flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::ConfigError;
use super::key::{self, BDK_KEYS, KEYS, Key, Kind};
use super::show::has_password;

/// What a setting in the environment starts with.
pub const ENV_PREFIX: &str = "WARIFU__";

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

/// A value of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
}

/// All settings with their sources, and the keys of each `[[bdk]]`.
#[derive(Debug)]
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Source)>,
    bdks: Vec<BTreeMap<&'static str, Value>>,
}

impl Layers {
    /// The defaults.
    pub fn defaults() -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for key in &KEYS {
            if let Some(text) = key.default {
                values.insert(key.path, (parse(key, key.path, text)?, Source::Default));
            }
        }
        Ok(Self { values, bdks: Vec::new() })
    }

    /// Lays a TOML text over what is there. `file` is for messages.
    pub fn file(mut self, file: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = text.parse().map_err(|error| syntax(file, text, &error))?;
        for (section, content) in table {
            match content {
                toml::Value::Array(rows) if section == "bdk" => {
                    self.bdks = rows.into_iter().map(bdk_row).collect::<Result<_, _>>()?;
                }
                toml::Value::Table(entries) if section != "bdk" => {
                    for (name, value) in entries {
                        let path = format!("{section}.{name}");
                        let key = find(&path)?;
                        self.values.insert(key.path, (typed(key, &path, value)?, Source::File));
                    }
                }
                _ if section == "bdk" => {
                    return Err(ConfigError::Kind {
                        path: section,
                        wanted: "a list of tables, each begun with [[bdk]]",
                    });
                }
                _ => return Err(unknown(&section)),
            }
        }
        Ok(self)
    }

    /// Lays variables of the environment over what is there; those without the prefix are not looked at.
    pub fn environment(mut self, variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            let key = key::find(&path)
                .ok_or_else(|| ConfigError::UnknownVariable { name: name.clone(), hint: hint(&path).map(variable) })?;
            self.values.insert(key.path, (parse(key, &name, &text)?, Source::Environment));
        }
        Ok(self)
    }

    /// Lays flags of the command line over what is there.
    pub fn flags<'a>(mut self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        for (path, text) in flags {
            let key = find(path)?;
            if key.path == "store.url" && has_password(text) {
                let reason = "a password on the command line is seen by every account: use store.url_file".to_owned();
                return Err(ConfigError::Value { path: key.path, reason });
            }
            self.values.insert(key.path, (parse(key, path, text)?, Source::Flag));
        }
        Ok(self)
    }

    /// A text that may be absent; an empty one is absent.
    pub fn text(&self, path: &'static str) -> Option<&str> {
        match self.values.get(path) {
            Some((Value::Text(text), _)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A number; all numbers have defaults.
    pub fn number(&self, path: &'static str) -> u64 {
        match self.values.get(path) {
            Some((Value::Number(number), _)) => *number,
            _ => 0,
        }
    }

    /// A flag; all flags have defaults.
    pub fn flag(&self, path: &'static str) -> bool {
        matches!(self.values.get(path), Some((Value::Flag(true), _)))
    }

    /// Value and source of a setting.
    pub fn entry(&self, path: &'static str) -> Option<&(Value, Source)> {
        self.values.get(path)
    }

    /// The base derivation keys as written.
    pub fn bdks(&self) -> &[BTreeMap<&'static str, Value>] {
        &self.bdks
    }
}

/// How a setting is written in the environment.
pub fn variable(path: &str) -> String {
    format!("{ENV_PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// Where a text is no TOML, and why, without any of the text.
fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.split('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConfigError::Syntax { file: file.to_owned(), line, column, message: error.message().to_owned() }
}

fn hint(path: &str) -> Option<&'static str> {
    key::nearest(path, KEYS.iter().map(|key| key.path))
}

fn unknown(path: &str) -> ConfigError {
    // A section that does not exist is compared with sections, a key with keys.
    let hint = match path.contains('.') {
        true => hint(path).map(str::to_owned),
        false => {
            let sections = KEYS.iter().filter_map(|key| key.path.split('.').next());
            key::nearest(path, sections.chain(["bdk"])).map(str::to_owned)
        }
    };
    ConfigError::UnknownKey { path: path.to_owned(), hint }
}

fn find(path: &str) -> Result<&'static Key, ConfigError> {
    key::find(path).ok_or_else(|| unknown(path))
}

fn bdk_row(row: toml::Value) -> Result<BTreeMap<&'static str, Value>, ConfigError> {
    let toml::Value::Table(entries) = row else { return Err(unknown("bdk")) };
    let mut values = BTreeMap::new();
    for (name, value) in entries {
        let path = format!("bdk.{name}");
        let key = BDK_KEYS.iter().find(|key| key.path == name).ok_or_else(|| ConfigError::UnknownKey {
            path: path.clone(),
            hint: key::nearest(&name, BDK_KEYS.iter().map(|key| key.path)).map(|near| format!("bdk.{near}")),
        })?;
        values.insert(key.path, typed(key, &path, value)?);
    }
    for key in &BDK_KEYS {
        if let (false, Some(default)) = (values.contains_key(key.path), key.default) {
            values.insert(key.path, parse(key, key.path, default)?);
        }
    }
    Ok(values)
}

fn typed(key: &Key, path: &str, value: toml::Value) -> Result<Value, ConfigError> {
    let value = match (key.kind, value) {
        (Kind::Text, toml::Value::String(text)) => Some(Value::Text(text)),
        (Kind::Number, toml::Value::Integer(number)) => u64::try_from(number).ok().map(Value::Number),
        (Kind::Flag, toml::Value::Boolean(flag)) => Some(Value::Flag(flag)),
        _ => None,
    };
    value.ok_or_else(|| ConfigError::Kind { path: path.to_owned(), wanted: key.kind.name() })
}

fn parse(key: &Key, name: &str, text: &str) -> Result<Value, ConfigError> {
    let value = match key.kind {
        Kind::Text => Some(Value::Text(text.to_owned())),
        Kind::Number => text.parse().ok().map(Value::Number),
        Kind::Flag => text.parse().ok().map(Value::Flag),
    };
    value.ok_or_else(|| ConfigError::Kind { path: name.to_owned(), wanted: key.kind.name() })
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

impl fmt::Display for Value {
    /// As TOML writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}
