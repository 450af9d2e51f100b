//! The app: configuration → parts → serve → drain.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use warifu_actors::House;
use warifu_actors::acquirer::Acquirer;
use warifu_actors::acquirer::simulator::Simulator;
use warifu_actors::clock::{Clock, SystemClock};
use warifu_actors::house::Settings;
use warifu_actors::key_deriver::VisitError;
use warifu_actors::store::module::ModuleState;
use warifu_actors::store::{Store, StoreError, WriterSettings};
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{CallTally, HsmError};

use crate::commands::vault;
use crate::config::{AcquirerKind, Config, Server, StoreSettings};
use crate::custody;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm::Backend;
use crate::http;
use crate::identity::CertificateId;
use crate::process::{self, Privacy};
use crate::rpc::Services;
use crate::telemetry::Telemetry;
use crate::tls::{self, Limits, Standing};

/// How long connections may take to end once the work is done.
const CLOSING: Duration = Duration::from_millis(750);

/// What kind of server this is; modules, health and the banner say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posture {
    /// For real cards.
    Service,
    /// A developer's throw-away one.
    Dev,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// gRPC over mutual TLS.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
}

/// A server whose parts are up and whose ports are taken, and which does not yet answer.
pub struct App {
    config: Config,
    posture: Posture,
    house: House,
    store: Store,
    hsm: Backend,
    services: Services,
    tls: Arc<rustls::ServerConfig>,
    grpc: TcpListener,
    http: TcpListener,
    addresses: Addresses,
    telemetry: Telemetry,
}

impl App {
    /// Brings the parts up, each with its own exit code when it fails. Inside `warifu_actors::supervisor::run`.
    pub async fn start(config: Config, posture: Posture) -> Result<Self, Failure> {
        Self::start_on(config, posture, None).await
    }

    /// As [`App::start`], on the software backend, whose keys are in this process's memory: to measure what the server
    /// costs beside its HSM.
    pub async fn start_on_software(config: Config, keys: SoftwareSlot) -> Result<Self, Failure> {
        Self::start_on(config, Posture::Dev, Some(keys)).await
    }

