//! The gateway with backends of these tests behind it, over real sockets on the loopback.
mod limits;
mod traces;
mod wire;

use crate::metrics::Metrics;
use crate::routes::{RouteTable, World, routes};
use crate::server::Server;
use bytes::Bytes;
use client::dhow::v1alpha1::Function;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A backend that answers by `answer`; how many connections it has had.
async fn backend<F, R, B>(answer: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: std::error::Error + Send + Sync,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer.clone();
                    async move { Ok::<_, Infallible>(answer(request).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, count)
}

/// A backend that answers with the request's head, as text.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    backend(|request| async move {
        let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
        for (name, value) in request.headers() {
            text += &format!("{name}: {}\n", value.to_str().expect("text"));
        }
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Response::new(Full::new(Bytes::from(format!("{text}\n{body}"))))
    })
    .await
}

async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
}

struct Gateway {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    server: Arc<Server>,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn table(addresses: &[SocketAddr], spec: &serde_json::Value) -> RouteTable {
    let function = json!({ "metadata": { "name": "f", "namespace": "default" }, "spec": spec });
    let function: Function = serde_json::from_value(function).expect("a function");
    let service =
        json!({ "metadata": { "name": "f", "namespace": "default" }, "spec": { "ports": [{ "port": 80 }] } });
    let service = Arc::new(serde_json::from_value(service).expect("a service"));
    let slices: Vec<_> = addresses
        .iter()
        .map(|a| {
            let slice = json!({
                "metadata": { "name": "f", "namespace": "default", "labels": { "kubernetes.io/service-name": "f" } },
                "addressType": "IPv4", "ports": [{ "name": "", "port": a.port() }],
                "endpoints": [{ "addresses": [a.ip().to_string()] }]
            });
            Arc::new(serde_json::from_value(slice).expect("a slice"))
        })
        .collect();
    let world =
        World { functions: &[Arc::new(function)], services: &[service], slices: &slices, ingresses: &[] };
    routes(&world, &RouteTable::default())
}

/// A gateway for one function, `f`, whose pods are `addresses`.
async fn gateway(addresses: &[SocketAddr]) -> Gateway {
    gateway_for(addresses, json!({})).await
}

async fn gateway_for(addresses: &[SocketAddr], spec: serde_json::Value) -> Gateway {
    gateway_with(addresses, spec, None).await
}

async fn gateway_with(
    addresses: &[SocketAddr],
    spec: serde_json::Value,
    tracer: Option<Arc<telemetry::Tracer>>,
) -> Gateway {
    let metrics = Arc::new(Metrics::default());
    metrics.table().store(Arc::new(table(addresses, &spec)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let shutdown = CancellationToken::new();
    let server = Arc::new(Server::new(metrics.clone(), tracer, 1, shutdown.clone()));
    let serving = server.clone();
    let ended = tokio::spawn(async move { serving.serve(listener, None).await });
    Gateway { address, metrics, server, shutdown, ended }
}

/// Everything the gateway says to these bytes until it closes the connection.
async fn ask(gateway: &Gateway, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.expect("connect");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = tokio::time::timeout(LIMIT * 60, stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Reads until what came ends with `end`.
async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(end.as_bytes()) {
            let byte = stream.read_u8().await;
            seen.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&seen))));
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("in time");
    String::from_utf8_lossy(&seen).into_owned()
}
