//! Traces as users see them: what a collector gets of a request that goes from the gateway through two functions.
use crate::harness::cluster::{Options, free_port};
use crate::harness::collector::{Collector, Received};
use crate::harness::{Cluster, Namespace, environment, http, wait};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::sync::OnceLock;

/// A cluster that sends its traces to a collector.
fn cluster() -> &'static (Cluster, Collector) {
    static CLUSTER: OnceLock<Result<(Cluster, Collector), String>> = OnceLock::new();
    let made = CLUSTER.get_or_init(|| {
        let collector = Collector::start();
        let words = [
            "--otlp-endpoint",
            &format!("http://{}", collector.address),
            "--gateway-access-log",
            "--gateway-tls-port",
            "off",
        ]
        .map(str::to_owned);
        let options = Options { words: words.to_vec(), ..Options::default() };
        Cluster::start("traces", options).map(|cluster| (cluster, collector))
    });
    made.as_ref().unwrap_or_else(|why| panic!("the cluster could not be made: {why}"))
}

/// A namespace with the function `greeter`, and `fetch`, which asks whom it is told to.
fn functions(name: &str) -> Namespace {
    let t = Namespace::new(&cluster().0, name);
    for (guest, function) in [("hello-http", "greeter"), ("fetch", "fetch")] {
        let file = environment::guest(guest);
        let file = file.to_str().expect("a path of ours");
        t.dhow(&["deploy", file, "--name", function]).ok();
    }
    t
}

const PARENT: &str = "b7ad6b7169203331";

fn ask(t: &Namespace, path: &str, traceparent: &str) -> http::Answer {
    let host = format!("fetch.{}.localhost", t.name);
    let headers = [("traceparent", traceparent)];
    http::request(&cluster().0.gateway(), &host, "GET", path, &headers, b"").expect("an answer")
}

/// The spans of a trace, once `count` of them have come.
fn spans(trace: &str, count: usize) -> Vec<Received> {
    wait::until(&format!("{count} spans of trace {trace}"), || {
        let spans = cluster().1.trace(trace);
        wait::holds(spans.len() >= count, format!("{spans:#?}")).map(|()| spans)
    })
}

/// The only span of `kind` by `parent`.
#[track_caller]
fn child<'a>(spans: &'a [Received], parent: &[u8], kind: SpanKind) -> &'a Received {
    let mut found =
        spans.iter().filter(|s| s.span.parent_span_id == parent && s.span.kind == i32::from(kind));
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        _ => panic!("not one span of kind {kind:?} by {parent:02x?}: {spans:#?}"),
    }
}

#[test]
fn one_trace_leads_from_the_gateway_through_a_guest_to_the_one_it_asks() {
    let t = functions("calls");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = ask(&t, "/http://greeter:8080/inner", &format!("00-{trace}-{PARENT}-01"));
    assert!(answer.body.starts_with("200: Hello from WebAssembly"), "{answer:?}");

    // gateway ─► fetch ─► its own request ─► greeter
    let spans = spans(trace, 4);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let parent: Vec<u8> =
        (0..8).map(|i| u8::from_str_radix(&PARENT[2 * i..2 * i + 2], 16).expect("hex")).collect();
    let gateway = child(&spans, &parent, SpanKind::Server);
    let guest = child(&spans, &gateway.span.span_id, SpanKind::Server);
    let call = child(&spans, &guest.span.span_id, SpanKind::Client);
    let asked = child(&spans, &call.span.span_id, SpanKind::Server);

    assert_eq!(gateway.service, "dhow-gateway");
    for span in [guest, call, asked] {
        assert_eq!(span.service, "dhow-runtime");
    }
    let fetch = format!("fetch.{}.localhost", t.name);
    for (span, expected) in [
        (
            gateway,
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("server.address", &*fetch),
                ("k8s.namespace.name", "calls"),
                ("dhow.function.name", "fetch"),
                ("dhow.function.revision", "fetch-r1"),
            ],
        ),
        (
            guest,
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("url.path", "/http://greeter:8080/inner"),
                ("k8s.namespace.name", "calls"),
                ("k8s.container.name", "function"),
                ("faas.coldstart", "true"),
            ],
        ),
        (
            call,
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("url.full", "http://greeter:8080/inner"),
                ("server.address", "greeter"),
                ("k8s.namespace.name", "calls"),
                ("k8s.container.name", "function"),
            ],
        ),
        (
            asked,
            [
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("url.path", "/inner"),
                ("server.address", "greeter"),
                ("k8s.namespace.name", "calls"),
                ("faas.coldstart", "true"),
            ],
        ),
    ] {
        for (key, value) in expected {
            assert_eq!(span.attribute(key), value, "{key} of {span:#?}");
        }
    }
    let pods = t.ok(&["get", "pods", "-o", "name"]);
    for (span, function) in [(guest, "fetch-r1"), (call, "fetch-r1"), (asked, "greeter-r1")] {
        let pod = span.attribute("k8s.pod.name");
        assert!(pod.starts_with(function) && pods.contains(&pod), "{pod} of {pods}");
    }
    // The log of the gateway names the trace as well.
    let line = wait::until("the line of the request", || {
        let log = cluster().0.log();
        log.lines().find(|line| line.contains(trace)).map(str::to_owned).ok_or(log)
    });
    assert!(line.contains("/http://greeter:8080/inner"), "{line}");
    let metrics = t.ok(&["get", "--raw", "/metrics"]);
    assert!(
        metrics.contains("otel_sdk_processor_span_processed_total{error_type=\"queue_full\"} 0"),
        "{metrics}"
    );
}

#[test]
fn a_trace_that_its_client_does_not_sample_is_carried_on_and_not_recorded() {
    let t = functions("unsampled");
    let (unsampled, sampled) = ("0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319d");
    for (trace, flags) in [(unsampled, "00"), (sampled, "01")] {
        let answer = ask(&t, "/http://greeter:8080/", &format!("00-{trace}-{PARENT}-{flags}"));
        assert!(answer.body.starts_with("200: "), "{answer:?}");
    }
    // Those of the later request have come; the earlier ones would have come before or with them.
    spans(sampled, 4);
    assert!(cluster().1.trace(unsampled).is_empty());
}

#[test]
fn a_collector_that_is_not_there_costs_no_request_and_no_end() {
    let words =
        ["--otlp-endpoint", &format!("http://127.0.0.1:{}", free_port()), "--gateway-tls-port", "off"];
    let options = Options { words: words.map(str::to_owned).to_vec(), ..Options::default() };
    let cluster = Cluster::start("no-collector", options).expect("a cluster");
    for _ in 0..50 {
        let answer = http::get(&cluster.gateway(), "nobody.localhost", "/").expect("an answer");
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    wait::until("it is said that nobody takes the traces", || {
        let log = cluster.log();
        wait::holds(log.contains("the collector takes no traces"), log)
    });
    assert!(cluster.stop().success());
}

#[test]
fn an_endpoint_that_is_none_is_told_at_the_start() {
    let options = Options { words: vec!["--otlp-endpoint".into(), "4318".into()], ..Options::default() };
    let Err(error) = Cluster::start("bad-endpoint", options) else { panic!("it started") };
    assert!(
        error.contains("\"4318\" is not the URL of a collector") && error.contains("http://127.0.0.1:4318"),
        "{error}"
    );
}