    async fn start_on(mut config: Config, posture: Posture, software: Option<SoftwareSlot>) -> Result<Self, Failure> {
        harden(&config.server)?;
        process::raise_file_limit();
        let telemetry =
            Telemetry::start(&config.telemetry, &config.server.instance).or_exit(Exit::Usage, "set up telemetry")?;

        if let Err(error) = process::lock_memory() {
            tracing::warn!(%error, "memory is not locked: the system may write it to swap; give LimitMEMLOCK=infinity");
        }
        let tls = tls::server_config(&config.tls).or_exit(Exit::Usage, "use the key files of mutual TLS")?;
        let grpc = listen(config.server.listen).await?;
        let http = listen(config.server.http_listen).await?;
        let addresses = Addresses {
            grpc: grpc.local_addr().or_exit(Exit::Listen, "learn the port")?,
            http: http.local_addr().or_exit(Exit::Listen, "learn the port")?,
        };
        fs::create_dir_all(&config.server.data_dir).or_exit(Exit::Usage, "make server.data_dir")?;
        let store = open_store(&config.store).await?;
        config.bdks = custody::registered(&config.bdks, config.server.environment, &store).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let acquirer = open_acquirer(&config.acquirer.kind, clock.clone())?;
        let mut calls = CallTally::default();
        let vaults = vault::needed(&store).await?;
        let hsm = match Backend::open(&config, &vaults, software, &mut calls) {
            Ok(hsm) => hsm,
            Err(failure) => {
                note_calls(&config, &store, &calls, &failure).await;
                return Err(failure);
            }
        };
        let started =
            House::start(settings(&config, posture, &hsm), store.clone(), hsm.factory(), acquirer, clock).await;
        let house = match started {
            Ok(house) => house,
            Err(error) => {
                let exit = exit_of(&error);
                let refused = Err(error).or_exit(exit, "start");
                if let Err(failure) = &refused {
                    note_calls(&config, &store, &hsm.close(), failure).await;
                }
                return refused;
            }
        };
        let services = Services::new(house.clone(), posture, &config.server)
            .await
            .or_exit(Exit::Internal, "describe the services")?;
        Ok(Self { config, posture, house, store, hsm, services, tls, grpc, http, addresses, telemetry })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `stop` completes or a part gives up, then drains: new work is refused, work in flight is
    /// finished, the audit log is signed, everything is closed. A connection that hangs holds up nothing.
    pub async fn run(self, stop: impl Future<Output = &'static str>) -> Result<(), Failure> {
        let (house, posture, addresses) = (self.house.clone(), self.posture, self.addresses);
        let open = self.open();
        tracing::info!(grpc = %addresses.grpc, http = %addresses.http, version = env!("CARGO_PKG_VERSION"), "serving");
        if posture == Posture::Dev {
            tracing::warn!("DEV server: test keys, throw-away data; never a real card");
        }
        tokio::select! {
            signal = stop => {
                tracing::info!(signal, "draining");
                open.close().await
            }
            part = house.given_up() => {
                tracing::error!(part, "a part failed for good: draining");
                open.close().await?;
                Err(Failure::new(Exit::Internal, format_args!("{part} failed for good")))
            }
        }
    }

    /// Answers callers from now on.
    fn open(self) -> Open {
        let Self { config, posture, house, store, hsm, services, tls, grpc, http, telemetry, .. } = self;
        let (stopping, stopped) = watch::channel(false);
        let server = config.server;
        let limits = Limits {
            connections: server.max_connections,
            of_one: server.module_connections,
            idle: server.idle_timeout,
        };
        let witness = house.clone();
        let refused = move |cause| {
            let house = witness.clone();
            tokio::spawn(async move { house.note_refused_caller(cause, None).await });
        };
        let registry = store.clone();
        let standing = move |certificate| whose(registry.clone(), certificate);
        let pages = [
            tokio::spawn(Services::report(services.reporter(), house.clone())),
            tokio::spawn(http::serve(http, house.clone(), telemetry.metrics(), posture)),
        ];
        let drain = server.drain;
        let incoming = tls::incoming(grpc, tls, limits, refused, standing);
        let calls = tokio::spawn(async move {
            if let Err(error) = services.serve(&server, incoming, told(stopped)).await {
                tracing::error!(%error, "gRPC is not served any more");
            }
        });
        Open { house, store, hsm, telemetry, stopping, calls, pages, drain }
    }
}

/// A server that answers.
struct Open {
    house: House,
    store: Store,
    hsm: Backend,
    telemetry: Telemetry,
    stopping: watch::Sender<bool>,
    calls: JoinHandle<()>,
    pages: [JoinHandle<()>; 2],
    drain: Duration,
}

impl Open {
    async fn close(mut self) -> Result<(), Failure> {
        let in_time = self.finish().await;
        self.pages.iter().for_each(JoinHandle::abort);
        // The HSM is closed before the last record, which tells of its closing, too.
        self.house.stopped(&self.hsm.close()).await;
        self.store.close().await;
        tracing::info!(in_time, "stopped");
        self.telemetry.stop().await;
        match in_time {
            true => Ok(()),
            false => Err(Failure::new(Exit::Drain, "stopped with work left over; it is settled at the next start")),
        }
    }

