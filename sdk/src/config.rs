//! Where the server is, who the module is, how patient it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use warifu_core::merchant::NameError;
use zeroize::Zeroizing;

use crate::probe::Probe;
use crate::retry::{Patience, Pauses};

/// Everything [`CommModule::connect`](crate::CommModule::connect) needs.
///
/// Holds the module's private key: no `Debug` of it, no `Clone`.
pub struct Config {
    url: String,
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    certificates: usize,
    server_name: Option<String>,
    connect_timeout: Duration,
    pub(crate) patience: Patience,
    pub(crate) redial: Pauses,
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL is not `https://host:port`.
    #[error("the server's URL cannot be used; write https://HOST:PORT (device output travels over TLS only)")]
    Url,
    /// A PEM file cannot be read.
    #[error("cannot read {}; check the path and its permissions", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No certificate authority was given, or its PEM holds no certificate.
    #[error("the CA has no PEM certificate; give the certificate of the authority that signed the server's")]
    Ca,
    /// No identity was given, or its PEM holds no certificate.
    #[error("the module has no PEM certificate; give the certificate and key the operator issued for this module")]
    Certificate,
    /// TLS cannot be set up with these certificates and this key.
    #[error("the certificates or the key cannot be used; check that the key is PEM and belongs to the certificate")]
    Tls {
        /// Why not.
        source: tonic::transport::Error,
    },
    /// A device connection cannot be read.
    #[error("a device connection is written tcp:HOST:PORT, unix:PATH or serial:PATH[@BAUD]")]
    Connection,
    /// A name cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Config {
    /// A module that asks the server at `url` (`https://host:port`); it still needs a CA and an identity.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            identity: None,
            certificates: 0,
            server_name: None,
            connect_timeout: Duration::from_secs(5),
            patience: Patience {
                attempt: Duration::from_secs(10),
                total: Duration::from_secs(30),
                pauses: Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(2) },
            },
            redial: Pauses { first: Duration::from_millis(250), longest: Duration::from_secs(30) },
        }
    }

    /// Reads the CA's certificate, the module's certificate (chain) and the module's key from PEM files.
    pub fn from_files(
        url: impl Into<String>,
        ca: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        let key = Zeroizing::new(read(key.as_ref())?);
        Ok(Self::new(url).ca(read(ca.as_ref())?).identity(read(certificate.as_ref())?, &*key))
    }

    /// The PEM certificate(s) of the authority that signed the server's certificate. No other authority is trusted.
    pub fn ca(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca = Some(pem.as_ref().to_vec());
        self
    }

    /// The module's PEM certificate (chain) and its PEM private key. The TLS library keeps the key while the module
    /// lives.
    pub fn identity(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.certificates = certificates(certificate.as_ref());
        self.identity = Some((certificate.as_ref().to_vec(), Zeroizing::new(key.as_ref().to_vec())));
        self
    }

    /// The name to expect in the server's certificate, where it differs from the URL's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Longest wait for a TCP connection, and again for the TLS handshake. Default 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Longest wait for one attempt of a call. Default 10 s.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.patience.attempt = limit;
        self
    }

    /// Longest wait for a call with all its retries and pauses. Default 30 s; zero means one attempt.
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.patience.total = limit;
        self
    }

    /// Pauses between the attempts of a call: they double from `first` to `longest`, less up to half by chance.
    /// Default 100 ms to 2 s.
    pub fn retry_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.patience.pauses = Pauses { first, longest };
        self
    }

    /// Pauses between attempts to get a lost link back, as in [`Config::retry_pauses`]. Default 250 ms to 30 s.
    pub fn redial_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.redial = Pauses { first, longest };
        self
    }

    /// What finds out why a connection to this server breaks at once. Before the channel is made.
    pub(crate) fn probe(&self) -> Option<Probe> {
        let endpoint = Endpoint::from_shared(self.url.clone()).ok()?;
        let (host, port) = (endpoint.uri().host()?.trim_matches(['[', ']']), endpoint.uri().port_u16().unwrap_or(443));
        let (certificate, key) = self.identity.as_ref()?;
        let name = self.server_name.as_deref().unwrap_or(host);
        Probe::new((self.ca.as_ref()?, certificate, key), (host, port), name, self.connect_timeout)
    }

    /// A channel that dials when first used and again whenever its connection is gone.
    pub(crate) fn channel(&mut self) -> Result<Channel, ConfigError> {
        if !self.url.starts_with("https://") {
            return Err(ConfigError::Url);
        }
        let ca = self.ca.take().filter(|pem| certificates(pem) > 0).ok_or(ConfigError::Ca)?;
        let (certificate, key) =
            self.identity.take().filter(|_| self.certificates > 0).ok_or(ConfigError::Certificate)?;
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(certificate, &*key))
            .timeout(self.connect_timeout);
        if let Some(name) = self.server_name.take() {
            tls = tls.domain_name(name);
        }
        let endpoint = Endpoint::from_shared(self.url.clone()).map_err(|_| ConfigError::Url)?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(ConfigError::Url);
        }
        Ok(endpoint
            .user_agent(concat!("warifu-sdk/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| ConfigError::Url)?
            .tls_config(tls)
            .map_err(|source| ConfigError::Tls { source })?
            .connect_timeout(self.connect_timeout)
            // A server that vanished without a word is noticed within half a minute, also by an idle link.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("url", &self.url).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

fn certificates(pem: &[u8]) -> usize {
    CertificateDer::pem_slice_iter(pem).filter(Result::is_ok).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_and_missing_parts_are_refused_before_dialing() {
        let refused = |mut config: Config| config.channel().expect_err("must be refused");
        assert!(matches!(refused(Config::new("http://127.0.0.1:7443")), ConfigError::Url));
        assert!(matches!(refused(Config::new("https://127.0.0.1:7443")), ConfigError::Ca));
        assert!(matches!(refused(Config::new("https://127.0.0.1:7443").ca("not a PEM")), ConfigError::Ca));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::from_files("https://h:1", "/nonexistent/ca.pem", "c", "/nonexistent/key.pem").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
    }

    #[test]
    fn debug_shows_no_key() {
        let config = Config::new("https://h:1").identity("certificate", "secret key");
        assert_eq!(format!("{config:?}"), "Config { url: \"https://h:1\", .. }");
    }
}
