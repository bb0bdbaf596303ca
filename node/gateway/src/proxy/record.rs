//! What is noted of a request when it is over: counters, and a line in the access log.
use crate::backends::Route;
use crate::metrics::Metrics;
use crate::server::Activity;
use http::{Method, StatusCode};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use telemetry::{Span, SpanKind, attribute};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// The tracing target of the access log.
pub const ACCESS: &str = "access";

/// What the access log says beside what is known anyway.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) trace: String,
    pub(crate) backend: Option<SocketAddr>,
}

/// A request that is under way; it is noted when this is dropped.
pub(crate) struct Record {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) started: Instant,
    pub(crate) peer: IpAddr,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) code: u16,
    pub(crate) sent: u64,
    /// The answer did not come to its end.
    pub(crate) broken: bool,
    /// Only when somebody reads the log.
    pub(crate) line: Option<Box<Line>>,
    /// Only when somebody traces.
    pub(crate) span: Option<Span>,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

impl Record {
    /// Whether lines of the access log go anywhere.
    pub(crate) fn is_logged() -> bool {
        tracing::enabled!(target: ACCESS, tracing::Level::INFO)
    }

    /// Notes a backend that the request is offered to.
    pub(crate) fn offered(&mut self, address: SocketAddr) {
        if let Some(line) = &mut self.line {
            line.backend = Some(address);
        }
        if let Some(span) = &mut self.span
            && span.is_recording()
        {
            span.set(attribute::BACKEND, &address.to_string());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.duration_since(self.started);
        self.activity.ended(now);
        self.metrics.in_flight.dec();
        self.metrics.observe(self.route.as_deref(), self.code, took);
        if let Some(span) = &mut self.span {
            if let Ok(status) = StatusCode::from_u16(self.code) {
                span.answered(&SpanKind::Server, status);
            }
            if self.broken {
                span.fail("broken", "the answer broke off");
            }
        }
        let Some(line) = &self.line else { return };
        let owner = self.route.as_ref().map(|route| route.owner.to_string()).unwrap_or_default();
        let backend = line.backend.map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(
            target: "access",
            method = %line.method,
            host = line.host,
            path = line.path,
            status = self.code,
            bytes = self.sent,
            ms = %format_args!("{:.3}", took.as_secs_f64() * 1e3),
            peer = %self.peer,
            route = owner,
            backend,
            trace = line.trace,
            broken = self.broken,
        );
    }
}
