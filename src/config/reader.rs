//! Settings become types: each is checked where it is read, and a wrong one is named.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use warifu_core::custody::Environment;
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_hsm::{BdkSpec, DecryptionMode};

use super::layers::{Layers, Value};
use super::{AcquirerKind, ConfigError, LogFormat, Server, StoreAddress, StoreSettings, TelemetrySettings};

/// Longest time a drain may take: supervisors kill after this.
const MAX_DRAIN_MS: u64 = 10_000;

/// Reads settings out of the layers; relative paths start at a base folder.
pub(super) struct Reader<'a> {
    layers: &'a Layers,
    base: &'a Path,
}

impl<'a> Reader<'a> {
    /// Over these layers.
    pub(super) fn new(layers: &'a Layers, base: &'a Path) -> Self {
        Self { layers, base }
    }

    pub(super) fn server(&self) -> Result<Server, ConfigError> {
        Ok(Server {
            listen: self.address("server.listen")?,
            http_listen: self.address("server.http_listen")?,
            instance: self.instance()?,
            environment: Environment::from_name(self.text("server.environment")?)
                .ok_or_else(|| wrong("server.environment", "must be live or test"))?,
            data_dir: self.path("server.data_dir")?,
            request_timeout: self.duration("server.request_timeout_ms", 100)?,
            queue_wait: self.duration("server.queue_wait_ms", 1)?,
            admission: self.count("server.admission", 1..=65_536)?,
            max_message_bytes: self.count("server.max_message_bytes", 8_192..=1_048_576)?,
            max_connections: self.count("server.max_connections", 1..=1_000_000)?,
            module_connections: self.count("server.module_connections", 1..=65_536)?,
            connection_requests: self.count("server.connection_requests", 1..=65_536)?,
            idle_timeout: self.duration("server.idle_timeout_ms", 1_000)?,
            drain: self.drain()?,
            fault_limit: u32::try_from(self.count("server.fault_limit", 1..=1_000)?).unwrap_or(u32::MAX),
            reflection: self.layers.flag("server.reflection"),
            dumpable: self.layers.flag("server.dumpable"),
        })
    }

    fn instance(&self) -> Result<String, ConfigError> {
        let path = "server.instance";
        let name = self.text(path)?;
        let plain = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if plain { Ok(name.to_owned()) } else { Err(wrong(path, "must have 1 to 40 letters, digits or - _ .")) }
    }

    fn drain(&self) -> Result<Duration, ConfigError> {
        let path = "server.drain_ms";
        let drain = self.duration(path, 1)?;
        if drain <= Duration::from_millis(MAX_DRAIN_MS) { Ok(drain) } else { Err(wrong(path, "at most 10000")) }
    }

    pub(super) fn store(&self) -> Result<StoreSettings, ConfigError> {
        let address = match self.optional_path("store.url_file") {
            Some(file) => StoreAddress::File(file),
            None => {
                let url = self.text("store.url")?;
                if !["sqlite:", "postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme)) {
                    return Err(wrong("store.url", "must start with sqlite: or postgres:"));
                }
                StoreAddress::Url(self.rooted_url(url))
            }
        };
        Ok(StoreSettings {
            address,
            max_batch: self.count("store.max_batch", 1..=4_096)?,
            queue: self.count("store.queue", 1..=1_000_000)?,
        })
    }

    /// A relative SQLite file is taken from the base folder, like every other path.
    fn rooted_url(&self, url: &str) -> String {
        match url.strip_prefix("sqlite://") {
            Some(file) if !file.starts_with('/') && !file.starts_with(':') => {
                format!("sqlite://{}", self.base.join(file).display())
            }
            _ => url.to_owned(),
        }
    }

    pub(super) fn bdks(&self, accept_non_p2pe: bool) -> Result<Vec<BdkSpec>, ConfigError> {
        let mut specs: Vec<BdkSpec> = Vec::new();
        for row in self.layers.bdks() {
            let spec = bdk(row, accept_non_p2pe)?;
            if specs.iter().any(|other| other.id == spec.id) {
                return Err(wrong("bdk.id", &format!("{} stands twice", spec.id)));
            }
            specs.push(spec);
        }
        Ok(specs)
    }

