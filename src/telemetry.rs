//! Logs, traces and metrics. None of them may block or fail a payment.
//!
//! Traces leave by a batch exporter with a bounded queue on its own thread: when the collector is down, slow or gone,
//! spans are dropped and nothing else changes.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, Targets};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{LogFormat, TelemetrySettings};

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,sqlx=warn,sea_orm=warn,sea_orm_migration=warn,h2=warn,hyper=warn,tower=warn";
/// Longest wait for the collector, for one batch and at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Lines of the log that may wait for whoever reads it; more are dropped, and counted.
const LINES: usize = 8192;
/// How often histogram samples are folded; without it they pile up until somebody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper bounds of histograms of jobs.
const JOBS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Upper bounds of histograms of durations.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Telemetry that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The OTLP exporter.
    #[error("cannot set up the OTLP exporter")]
    Exporter(#[from] ExporterBuildError),
    /// The subscriber, because another one is there.
    #[error("cannot set up logging")]
    Subscriber(#[from] TryInitError),
    /// The metrics recorder.
    #[error("cannot set up metrics")]
    Metrics(#[from] BuildError),
}

/// What must be kept until the end.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: PrometheusHandle,
    /// Writes what is left of the log when it is dropped.
    _log: WorkerGuard,
}

impl Telemetry {
    /// Sets everything up, once a process, inside the multi-thread runtime.
    pub fn start(settings: &TelemetrySettings, instance: &str) -> Result<Self, TelemetryError> {
        let traces = settings.otlp_endpoint.as_deref().map(|endpoint| tracer(endpoint, instance)).transpose()?;
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
        let pretty = match settings.log_format {
            LogFormat::Auto => io::stderr().is_terminal(),
            LogFormat::Json => false,
            LogFormat::Pretty => true,
        };
        // A reader that does not read must not stop whoever has something to say.
        let (stderr, log) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
        let dropped = stderr.error_counter();
        let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
        let lines = if pretty { lines.boxed() } else { lines.json().flatten_event(true).boxed() };
        // Only our own spans: the exporter's transport has spans too, and would feed on itself.
        let ours =
            Targets::new().with_target("warifu", LevelFilter::INFO).with_target("warifu_actors", LevelFilter::INFO);
        let spans = traces
            .as_ref()
            .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("warifu")).with_filter(ours));
        tracing_subscriber::registry().with(spans).with(lines.with_filter(tight_lipped(filter))).try_init()?;

        let metrics = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_jobs".to_owned()), &JOBS)?
            .install_recorder()?;
        describe();
        let upkeep = metrics.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                upkeep.run_upkeep();
                counter!("warifu_log_lines_dropped_total")
                    .absolute(dropped.dropped_lines().try_into().unwrap_or(u64::MAX));
            }
        });
        Ok(Self { traces, metrics, _log: log })
    }

    /// Renders the metrics.
    pub fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    /// Sends what is left of the traces, for a short time.
    pub async fn stop(self) {
        let Some(traces) = self.traces else { return };
        let flushed = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(EXPORT_TIMEOUT));
        // A collector that hangs costs the last spans, not the exit.
        let _ = tokio::time::timeout(EXPORT_TIMEOUT, flushed).await;
    }
}

/// Below `info` the data store's libraries write its address down, which may hold its password: they are kept quiet,
/// whatever `RUST_LOG` asks for.
fn tight_lipped<S: tracing::Subscriber>(asked: EnvFilter) -> impl Filter<S>
where
    EnvFilter: Filter<S>,
{
    let quiet = ["sqlx", "sea_orm", "sea_query"].map(|target| (target, LevelFilter::INFO));
    asked.and(Targets::new().with_default(LevelFilter::TRACE).with_targets(quiet))
}

/// What the edges measure. Labels come from closed lists.
fn describe() {
    describe_counter!(
        "warifu_grpc_calls_total",
        "Calls answered, by method and outcome: OK or the reason of a refusal"
    );
    describe_counter!("warifu_log_lines_dropped_total", "Lines of the log that nobody read in time");
    describe_histogram!("warifu_grpc_duration_seconds", Unit::Seconds, "Time from a call's message to its answer");
    describe_gauge!("warifu_connections", "Open connections of comm modules");
    describe_counter!("warifu_connections_refused_total", "Connections not taken, by cause");
    warifu_actors::house::describe_metrics();
}

fn tracer(endpoint: &str, instance: &str) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    let resource = Resource::builder()
        .with_service_name("warifu")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_store_s_libraries_never_write_its_address() {
        let page = Page::default();
        let writer = page.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_filter(tight_lipped(EnvFilter::new("trace,sea_orm::database=trace")));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let url = "postgres://pos:hunter2@db/warifu";
            let span = tracing::trace_span!(target: "sea_orm::database", "connect", url);
            let _inside = span.enter();
            tracing::debug!(target: "sqlx::postgres", url, "connecting");
            tracing::trace!(target: "warifu::app", "our own");
            tracing::info!(target: "sqlx::query", "slow");
        });
        let text = page.text();
        assert!(text.contains("our own") && text.contains("slow"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
