//! What is counted, under upstream's names.
use crate::limits::Class;
use machinery::resource::Resource;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    code: u16,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WatchLabels {
    group: &'static str,
    kind: &'static str,
}

/// Who is counted: never text from a request, so that nobody can make the process remember endless labels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    in_flight: Family<KindLabels, Gauge>,
    watch_events: Family<WatchLabels, Counter>,
    connections: Gauge,
}

/// From 1 ms, a read in memory, to a minute, the request timeout.
fn duration_histogram() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Metrics {
    /// The server's own, and beside them what `others` show.
    pub(crate) fn new(others: Vec<Box<dyn Collector>>) -> Self {
        let mut registry = Registry::default();
        for other in others {
            registry.register_collector(other);
        }
        let requests = Family::default();
        let durations = Family::new_with_constructor(duration_histogram as fn() -> Histogram);
        let in_flight = Family::default();
        let watch_events = Family::default();
        let connections = Gauge::default();
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "How long requests took that are not streams",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being answered",
            in_flight.clone(),
        );
        registry.register("apiserver_watch_events", "Events sent to watchers", watch_events.clone());
        registry.register("apiserver_open_connections", "Connections held", connections.clone());
        Self { registry, requests, durations, in_flight, watch_events, connections }
    }

    pub(crate) fn request(&self, subject: Subject, code: u16, class: Class, took: Duration) {
        let Subject { verb, group, resource, subresource } = subject;
        self.requests.get_or_create(&RequestLabels { verb, group, resource, subresource, code }).inc();
        if class != Class::LongRunning {
            let labels = DurationLabels { verb, group, resource, subresource };
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }
    pub(crate) fn in_flight(&self, class: Class) -> Gauge {
        let request_kind = match class {
            Class::Read => "readOnly",
            Class::Write => "mutating",
            Class::LongRunning => "longRunning",
        };
        self.in_flight.get_or_create(&KindLabels { request_kind }).clone()
    }
    pub(crate) fn watch_event(&self, row: &'static Resource) {
        self.watch_events.get_or_create(&WatchLabels { group: row.group, kind: row.kind }).inc();
    }
    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
