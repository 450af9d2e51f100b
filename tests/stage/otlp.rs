//! A collector of traces: takes what the server exports over OTLP and keeps it in a file, as it came.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tonic::{Request, Response, Status};

struct Collector {
    file: Mutex<File>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let bytes = request.into_inner().encode_to_vec();
        let mut file = self.file.lock().map_err(|_| Status::internal("an earlier write failed"))?;
        file.write_all(&bytes).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Starts a collector that writes to `file`, on a thread that lives as long as the process; returns its address.
pub fn collect(file: &Path) -> SocketAddr {
    let file = OpenOptions::new().create(true).append(true).open(file).expect("a file for the traces");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let collector = TraceServiceServer::new(Collector { file: Mutex::new(file) });
            tonic::transport::Server::builder().add_service(collector).serve_with_incoming(incoming).await
        })
    });
    address
}
