//! The configuration: read once, checked once, then typed.
//!
//! Defaults < TOML file < `WARIFU__SECTION__KEY` < flags. A key nobody knows is an error wherever it stands. Secrets
//! are named by file only, so nothing here holds one except the store's address, which is never printed whole.
//!
//! Architecture invariant: nothing else in the server reads the configuration file or the environment for settings.

pub mod key;
pub mod layers;
mod reader;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use warifu_core::custody::Environment;
use warifu_hsm::BdkSpec;

use layers::Layers;
use reader::Reader;

use crate::private;

pub use show::show;

/// A configuration that cannot be used. Values are repeated only where they are no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is no TOML. The text around the fault is not repeated: it may hold a password.
    #[error("{} is not valid TOML: line {line}, column {column}: {message}", file.display())]
    Syntax {
        /// Which.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A key nobody knows.
    #[error("unknown key \"{path}\"{}", did_you_mean(hint.as_deref()))]
    UnknownKey {
        /// As written.
        path: String,
        /// The nearest one.
        hint: Option<String>,
    },
    /// A variable with our prefix nobody knows.
    #[error("unknown variable {name} in the environment{}", did_you_mean(hint.as_deref()))]
    UnknownVariable {
        /// As written.
        name: String,
        /// The nearest one.
        hint: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("\"{path}\" must be {wanted}")]
    Kind {
        /// Which key or variable.
        path: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// A value that cannot be used.
    #[error("\"{path}\": {reason}")]
    Value {
        /// Which key.
        path: &'static str,
        /// Why not.
        reason: String,
    },
    /// A value that must be set.
    #[error("\"{0}\" must be set")]
    Missing(&'static str),
    /// No file was named, and the usual one is not there.
    #[error("no configuration: name a file with --config, or put {0} into the current folder")]
    NoFile(&'static str),
}

fn did_you_mean(hint: Option<&str>) -> String {
    hint.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
}

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// `[store]`
    pub store: StoreSettings,
    /// `[hsm]`
    pub hsm: HsmSettings,
    /// `[[bdk]]`
    pub bdks: Vec<BdkSpec>,
    /// `[acquirer]`
    pub acquirer: AcquirerSettings,
    /// `[audit]`
    pub audit: AuditSettings,
    /// `[telemetry]`
    pub telemetry: TelemetrySettings,
}

/// How the server listens and how much it takes on.
#[derive(Debug)]
pub struct Server {
    /// gRPC over mutual TLS.
    pub listen: SocketAddr,
    /// Health and metrics, plain HTTP.
    pub http_listen: SocketAddr,
    /// Name of this process.
    pub instance: String,
    /// Whether its cards are real.
    pub environment: Environment,
    /// Where files go.
    pub data_dir: PathBuf,
    /// Longest time a request may take.
    pub request_timeout: Duration,
    /// Longest time a request waits to be admitted.
    pub queue_wait: Duration,
    /// Most requests in flight.
    pub admission: usize,
    /// Longest message a module may send, in bytes.
    pub max_message_bytes: usize,
    /// Most connections at once.
    pub max_connections: usize,
    /// Most connections at once by one module's certificate.
    pub module_connections: usize,
    /// Most requests in flight on one connection.
    pub connection_requests: usize,
    /// A connection that sends nothing for so long is cut.
    pub idle_timeout: Duration,
    /// Longest time to finish work when stopping.
    pub drain: Duration,
    /// Bad frames in a row after which a device without MAC is suspended.
    pub fault_limit: u32,
    /// Whether gRPC reflection is answered.
    pub reflection: bool,
    /// Whether debuggers and core dumps are allowed.
    pub dumpable: bool,
}

/// Key files of mutual TLS.
#[derive(Debug)]
pub struct Tls {
    /// PEM: certificate chain.
    pub certificate: PathBuf,
    /// PEM: private key.
    pub key: PathBuf,
    /// PEM: authority of the modules' certificates.
    pub client_ca: PathBuf,
}

/// The data store.
pub struct StoreSettings {
    address: StoreAddress,
    /// Most requests made durable in one transaction.
    pub max_batch: usize,
    /// Most requests waiting for the writer.
    pub queue: usize,
}

enum StoreAddress {
    Url(String),
    File(PathBuf),
}

/// The HSM.
#[derive(Debug)]
pub struct HsmSettings {
    /// PKCS#11 module.
    pub module: PathBuf,
    /// Text the module wants when it is initialized.
    pub module_arguments: Option<String>,
    /// Label of the token.
    pub token_label: String,
    /// File with the user PIN.
    pub pin_file: PathBuf,
    /// Threads, one session each.
    pub derivers: usize,
    /// Derivation-tree nodes each of them keeps.
    pub cache_nodes: usize,
    /// Whether mode host-derived is allowed.
    pub accept_non_p2pe: bool,
    /// SoftHSM's own configuration file.
    pub softhsm_config: Option<PathBuf>,
}

/// The acquirer.
#[derive(Debug)]
pub struct AcquirerSettings {
    /// Which one, and what it needs.
    pub kind: AcquirerKind,
    /// Longest time to wait for its answer.
    pub timeout: Duration,
}

/// Which acquirer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquirerKind {
    /// The simulator in this process.
    Simulator {
        /// Where it remembers its answers.
        journal: PathBuf,
    },
}

/// The audit log.
#[derive(Debug)]
pub struct AuditSettings {
    /// How recently the log must have been written before the HSM is used.
    pub window: Duration,
    /// How often its head is signed.
    pub sign_every: Duration,
}

/// Logs and traces.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where traces go.
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Reads the layers: the file if one is given, the process's environment, flags.
pub fn read(file: Option<&Path>, flags: &[(&str, &str)]) -> Result<Layers, ConfigError> {
    let mut layers = Layers::defaults()?;
    if let Some(file) = file {
        let text = fs::read_to_string(file).map_err(|cause| ConfigError::Read { file: file.to_owned(), cause })?;
        layers = layers.file(file, &text)?;
    }
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    layers.environment(variables)?.flags(flags.iter().copied())
}

impl Config {
    /// Reads and checks everything. Relative paths are taken from the file's folder, or the current one.
    pub fn load(file: Option<&Path>, flags: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::parse(&read(file, flags)?, &base_folder(file))
    }

    /// Checks the layers and gives them their types.
    pub fn parse(layers: &Layers, base: &Path) -> Result<Self, ConfigError> {
        let read = Reader::new(layers, base);
        let server = read.server()?;
        let accept_non_p2pe = layers.flag("hsm.accept_non_p2pe");
        Ok(Self {
            tls: Tls {
                certificate: read.path("tls.certificate")?,
                key: read.path("tls.key")?,
                client_ca: read.path("tls.client_ca")?,
            },
            store: read.store()?,
            hsm: HsmSettings {
                module: read.path("hsm.module")?,
                module_arguments: layers.text("hsm.module_arguments").map(str::to_owned),
                token_label: read.text("hsm.token_label")?.to_owned(),
                pin_file: read.path("hsm.pin_file")?,
                derivers: read.count("hsm.derivers", 1..=64)?,
                cache_nodes: read.count("hsm.cache_nodes", 0..=1_000_000)?,
                accept_non_p2pe,
                softhsm_config: read.optional_path("hsm.softhsm_config"),
            },
            bdks: read.bdks(accept_non_p2pe)?,
            acquirer: AcquirerSettings {
                kind: read.acquirer(&server.data_dir)?,
                timeout: read.duration("acquirer.timeout_ms", 10)?,
            },
            audit: AuditSettings {
                window: read.duration("audit.window_ms", 0)?,
                sign_every: read.duration("audit.sign_every_ms", 100)?,
            },
            telemetry: read.telemetry()?,
            server,
        })
    }
}

impl StoreSettings {
    /// The address, read from its file if it has one. It may hold a password: do not print it.
    pub fn url(&self) -> Result<String, ConfigError> {
        match &self.address {
            StoreAddress::Url(url) => Ok(url.clone()),
            StoreAddress::File(file) => {
                let text = private::read_text(file).map_err(|cause| ConfigError::Read { file: file.clone(), cause })?;
                Ok(text.trim().to_owned())
            }
        }
    }
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSettings")
            .field("max_batch", &self.max_batch)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// The folder relative paths start from.
pub fn base_folder(file: Option<&Path>) -> PathBuf {
    match file.and_then(Path::parent) {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
