//! Questions over real sockets of this machine.
use super::Outcome;
use super::Sockets;
use super::attempt::{Question, Target, ask};
use bytes::Bytes;
use client::k8s_openapi::api::core::v1 as core;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

/// A program that answers every request alike, over TLS if it has a configuration for it. Gives its port.
async fn program(
    tls: Option<Arc<rustls::ServerConfig>>,
    answer: impl Fn(&Request<Incoming>) -> Response<Frames> + Clone + Send + Sync + 'static,
) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request).map(|frames| StreamBody::new(futures::stream::iter(frames)));
                async move { Ok::<_, Infallible>(answer) }
            });
            let builder = Builder::new(TokioExecutor::new());
            // How a connection ends is the probe's affair.
            match &tls {
                Some(tls) => {
                    let stream = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(stream).await.unwrap();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                }
                None => {
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        }
    });
    (port, serving)
}

fn target() -> Target {
    Target {
        prober: Arc::new(Sockets),
        runtime: Arc::new(cri::fake::FakeRuntime::with_clock(|| 0)),
        container_id: "c".into(),
        pod_ip: "127.0.0.1".into(),
        ports: Vec::new(),
    }
}

async fn probe(v: Value) -> Outcome {
    let probe: core::Probe = serde_json::from_value(v).unwrap();
    ask(&Question::from(&probe), &target(), Duration::from_secs(10)).await
}

fn coded(code: u16) -> Response<Frames> {
    let mut answer = Response::new(vec![Ok(Frame::data(Bytes::from_static(b"hello")))]);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}

#[tokio::test]
async fn an_https_probe_believes_any_certificate_and_reads_the_status() {
    // TLS looks at the machine's own clock.
    #[allow(clippy::disallowed_methods)]
    let now = jiff::Timestamp::now();
    let authority = pki::Authority::generate("somebody", now).unwrap();
    let subject = pki::Subject { common_name: "app", organization: None };
    let own = authority.issue_serving(subject, &["app.example".into()], now).unwrap();
    let tls = pki::server_config(authority.certificate_pem(), &own).unwrap();
    let (port, serving) =
        program(Some(tls), |r| coded(if r.uri().path() == "/ok" { 204 } else { 503 })).await;
    let get = |path: &str| json!({ "httpGet": { "path": path, "port": port, "scheme": "HTTPS" } });
    assert_eq!(probe(get("/ok")).await, Outcome::Success);
    assert_eq!(probe(get("/no")).await, Outcome::Failure("HTTP probe failed with statuscode: 503".into()));
    serving.abort();
}

/// A health answer: the status in the message, then the trailers.
fn health(status: u8, code: &'static str) -> Response<Frames> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    let mut answer = Response::new(vec![Ok(Frame::data(message)), Ok(Frame::trailers(trailers))]);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

#[tokio::test]
async fn a_grpc_probe_speaks_the_health_protocol() {
    let (port, serving) = program(None, |r| {
        assert_eq!(r.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(r.version(), http::Version::HTTP_2);
        health(1, "0")
    })
    .await;
    let healthy = probe(json!({ "grpc": { "port": port, "service": "shop" } })).await;
    assert_eq!(healthy, Outcome::Success);
    serving.abort();

    let (port, serving) = program(None, |_| health(2, "0")).await;
    let unhealthy = probe(json!({ "grpc": { "port": port } })).await;
    let text = "service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(unhealthy, Outcome::Failure(text.into()));
    serving.abort();

    // A server that knows no such service answers with headers alone.
    let (port, serving) = program(None, |_| {
        let mut answer = Response::new(Vec::new());
        answer.headers_mut().insert("grpc-status", HeaderValue::from_static("12"));
        answer
    })
    .await;
    let Outcome::Failure(text) = probe(json!({ "grpc": { "port": port } })).await else { panic!() };
    assert!(text.contains("does not implement the grpc health protocol"), "{text}");
    serving.abort();
}

#[tokio::test]
async fn a_hook_over_http_is_heard_whatever_the_answer_says() {
    let (port, serving) = program(None, |_| coded(404)).await;
    let get = json!({ "httpGet": { "path": "/bye", "port": port } });
    let hook: core::LifecycleHandler = serde_json::from_value(get.clone()).unwrap();
    let heard = ask(&Question::from(&hook), &target(), Duration::from_secs(10)).await;
    assert_eq!(heard, Outcome::Success);
    let Outcome::Failure(_) = probe(get).await else { panic!("a probe asks for more") };
    serving.abort();
}
