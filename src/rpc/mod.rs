//! The gRPC edge: who calls, what they say, and what they are told. No business rule lives here.

mod batches;
mod comm_module;
mod convert;
mod keys;
mod limits;
mod status;

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use warifu_actors::House;
use warifu_sdk::wire::FILE_DESCRIPTOR_SET;
use warifu_sdk::wire::v1::comm_module_service_server::{CommModuleServiceServer, SERVICE_NAME};
use warifu_sdk::wire::v1::key_service_server::KeyServiceServer;

use crate::app::Posture;
use crate::config;
use crate::readiness::Readiness;
use crate::tls::Wire;
use comm_module::CommModuleEdge;
use keys::KeyEdge;
use limits::CallLimits;

pub(crate) use convert::scheme_name;

/// HTTP/2 pings: a peer that does not answer one in time is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// After this a connection is told to end, and another one shows its certificate; its calls have a while to finish.
const MAX_AGE: Duration = Duration::from_secs(3600);
const AGE_GRACE: Duration = Duration::from_secs(30);
/// Longest headers a caller may send.
const MAX_HEADERS: u32 = 16 * 1024;
/// How much longer a call may take than the house gives a request: the house knows better what it was about.
const BEYOND: Duration = Duration::from_millis(500);
/// Longest answer: an order with some thousand payments. The SDK takes as much.
const MAX_ANSWER: usize = 1024 * 1024;
/// How often the health service looks.
const LOOK: Duration = Duration::from_secs(1);

/// Reflection whose descriptors do not parse: a defect of the build.
pub(crate) use tonic_reflection::server::Error as ReflectionError;

/// The services, and who reports their health.
pub(crate) struct Services {
    routes: Routes,
    reporter: HealthReporter,
    house: House,
}

impl Services {
    /// Puts the services together.
    pub(crate) async fn new(
        house: House,
        posture: Posture,
        settings: &config::Server,
    ) -> Result<Self, ReflectionError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status(SERVICE_NAME, ServingStatus::NotServing).await;
        let edge = CommModuleServiceServer::new(CommModuleEdge::new(house.clone(), posture))
            .max_decoding_message_size(settings.max_message_bytes)
            .max_encoding_message_size(MAX_ANSWER);
        let keys = KeyServiceServer::new(KeyEdge(house.clone())).max_decoding_message_size(settings.max_message_bytes);
        let mut routes = Routes::new(edge).add_service(keys).add_service(health);
        if settings.reflection || posture == Posture::Dev {
            let describe = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            routes = routes.add_service(describe().build_v1()?).add_service(describe().build_v1alpha()?);
        }
        Ok(Self { routes, reporter, house })
    }

    /// Keeps the health service told, for as long as it is polled.
    pub(crate) async fn report(reporter: HealthReporter, house: House) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            let ready = Readiness::of(&house).is_ready();
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(SERVICE_NAME, status).await;
        }
    }

    /// The health reporter.
    pub(crate) fn reporter(&self) -> HealthReporter {
        self.reporter.clone()
    }

    /// Serves until `stop` completes and every connection has ended; the caller sets a limit to that.
    pub(crate) async fn serve(
        self,
        settings: &config::Server,
        incoming: impl Stream<Item = io::Result<Wire>>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_ANSWER))
            .max_connection_age(MAX_AGE)
            .max_connection_age_grace(AGE_GRACE)
            .http2_max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(u32::try_from(settings.connection_requests).ok())
            .concurrency_limit_per_connection(settings.connection_requests)
            .layer(CallLimits { time: settings.request_timeout + BEYOND, house: self.house })
            .serve_with_incoming_shutdown(self.routes.prepare(), incoming, stop)
            .await
    }
}
