//! Carries one request to a backend and its answer back.
use crate::routes::RouteTable;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{
    CONNECTION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A backend of this node accepts at once or is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections kept to each backend, for the next burst. However many backends there are, no more are idle than
/// requests were at work within [`IDLE_TIMEOUT`].
const IDLE_PER_BACKEND: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests at work at once: each holds a connection to a backend. As many as client connections, which bounds what
/// the streams of HTTP/2 could ask for.
const MAX_REQUESTS: usize = crate::server::MAX_CONNECTIONS;

/// How long a request may wait for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// From the request's head to the answer's head; longer than the default timeout of a function (30 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Backends tried for one request.
const MAX_TRIES: usize = 3;

/// Headers of one hop, not of the message (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// A request body that can be offered to another backend as long as nobody has read from it: a connection that could
/// not be made has not.
#[derive(Clone)]
struct Unsent {
    body: Arc<Mutex<Incoming>>,
    size: http_body::SizeHint,
    empty: bool,
}

impl Unsent {
    fn new(body: Incoming) -> Self {
        let (size, empty) = (body.size_hint(), body.is_end_stream());
        Self { body: Arc::new(Mutex::new(body)), size, empty }
    }
}

impl http_body::Body for Unsent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.body.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.empty || self.body.lock().is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.size
    }
}

