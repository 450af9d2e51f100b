//! The plain HTTP side: is the process alive, can it serve, what do its metrics say. No card data, no business, no
//! authentication: it belongs on loopback or a private network.

mod doorman;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use warifu_actors::House;
use warifu_actors::house::End;

use crate::app::Posture;
use crate::readiness::Readiness;
use doorman::Doorman;

#[derive(Clone)]
struct Edge {
    house: House,
    metrics: PrometheusHandle,
    posture: Posture,
}

/// Serves for as long as it is polled: during a drain, too, when it says that the server is not ready.
pub(crate) async fn serve(listener: TcpListener, house: House, metrics: PrometheusHandle, posture: Posture) {
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Edge { house, metrics, posture });
    if let Err(error) = axum::serve(Doorman::new(listener), routes).await {
        tracing::error!(%error, "health and metrics are not served any more");
    }
}

/// The process answers; whether it can serve is `/readyz`'s matter.
async fn healthz(State(edge): State<Edge>) -> Json<serde_json::Value> {
    let health = edge.house.health();
    let modes: Vec<&str> = health.modes.iter().map(|mode| mode.name()).collect();
    let mut warnings: Vec<String> = Vec::new();
    if edge.posture == Posture::Dev {
        warnings.push("developer's throw-away server: test keys, no card of a real person".to_owned());
    }
    if health.accept_non_p2pe {
        let warning = "host-derived decryption is allowed: initial keys leave the HSM, which is not P2PE";
        warnings.push(warning.to_owned());
    }
    warnings.extend(health.keys.iter().filter_map(|key| match key.end? {
        End::InDays(days) => Some(format!("the key {} is to be replaced in {days} days", key.id)),
        End::Past => Some(format!("the key {} should have been replaced", key.id)),
    }));
    let keys = health.keys.iter().map(|key| json!({ "id": key.id.as_str(), "state": key.state.name() }));
    Json(json!({
        "status": "alive",
        "version": env!("CARGO_PKG_VERSION"),
        "dev": edge.posture == Posture::Dev,
        "decryption_modes": modes,
        "keys": keys.collect::<Vec<_>>(),
        "accept_non_p2pe": health.accept_non_p2pe,
        "draining": health.draining,
        "warnings": warnings,
    }))
}

/// 200 if cards can be taken now, else 503 and what is down.
async fn readyz(State(edge): State<Edge>) -> Response {
    let readiness = Readiness::of(&edge.house);
    let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": readiness.is_ready(), "down": readiness.down() }))).into_response()
}

async fn render(State(edge): State<Edge>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], edge.metrics.render()).into_response()
}