    pub(super) fn acquirer(&self, data_dir: &Path) -> Result<AcquirerKind, ConfigError> {
        match self.text("acquirer.kind")? {
            "simulator" => Ok(AcquirerKind::Simulator { journal: data_dir.join(self.text("acquirer.journal")?) }),
            _ => Err(wrong("acquirer.kind", "must be simulator")),
        }
    }

    pub(super) fn telemetry(&self) -> Result<TelemetrySettings, ConfigError> {
        let log_format = match self.text("telemetry.log_format")? {
            "auto" => LogFormat::Auto,
            "json" => LogFormat::Json,
            "pretty" => LogFormat::Pretty,
            _ => return Err(wrong("telemetry.log_format", "must be auto, json or pretty")),
        };
        let path = "telemetry.otlp_endpoint";
        let otlp_endpoint = self.layers.text(path).map(str::to_owned);
        if otlp_endpoint.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err(wrong(path, "must start with http:// or https://"));
        }
        Ok(TelemetrySettings { log_format, otlp_endpoint })
    }

    pub(super) fn text(&self, path: &'static str) -> Result<&str, ConfigError> {
        self.layers.text(path).ok_or(ConfigError::Missing(path))
    }

    fn address(&self, path: &'static str) -> Result<SocketAddr, ConfigError> {
        self.text(path)?.parse().map_err(|_| wrong(path, "must be an address and port, such as 127.0.0.1:7443"))
    }

    pub(super) fn optional_path(&self, path: &'static str) -> Option<PathBuf> {
        self.layers.text(path).map(|text| self.base.join(text))
    }

    pub(super) fn path(&self, path: &'static str) -> Result<PathBuf, ConfigError> {
        self.optional_path(path).ok_or(ConfigError::Missing(path))
    }

    pub(super) fn duration(&self, path: &'static str, least_ms: u64) -> Result<Duration, ConfigError> {
        match self.layers.number(path) {
            ms if (least_ms..=3_600_000).contains(&ms) => Ok(Duration::from_millis(ms)),
            _ => Err(wrong(path, &format!("must be {least_ms} to 3600000 milliseconds"))),
        }
    }

    pub(super) fn count(&self, path: &'static str, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let number = usize::try_from(self.layers.number(path)).unwrap_or(usize::MAX);
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(wrong(path, &format!("must be {} to {}", range.start(), range.end())))
        }
    }
}

fn bdk(row: &BTreeMap<&'static str, Value>, accept_non_p2pe: bool) -> Result<BdkSpec, ConfigError> {
    let text = |name, path| match row.get(name) {
        Some(Value::Text(text)) => Ok(text.as_str()),
        _ => Err(ConfigError::Missing(path)),
    };
    let id = BdkId::parse(text("id", "bdk.id")?).map_err(|error| wrong("bdk.id", &error.to_string()))?;
    let scheme = match text("scheme", "bdk.scheme")? {
        "aes" => Scheme::Aes,
        "tdes" => Scheme::Tdes,
        _ => return Err(wrong("bdk.scheme", "must be aes or tdes")),
    };
    let len = match row.get("bits") {
        Some(Value::Number(128)) => KeyLen::K128,
        Some(Value::Number(192)) if scheme == Scheme::Aes => KeyLen::K192,
        Some(Value::Number(256)) if scheme == Scheme::Aes => KeyLen::K256,
        _ => return Err(wrong("bdk.bits", "must be 128, 192 or 256; 128 for tdes")),
    };
    let mode = DecryptionMode::from_name(text("mode", "bdk.mode")?)
        .ok_or_else(|| wrong("bdk.mode", "must be hardware, hybrid or host-derived"))?;
    if scheme == Scheme::Tdes && mode != DecryptionMode::HostDerived {
        return Err(wrong("bdk.mode", "tdes needs host-derived: no PKCS#11 token derives TDES keys inside"));
    }
    if mode == DecryptionMode::HostDerived && !accept_non_p2pe {
        return Err(wrong(
            "bdk.mode",
            "host-derived lets a device's initial key leave the HSM; it needs hsm.accept_non_p2pe = true",
        ));
    }
    Ok(BdkSpec { id, scheme, len, mode, proof: None })
}

fn wrong(path: &'static str, reason: &str) -> ConfigError {
    ConfigError::Value { path, reason: reason.to_owned() }
}
