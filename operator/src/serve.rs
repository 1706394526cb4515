//! What the operator shows of itself: health, readiness, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Urgency;

type Labels = [(&'static str, &'static str); 1];

/// Counted since the start.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Counter,
    failures: Counter,
    status_writes: Counter,
    duration_seconds: Histogram,
    wait_seconds: Family<Labels, Histogram>,
    pub is_leader: Gauge,
}

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            reconciles: Counter::default(),
            failures: Counter::default(),
            status_writes: Counter::default(),
            duration_seconds: buckets(),
            wait_seconds: Family::new_with_constructor(buckets),
            is_leader: Gauge::default(),
        };
        let sub = registry.sub_registry_with_prefix("weir_operator");
        sub.register("reconciles", "Looks at a job", metrics.reconciles.clone());
        sub.register("reconcile_failures", "Looks that ended with an error", metrics.failures.clone());
        sub.register("status_writes", "Statuses written", metrics.status_writes.clone());
        sub.register("reconcile_duration_seconds", "How long a look takes", metrics.duration_seconds.clone());
        let wait = "How long a look that was due waited for its turn, after a change and by the clock";
        sub.register("reconcile_wait_seconds", wait, metrics.wait_seconds.clone());
        sub.register("leader", "1 on the replica that acts", metrics.is_leader.clone());
        metrics
    }

    pub fn reconciled(&self, took: Duration, waited: Duration, urgency: Urgency, failed: bool) {
        self.reconciles.inc();
        if failed {
            self.failures.inc();
        }
        self.duration_seconds.observe(took.as_secs_f64());
        let after = match urgency {
            Urgency::Change => "change",
            Urgency::Routine => "interval",
        };
        self.wait_seconds.get_or_create(&[("after", after)]).observe(waited.as_secs_f64());
    }

    pub fn status_written(&self) {
        self.status_writes.inc();
    }
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 14))
}

/// What the pages are made of.
#[derive(Clone)]
pub struct Shown {
    pub registry: Arc<Registry>,
    /// All watches have listed what there is; of a replica that does not lead: it waits.
    pub is_ready: Arc<AtomicBool>,
}

/// Serves until the process ends.
pub async fn serve(address: SocketAddr, shown: Shown) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shown);
    axum::serve(tokio::net::TcpListener::bind(address).await?, router).await
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match shown.is_ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not yet: the watches have not listed everything\n"),
    }
}

async fn metrics(State(shown): State<Shown>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &shown.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
