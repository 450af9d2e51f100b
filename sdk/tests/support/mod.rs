//! A server that answers by a script, with real TLS on a real port, and can die as by `kill -9`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod certificates;

use std::collections::VecDeque;
use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use warifu_sdk::wire::v1::comm_module_service_server::{CommModuleService, CommModuleServiceServer};
use warifu_sdk::wire::v1::{
    self, link_request::News as Told, link_response::News, tokenize_many_response::Result as One,
};
use warifu_sdk::{Config, Refusal};

use self::certificates::Certificates;

pub const TOKEN: &str = "9000000000000000";
/// Longest a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// What the server does with one call.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A card, or a payment with this outcome.
    Well(v1::Outcome),
    Refuse(Refusal),
    Plain(Code),
    /// Never answers.
    Silence,
}

/// What the server saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Tokenize(v1::TokenizeRequest),
    Authorize(v1::AuthorizeRequest),
    FindSale(String),
    Linked(String),
    Attached(String),
    Detached(String),
    LinkClosed,
}

/// What the server says on its links.
#[derive(Clone)]
pub enum Say {
    News(News),
    Close,
}

/// What happens, and what happened; outlives the server's death.
pub struct Script {
    replies: Mutex<VecDeque<Reply>>,
    seen: mpsc::UnboundedSender<Seen>,
    say: broadcast::Sender<Say>,
}

/// The test's end of what the server sees.
pub struct Witness(mpsc::UnboundedReceiver<Seen>);

impl Witness {
    /// The next thing the server sees.
    pub async fn next(&mut self) -> Seen {
        tokio::time::timeout(SOON, self.0.recv()).await.expect("the server saw nothing").expect("the script lives")
    }

    /// Everything seen by now and not asked for yet, without the links.
    pub fn calls(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.0.try_recv().ok())
            .filter(|seen| matches!(seen, Seen::Tokenize(_) | Seen::Authorize(_) | Seen::FindSale(_)))
            .collect()
    }

    /// The next call, skipping links.
    pub async fn call(&mut self) -> Seen {
        loop {
            let seen = self.next().await;
            if matches!(seen, Seen::Tokenize(_) | Seen::Authorize(_) | Seen::FindSale(_)) {
                return seen;
            }
        }
    }
}

impl Script {
    /// The calls are answered so, in order; later ones with an authorization.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> (Arc<Self>, Witness) {
        let (seen, witness) = mpsc::unbounded_channel();
        let (say, _) = broadcast::channel(16);
        let replies = Mutex::new(replies.into_iter().collect());
        (Arc::new(Self { replies, seen, say }), Witness(witness))
    }

    /// Says something on all links.
    pub fn say(&self, say: Say) {
        assert!(self.say.send(say).is_ok(), "no link is up");
    }

    async fn reply(&self, seen: Seen) -> Result<v1::Outcome, Status> {
        let next = self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Well(v1::Outcome::Authorized));
        self.seen.send(seen).unwrap();
        match next {
            Reply::Well(outcome) => Ok(outcome),
            Reply::Refuse(refusal) => Err(refuse(refusal)),
            Reply::Plain(code) => Err(Status::new(code, "plain")),
            Reply::Silence => pending().await,
        }
    }
}