/// An answer's body; the request counts as being at work until it ends.
struct Answer {
    body: Incoming,
    _turn: OwnedSemaphorePermit,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

pub(crate) struct Proxy {
    table: Arc<ArcSwap<RouteTable>>,
    client: Client<HttpConnector, Unsent>,
    turns: Arc<Semaphore>,
}

/// An answer of the gateway's own: one sentence.
fn say(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// What the backend is told of where the request came from. A client's own words are not passed on: nothing
/// trustworthy stands in front of the gateway.
fn forwarded(headers: &mut HeaderMap, peer: SocketAddr, host: &str) {
    headers.remove(FORWARDED);
    let peer = HeaderValue::from_str(&peer.ip().to_canonical().to_string());
    for (name, value) in [("x-forwarded-for", peer), ("x-forwarded-host", HeaderValue::from_str(host))] {
        match value {
            Ok(value) => headers.insert(HeaderName::from_static(name), value),
            Err(_) => headers.remove(name),
        };
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("http"));
}

impl Proxy {
    pub(crate) fn new(table: Arc<ArcSwap<RouteTable>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_PER_BACKEND)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self { table, client, turns: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }

    pub(crate) async fn handle(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let host = match request.uri().authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => match request.headers().get(HOST).and_then(|h| h.to_str().ok()) {
                Some(host) => host.to_owned(),
                None => return say(StatusCode::BAD_REQUEST, "the request names no host"),
            },
        };
        if request.method() == http::Method::CONNECT {
            // A success would turn the connection into a tunnel.
            return say(StatusCode::METHOD_NOT_ALLOWED, "the gateway is no proxy: CONNECT is not served");
        }
        // RFC 9112 section 3.2: who stands in front may have read the other one.
        if request.headers().get_all(HOST).iter().nth(1).is_some() {
            return say(StatusCode::BAD_REQUEST, "the request names more than one host");
        }
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let table = self.table.load();
        let Some(backends) = table.find(&host, &path).cloned() else {
            let text = format!(
                "no function or service answers for {host}{path}; `dhow ls` lists the functions and their URLs"
            );
            return say(StatusCode::NOT_FOUND, &text);
        };
        drop(table);
        if backends.addresses.is_empty() {
            return say(StatusCode::SERVICE_UNAVAILABLE, &format!("{} has no ready pod", backends.name));
        }
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            return say(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
        };
        strip_hop_by_hop(request.headers_mut());
        forwarded(request.headers_mut(), peer, &host);
        if let Ok(host) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(HOST, host);
        }
        *request.version_mut() = http::Version::HTTP_11;

        let (head, body) = request.into_parts();
        let body = Unsent::new(body);
        let mut last = String::new();
        for address in backends.in_turn().take(MAX_TRIES) {
            let Ok(uri) = format!("http://{address}{path}").parse::<Uri>() else {
                return say(StatusCode::BAD_REQUEST, "the request's path is not one");
            };
            let mut head = head.clone();
            head.uri = uri;
            let attempt = self.client.request(Request::from_parts(head, body.clone()));
            match tokio::time::timeout(ANSWER_TIMEOUT, attempt).await {
                Err(_) => {
                    return say(
                        StatusCode::GATEWAY_TIMEOUT,
                        &format!("{} did not answer within {} s", backends.name, ANSWER_TIMEOUT.as_secs()),
                    );
                }
                Ok(Ok(mut response)) => {
                    strip_hop_by_hop(response.headers_mut());
                    return response.map(|body| Answer { body, _turn: turn }.boxed());
                }
                Ok(Err(error)) => {
                    last = client::error_chain(&error);
                    tracing::debug!(backend = %address, error = %last, "a backend failed");
                    if !error.is_connect() {
                        break;
                    }
                }
            }
        }
        say(StatusCode::BAD_GATEWAY, &format!("{} cannot be reached: {last}", backends.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{routes, server};
    use client::dhow::v1alpha1::{Function, FunctionSpec};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    /// A backend that answers a request whose body ends in "ping" with the request itself.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = Vec::new();
                while !seen.ends_with(b"ping") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).await.is_err() {
                        break;
                    }
                    seen.push(byte[0]);
                }
                let head =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", seen.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&seen).await;
            }
        });
        address
    }

    async fn dead() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address")
    }

    /// A gateway for one function whose pods are `addresses`.
    async fn gateway(addresses: &[SocketAddr]) -> (SocketAddr, CancellationToken) {
        let function = Function::new("default", "f", FunctionSpec::default());
        let slices: Vec<_> = addresses
            .iter()
            .map(|a| {
                let slice = serde_json::json!({
                    "metadata": { "name": "f", "namespace": "default", "labels": { "kubernetes.io/service-name": "f" } },
                    "addressType": "IPv4", "ports": [{ "name": "", "port": a.port() }],
                    "endpoints": [{ "addresses": [a.ip().to_string()] }]
                });
                Arc::new(serde_json::from_value(slice).expect("a slice"))
            })
            .collect();
        let table = Arc::new(ArcSwap::from_pointee(routes::routes(&[Arc::new(function)], &[], &slices)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let shutdown = CancellationToken::new();
        tokio::spawn(server::serve(listener, table, shutdown.clone()));
        (address, shutdown)
    }

    async fn ask(gateway: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(gateway).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn a_request_reaches_a_live_backend_although_others_are_dead() {
        let (gateway, shutdown) = gateway(&[dead().await, echo().await, dead().await]).await;
        for _ in 0..3 {
            let answer = ask(
                gateway,
                "POST /p?q=1 HTTP/1.1\r\nHost: f.localhost\r\nConnection: close, X-Private\r\nX-Private: 1\r\n\
                 X-Forwarded-For: 6.6.6.6\r\nContent-Length: 4\r\n\r\nping",
            )
            .await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("POST /p?q=1 HTTP/1.1") && answer.ends_with("ping"), "{answer}");
            assert!(answer.contains("x-forwarded-for: 127.0.0.1") && !answer.contains("6.6.6.6"), "{answer}");
            assert!(!answer.to_lowercase().contains("x-private"), "{answer}");
        }
        shutdown.cancel();
    }

    #[tokio::test]
    async fn errors_say_what_is_wrong() {
        let (with_dead, a) = gateway(&[dead().await]).await;
        let (without, b) = gateway(&[]).await;
        let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        for (gateway, host, status, text) in [
            (with_dead, "nobody.example", "404", "dhow ls"),
            (with_dead, "f.localhost", "502", "function default/f cannot be reached"),
            (without, "f.localhost", "503", "no ready pod"),
        ] {
            let answer = ask(gateway, &get(host)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
        }
        a.cancel();
        b.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_said_is_closed() {
        let (gateway, shutdown) = gateway(&[]).await;
        assert_eq!(ask(gateway, "").await, "");
        shutdown.cancel();
    }

    #[tokio::test]
    async fn tunnels_and_requests_with_two_hosts_are_refused() {
        let (gateway, shutdown) = gateway(&[echo().await]).await;
        for (request, status, text) in [
            ("CONNECT f.localhost:80 HTTP/1.1\r\nHost: f.localhost:80\r\n\r\n", "405", "CONNECT"),
            (
                "GET / HTTP/1.1\r\nHost: f.localhost\r\nHost: other\r\nConnection: close\r\n\r\n",
                "400",
                "one host",
            ),
        ] {
            let answer =
                tokio::time::timeout(Duration::from_secs(30), ask(gateway, request)).await.expect("an end");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
        }
        shutdown.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_head_too_slowly_is_dropped() {
        let (gateway, shutdown) = gateway(&[]).await;
        let answer = ask(gateway, "GET / HTTP/1.1\r\nHost: f").await;
        assert!(!answer.contains("200"), "{answer}");
        shutdown.cancel();
    }
}