    /// Drains the house, then lets connections end; `false` if work was left when the time was over.
    async fn finish(&mut self) -> bool {
        // Connections are told to end at once, but end only when their calls have.
        self.stopping.send_replace(true);
        let begun = Instant::now();
        let overdue = tokio::time::timeout(self.drain + CLOSING, self.house.drain(self.drain)).await.is_err();
        let in_time = !overdue && begun.elapsed() < self.drain;
        // Answers are on their way. A connection that is silent never ends by itself: it is left behind.
        if tokio::time::timeout(CLOSING, &mut self.calls).await.is_err() {
            tracing::info!("connections were cut that did not end by themselves");
        }
        in_time
    }
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Closes this process's memory to others, unless the configuration says otherwise. Before the HSM is opened.
pub(crate) fn harden(server: &Server) -> Result<(), Failure> {
    let privacy = if server.dumpable { Privacy::Open } else { Privacy::Sealed };
    process::harden(privacy).or_exit(Exit::Internal, "close this process's memory to others")
}

/// Whom a certificate belongs to. A registry that does not answer lets the caller in: each call asks again.
async fn whose(registry: Store, certificate: CertificateId) -> Standing {
    match registry.module_by_certificate(&certificate.0).await {
        Ok(Some(module)) if module.state == ModuleState::Active => return Standing::Known,
        Ok(_) => {}
        Err(_) => return Standing::Known,
    }
    match registry.custodian_by_certificate(&certificate.0).await {
        Ok(Some(person)) if person.state == ModuleState::Active => Standing::Known,
        Ok(_) => Standing::Stranger,
        Err(_) => Standing::Known,
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.or_exit(Exit::Listen, &format!("listen on {address}"))
}

/// Opens the data store and brings its schema up to date.
pub(crate) async fn open_store(settings: &StoreSettings) -> Result<Store, Failure> {
    let url = settings.url().or_exit(Exit::Usage, "read the data store's address")?;
    let store = Store::connect(&url).await;
    // An address that can never be used is the operator's to change; a database that is away is not.
    let exit = if matches!(store, Err(StoreError::Address(_))) { Exit::Usage } else { Exit::Store };
    let store = store.or_exit(exit, "open the data store")?;
    store.migrate().await.or_exit(Exit::Store, "bring the data store's schema up to date")?;
    Ok(store)
}

fn open_acquirer(kind: &AcquirerKind, clock: Arc<dyn Clock>) -> Result<Arc<dyn Acquirer>, Failure> {
    match kind {
        AcquirerKind::Simulator { journal } => {
            let simulator =
                Simulator::open(journal, clock).or_exit(Exit::Usage, "open the acquirer simulator's journal")?;
            Ok(Arc::new(simulator))
        }
    }
}

fn settings(config: &Config, posture: Posture, hsm: &Backend) -> Settings {
    Settings {
        instance: config.server.instance.clone(),
        derivers: config.hsm.derivers,
        admission: config.server.admission,
        queue_wait: config.server.queue_wait,
        request_timeout: config.server.request_timeout,
        acquirer_timeout: config.acquirer.timeout,
        audit_window: config.audit.window,
        accept_non_p2pe: config.hsm.accept_non_p2pe,
        dev: posture == Posture::Dev,
        bdks: config.bdks.clone(),
        hsm_found: hsm.found(),
        fault_limit: config.server.fault_limit,
        sign_every: config.audit.sign_every,
        writer: WriterSettings {
            max_batch: config.store.max_batch,
            queue: config.store.queue,
            audit_key: hsm.audit_key(),
        },
    }
}

/// Writes down the calls to the HSM of a server that did not start, if there were any.
async fn note_calls(config: &Config, store: &Store, calls: &CallTally, why: &Failure) {
    if calls.total() == 0 {
        return;
    }
    let cause = format!("the server did not start: {why}");
    if let Err(error) = House::not_started(&config.server.instance, store, &SystemClock, calls, &cause).await {
        tracing::error!(%error, %calls, "the calls to the HSM could not be written down");
    }
}

/// Which part kept the house from starting.
fn exit_of(error: &(dyn std::error::Error + 'static)) -> Exit {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<VisitError>() || error.is::<HsmError>() {
            return Exit::Hsm;
        }
        if error.is::<StoreError>() {
            return Exit::Store;
        }
        cause = error.source();
    }
    Exit::Internal
}