fn refuse(refusal: Refusal) -> Status {
    let metadata = [("who", refusal.fixer().name()), ("retry", refusal.retry().name())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info(refusal.reason(), "warifu", metadata);
    Status::with_error_details(Code::FailedPrecondition, refusal.message(), details)
}

fn card() -> v1::Card {
    v1::Card {
        token: TOKEN.to_owned(),
        masked_pan: "411111******1111".to_owned(),
        brand: "visa".to_owned(),
        device: "kp1".to_owned(),
        entry: "keyed".to_owned(),
        decryption_mode: "hardware".to_owned(),
        scheme: "aes".to_owned(),
    }
}

fn payment(order: &str, outcome: v1::Outcome) -> v1::Payment {
    let code = |wanted, code: &str| if outcome == wanted { code.to_owned() } else { String::new() };
    v1::Payment {
        payment_id: format!("pay-{order}"),
        order: order.to_owned(),
        amount: Some(v1::Money { minor: 1200, currency: "JPY".to_owned() }),
        channel: v1::Channel::Telephone.into(),
        outcome: outcome.into(),
        approval_code: code(v1::Outcome::Authorized, "A00001"),
        response_code: code(v1::Outcome::Declined, "51"),
        card: Some(card()),
        created_at_ms: 1_700_000_000_000,
    }
}

struct Service(Arc<Script>);

#[tonic::async_trait]
impl CommModuleService for Service {
    type LinkStream = ReceiverStream<Result<v1::LinkResponse, Status>>;
    type TokenizeManyStream = ReceiverStream<Result<v1::TokenizeManyResponse, Status>>;

    async fn link(&self, request: Request<Streaming<v1::LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut told = request.into_inner();
        let Some(Told::Hello(hello)) = told.message().await?.and_then(|message| message.news) else {
            return Err(Status::invalid_argument("hello first"));
        };
        let mut says = self.0.say.subscribe();
        let seen = self.0.seen.clone();
        let (news, stream) = mpsc::channel(16);
        let welcome = v1::Welcome { merchant: "shop-1".to_owned(), module: "till-1".to_owned(), dev: true };
        let answer = |news| Ok(v1::LinkResponse { news: Some(news) });
        news.send(answer(News::Welcome(welcome))).await.unwrap();
        seen.send(Seen::Linked(hello.software)).unwrap();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    say = says.recv() => match say {
                        Ok(Say::News(say)) => drop(news.send(answer(say)).await),
                        Ok(Say::Close) | Err(_) => break,
                    },
                    message = told.message() => match message {
                        Ok(Some(v1::LinkRequest { news: Some(Told::DeviceAttached(news)) })) => {
                            seen.send(Seen::Attached(news.connection)).unwrap();
                        }
                        Ok(Some(v1::LinkRequest { news: Some(Told::DeviceDetached(news)) })) => {
                            seen.send(Seen::Detached(news.connection)).unwrap();
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            // The test may be over.
            let _ = seen.send(Seen::LinkClosed);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        self.0.reply(Seen::Tokenize(request.into_inner())).await?;
        Ok(Response::new(v1::TokenizeResponse { card: Some(card()) }))
    }

    async fn tokenize_many(
        &self,
        request: Request<Streaming<v1::TokenizeRequest>>,
    ) -> Result<Response<Self::TokenizeManyStream>, Status> {
        let (mut asked, script) = (request.into_inner(), Arc::clone(&self.0));
        let (tell, told) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Ok(Some(message)) = asked.message().await {
                let request_id = message.request_id.clone();
                let result = match script.reply(Seen::Tokenize(message)).await {
                    Ok(_) => One::Card(card()),
                    Err(status) => match status.get_details_error_info() {
                        Some(info) => One::Refused(v1::Refused { reason: info.reason, ..v1::Refused::default() }),
                        None => return drop(tell.send(Err(status)).await),
                    },
                };
                let _ = tell.send(Ok(v1::TokenizeManyResponse { request_id, result: Some(result) })).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let request = request.into_inner();
        let order = request.order.clone();
        let outcome = self.0.reply(Seen::Authorize(request)).await?;
        Ok(Response::new(v1::AuthorizeResponse { payment: Some(payment(&order, outcome)) }))
    }

    async fn find_sale(&self, request: Request<v1::FindSaleRequest>) -> Result<Response<v1::FindSaleResponse>, Status> {
        let order = request.into_inner().order;
        let outcome = self.0.reply(Seen::FindSale(order.clone())).await?;
        Ok(Response::new(v1::FindSaleResponse { payments: vec![payment(&order, outcome)] }))
    }
}

/// A running server. Dropping it kills it: its connections break without a word.
pub struct FakeServer {
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl FakeServer {
    /// Starts on a free port.
    pub fn start(certificates: &Certificates, script: &Arc<Script>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), certificates, script)
    }

    /// Starts on this port, as after a restart.
    pub fn start_at(address: SocketAddr, certificates: &Certificates, script: &Arc<Script>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            socket.listen(64).unwrap()
        };
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&certificates.server.certificate, &certificates.server.key))
            .client_ca_root(Certificate::from_pem(&certificates.ca));
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(CommModuleServiceServer::new(Service(Arc::clone(script))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(server);
        Self { runtime: Some(runtime), address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A quick configuration for this server.
    pub fn config(&self, certificates: &Certificates) -> Config {
        config(self.address, certificates)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        // A runtime may not be waited for inside another one; and until it is gone its port is taken.
        let runtime = self.runtime.take().unwrap();
        std::thread::spawn(move || drop(runtime)).join().unwrap();
    }
}

/// A configuration with short pauses, so that tests are quick.
pub fn config(address: SocketAddr, certificates: &Certificates) -> Config {
    Config::new(format!("https://{address}"))
        .ca(&certificates.ca)
        .identity(&certificates.client.certificate, &certificates.client.key)
        .retry_pauses(Duration::from_millis(5), Duration::from_millis(50))
        .redial_pauses(Duration::from_millis(5), Duration::from_millis(50))
        .give_up_after(SOON)
}

/// A port nobody listens on, free to listen on.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
