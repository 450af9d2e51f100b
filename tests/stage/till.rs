//! A till without patience: one call, one answer, exactly as the wire has it. The SDK asks again and tidies up; a test
//! of refusals must see each of them.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::comm_module_service_client::CommModuleServiceClient;

use super::Server;

/// Longest wait for one answer: a server that hangs fails its test instead of hanging it.
const LIMIT: Duration = Duration::from_secs(20);

/// One module's connection. Clones share it.
#[derive(Clone)]
pub struct Till(CommModuleServiceClient<Channel>);

/// A no, as the wire has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct No {
    /// The gRPC code.
    pub code: Code,
    /// `ErrorInfo.reason`; empty if the status carries none of this server's.
    pub reason: String,
    /// Who can mend it.
    pub who: String,
    /// Whether to ask again.
    pub retry: String,
    /// `RequestInfo.request_id`.
    pub request: Option<String>,
    /// The status's text.
    pub message: String,
}

/// What is to be paid.
#[derive(Clone, Copy, Debug)]
pub struct Sale<'a> {
    /// The merchant's order.
    pub order: &'a str,
    /// In minor units.
    pub minor: i64,
    /// ISO 4217.
    pub currency: &'a str,
    /// How the buyer met the merchant.
    pub channel: v1::Channel,
}

/// A phone order in yen.
pub fn phone(order: &str, minor: i64) -> Sale<'_> {
    Sale { order, minor, currency: "JPY", channel: v1::Channel::Telephone }
}

impl Till {
    /// As the module the server made.
    pub async fn of(server: &Server) -> Self {
        Self::as_module(server, &server.file("module_cert"), &server.file("module_key")).await
    }

    /// As the module with this certificate.
    pub async fn as_module(server: &Server, certificate: &Path, key: &Path) -> Self {
        Self::dial(server, certificate, key).await.expect("the server lets the module connect")
    }

    /// Dials; what TLS says to it is the result.
    pub async fn dial(server: &Server, certificate: &Path, key: &Path) -> Result<Self, tonic::transport::Error> {
        let identity = Identity::from_pem(read(certificate), read(key));
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&server.file("ca")))).identity(identity);
        Self::with(server, tls).await
    }

    /// Dials without a certificate.
    pub async fn dial_unnamed(server: &Server) -> Result<Self, tonic::transport::Error> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&server.file("ca"))));
        Self::with(server, tls).await
    }

    async fn with(server: &Server, tls: ClientTlsConfig) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(server.url())?.tls_config(tls)?.timeout(LIMIT).tcp_nodelay(true);
        Ok(Self(CommModuleServiceClient::new(endpoint.connect().await?)))
    }

    /// Turns a card into a token.
    pub async fn tokenize(&self, request: &str, frame: &[u8]) -> Result<v1::Card, No> {
        let message = v1::TokenizeRequest { request_id: request.to_owned(), output: output(frame) };
        let answer = self.0.clone().tokenize(Request::new(message)).await.map_err(No::read)?;
        Ok(answer.into_inner().card.expect("an answer has a card"))
    }

    /// Authorizes a sale.
    pub async fn authorize(&self, request: &str, frame: &[u8], sale: Sale<'_>) -> Result<v1::Payment, No> {
        let message = v1::AuthorizeRequest {
            request_id: request.to_owned(),
            output: output(frame),
            order: sale.order.to_owned(),
            amount: Some(v1::Money { minor: sale.minor, currency: sale.currency.to_owned() }),
            channel: sale.channel.into(),
        };
        self.ask(message).await
    }

    /// Sends an authorization as it is.
    pub async fn ask(&self, message: v1::AuthorizeRequest) -> Result<v1::Payment, No> {
        let answer = self.0.clone().authorize(Request::new(message)).await.map_err(No::read)?;
        Ok(answer.into_inner().payment.expect("an answer has a payment"))
    }

    /// The payments of an order.
    pub async fn find_sale(&self, order: &str) -> Result<Vec<v1::Payment>, No> {
        let message = v1::FindSaleRequest { order: order.to_owned() };
        Ok(self.0.clone().find_sale(Request::new(message)).await.map_err(No::read)?.into_inner().payments)
    }
}

impl No {
    fn read(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == "warifu");
        let said = |key: &str| info.and_then(|info| info.metadata.get(key)).cloned().unwrap_or_default();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            who: said("who"),
            retry: said("retry"),
            request: details.request_info().map(|info| info.request_id.clone()),
            message: status.message().to_owned(),
        }
    }

    /// Whether the same request may be asked again: the server said so, or said nothing at all.
    pub fn may_be_asked_again(&self) -> bool {
        self.retry == "same-request" || self.reason.is_empty()
    }
}

fn output(frame: &[u8]) -> Option<v1::DeviceOutput> {
    Some(v1::DeviceOutput { frame: frame.to_vec().into() })
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
