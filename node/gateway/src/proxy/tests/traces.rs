//! Spans of requests, and what clients and backends are told of them.
use super::*;
use telemetry::fake::{self, EndedSpan};
use telemetry::{SpanKind, attribute};

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What the backend was told, and the spans that ended.
async fn traced(host: &str, headers: &str) -> (String, Vec<EndedSpan>) {
    let (tracer, ended) = fake::tracer();
    let gateway = gateway_with(&[echo().await.0], json!({}), Some(Arc::new(tracer))).await;
    let request = format!("GET /a?secret=1 HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
    let answer = ask(&gateway, &request).await;
    (answer, ended.spans())
}

#[tokio::test]
async fn a_request_begins_a_trace_that_the_backend_goes_on_with() {
    let (answer, spans) = traced("f.localhost:8080", "").await;
    let [span] = &spans[..] else { panic!("one span: {spans:?}") };
    assert_eq!((&*span.name, &span.kind, span.parent), ("GET", &SpanKind::Server, None));
    let told = format!("traceparent: 00-{}-{}-01", span.context.trace_id(), span.context.span_id());
    assert!(answer.contains(&told), "{told} is not in {answer}");
    for (key, value) in [
        (attribute::HTTP_METHOD, "GET"),
        (attribute::URL_PATH, "/a"),
        (attribute::URL_SCHEME, "http"),
        (attribute::SERVER_ADDRESS, "f.localhost"),
        (attribute::SERVER_PORT, "8080"),
        (attribute::CLIENT_ADDRESS, "127.0.0.1"),
        (attribute::HTTP_STATUS, "200"),
        (attribute::NAMESPACE, "default"),
        (attribute::FUNCTION, "f"),
    ] {
        assert_eq!(span.attribute(key).as_deref(), Some(value), "{key}");
    }
    assert!(span.attribute(attribute::BACKEND).is_some_and(|at| at.starts_with("127.0.0.1:")));
    assert!(!span.failed);
}

#[tokio::test]
async fn a_trace_is_continued_and_one_that_is_not_sampled_stays_so() {
    let (answer, spans) =
        traced("f.localhost", &format!("traceparent: {GIVEN}\r\ntracestate: a=1\r\n")).await;
    let [span] = &spans[..] else { panic!("one span: {spans:?}") };
    assert_eq!(span.context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent.map(|id| id.to_string()).as_deref(), Some("b7ad6b7169203331"));
    assert!(answer.contains(&format!("-{}-01", span.context.span_id())), "{answer}");
    assert!(answer.contains("tracestate: a=1"), "{answer}");

    let unsampled = GIVEN.replace("-01", "-00");
    let (answer, spans) = traced("f.localhost", &format!("traceparent: {unsampled}\r\n")).await;
    assert!(spans.is_empty(), "{spans:?}");
    assert!(answer.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"), "{answer}");
    assert!(!answer.contains("-01\n"), "{answer}");
}

#[tokio::test]
async fn a_request_that_leads_nowhere_has_a_span_too_and_a_failed_one_says_so() {
    let (_, spans) = traced("nobody.example", "").await;
    assert_eq!(spans[0].attribute(attribute::HTTP_STATUS).as_deref(), Some("404"));
    assert!(!spans[0].failed && spans[0].attribute(attribute::NAMESPACE).is_none());

    let (tracer, ended) = fake::tracer();
    let gateway = gateway_with(&[dead().await], json!({}), Some(Arc::new(tracer))).await;
    ask(&gateway, &get("f.localhost")).await;
    let spans = ended.spans();
    assert_eq!(spans[0].attribute(attribute::ERROR_TYPE).as_deref(), Some("502"));
    assert!(spans[0].failed);
}
