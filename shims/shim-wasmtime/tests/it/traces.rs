//! Spans of requests in containers, and what their logs say of them.
use crate::http::{Served, hello, serve};
use crate::world::{World, soon};
use std::sync::Arc;
use telemetry::fake::{self, Ended, EndedSpan};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced_world() -> (World, Ended) {
    let (tracer, ended) = fake::tracer();
    (World::with(|config| config.tracer = Some(Arc::new(tracer))), ended)
}

async fn ask(served: &Served, headers: &str) -> String {
    served
        .raw(format!("GET /path HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n").as_bytes())
        .await
}

/// The first `count` spans. One ends when its guest has returned, a moment after the answer at times.
async fn spans(ended: &Ended, count: usize) -> Vec<EndedSpan> {
    soon(async {
        while ended.spans().len() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ended.spans()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_a_span_that_says_whether_an_instance_was_made_for_it() {
    let (world, ended) = traced_world();
    let served = serve(&world, &hello(""), |spec| {
        spec.annotations.insert("dhow.dev/instance-reuse".into(), "2".into());
    })
    .await;
    for made in ["true", "false", "true"] {
        let before = ended.spans().len();
        assert!(ask(&served, &format!("traceparent: {PARENT}\r\n")).await.starts_with("HTTP/1.1 200"));
        let spans = spans(&ended, before + 1).await;
        let span = &spans[before];
        assert_eq!(span.context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.parent.expect("a parent").to_string(), "b7ad6b7169203331");
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/path"),
            ("http.response.status_code", "200"),
            ("k8s.namespace.name", "default"),
            ("k8s.pod.name", "pod"),
            ("k8s.container.name", "main"),
            ("faas.coldstart", made),
        ] {
            assert_eq!(span.attribute(key).as_deref(), Some(value), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_in_its_trace_and_its_log_line_names_the_trace() {
    let (world, ended) = traced_world();
    let served = serve(&world, &hello("unreachable"), |_| {}).await;
    assert!(ask(&served, "").await.starts_with("HTTP/1.1 500"));
    let spans = spans(&ended, 1).await;
    assert_eq!(spans[0].attribute("error.type").as_deref(), Some("trap"));
    assert_eq!((spans[0].failed, spans[0].parent), (true, None));
    let begin = format!("trace_id={} request failed: ", spans[0].context.trace_id());
    assert!(served.log.stderr().starts_with(&begin), "{begin}: {}", served.log.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tracer_a_log_line_names_no_trace() {
    let world = World::new();
    let served = serve(&world, &hello("unreachable"), |_| {}).await;
    ask(&served, &format!("traceparent: {PARENT}\r\n")).await;
    assert!(served.log.stderr().starts_with("request failed: "), "{}", served.log.stderr());
}
