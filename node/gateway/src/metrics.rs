//! What the gateway counts, in Prometheus' terms.
use crate::backends::Route;
use crate::routes::RouteTable;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Upper bounds in seconds: from a small guest that is there already to the longest a function may take by default.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The gateway's counters. Made before the gateway starts, so that whoever shows metrics has them from the start.
#[derive(Debug)]
pub struct Metrics {
    table: Arc<ArcSwap<RouteTable>>,
    /// Answers to requests that no route took, by code.
    unrouted: Mutex<BTreeMap<u16, u64>>,
    duration: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) upgraded: Gauge,
    pub(crate) in_flight: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            unrouted: Mutex::default(),
            duration: Histogram::new(BUCKETS),
            connections: Gauge::default(),
            upgraded: Gauge::default(),
            in_flight: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The routes in force, whose counters are shown.
    pub(crate) fn table(&self) -> &Arc<ArcSwap<RouteTable>> {
        &self.table
    }

    /// Notes that a request is over.
    pub(crate) fn observe(&self, route: Option<&Route>, code: u16, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        match route {
            Some(route) => route.memory.count(code),
            None => *self.unrouted.lock().entry(code).or_default() += 1,
        }
    }

    /// What shows everything under the names of docs/gateway.md.
    pub fn collector(self: &Arc<Self>) -> Box<dyn Collector> {
        Box::new(Shown(self.clone()))
    }
}

/// Shows what is counted route by route: of a route that is gone nothing is left.
#[derive(Debug)]
struct Shown(Arc<Metrics>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Requests answered, by the route that took them and the answer's code";
        let mut requests = encoder.encode_descriptor("gateway_requests", help, None, MetricType::Counter)?;
        // Several hosts and paths of one owner count together.
        let routes = self.0.table.load().routes();
        let owners: BTreeMap<_, _> = routes.iter().map(|r| (r.owner.to_string(), r)).collect();
        for route in owners.values() {
            for (code, n) in route.memory.codes() {
                let labels = [
                    ("code", code.to_string()),
                    ("kind", route.owner.kind.to_owned()),
                    ("namespace", route.owner.namespace.clone()),
                    ("name", route.owner.name.clone()),
                ];
                ConstCounter::new(n).encode(requests.encode_family(&labels)?)?;
            }
        }
        for (code, n) in &*self.0.unrouted.lock() {
            let labels = [
                ("code", code.to_string()),
                ("kind", String::new()),
                ("namespace", String::new()),
                ("name", String::new()),
            ];
            ConstCounter::new(*n).encode(requests.encode_family(&labels)?)?;
        }
        let help = "From a request's head to the end of its answer";
        let name = "gateway_request_duration_seconds";
        let durations = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        self.0.duration.encode(durations)?;
        for (name, help, value) in [
            ("gateway_connections", "Connections of clients that are open", self.0.connections.get()),
            (
                "gateway_upgraded_connections",
                "Connections that became a WebSocket or the like",
                self.0.upgraded.get(),
            ),
            ("gateway_requests_in_flight", "Requests that are being answered", self.0.in_flight.get()),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_shown_by_route_and_code() {
        let metrics = Arc::new(Metrics::default());
        metrics.observe(None, 404, Duration::from_millis(1));
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(metrics.collector());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        assert!(
            text.contains("gateway_requests_total{code=\"404\",kind=\"\",namespace=\"\",name=\"\"} 1"),
            "{text}"
        );
        assert!(text.contains("gateway_request_duration_seconds_bucket{le=\"0.001\"} 1"), "{text}");
        assert!(text.contains("gateway_connections 0"), "{text}");
    }
}
