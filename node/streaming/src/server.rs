//! The HTTP side: loopback only, a token for a path, an upgrade, and nothing else.
use crate::handler::{Handler, Request, Target};
use crate::limits::{HEAD_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD_BYTES};
use crate::tokens::Tokens;
use crate::tunnel::STREAM_PROTOCOL;
use crate::websocket::Version;
use crate::{spdy, websocket};
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode};
use http_body_util::Full as FullBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::tokens::Full;

/// After a failed accept (no descriptors left) nothing is accepted for this long: some will be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives random bits, for tokens.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A streaming server. Dropping it gives out no more URLs; it ends with the shutdown it was started with.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Mutex<Tokens>,
    handler: Arc<dyn Handler>,
    random: Random,
    /// Clients that are served.
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Server {
    /// Listens on a port of the loopback that the system chooses, and serves until `shutdown`. All that runs is in
    /// `tasks`.
    pub async fn start(
        handler: Arc<dyn Handler>,
        random: Random,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            tokens: Mutex::default(),
            handler,
            random,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let accepting = accept(listener, shared.clone());
        tasks.spawn(async move {
            shutdown.run_until_cancelled(accepting).await;
        });
        Ok(Self { address, shared })
    }

    /// Where `request` is carried out, once, for whoever comes within a minute.
    pub fn url(&self, request: Request) -> Result<String, Full> {
        let verb = match request.target {
            Target::Exec { .. } => "exec",
            Target::Attach => "attach",
        };
        let random = &self.shared.random;
        let token = format!("{:016x}{:016x}", random(), random());
        self.shared.tokens.lock().insert(token.clone(), request, Instant::now())?;
        Ok(format!("http://{}/{verb}/{token}", self.address))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Clients that are served left their HTTP connection behind: these are newcomers only.
    let newcomers = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = newcomers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                let connection = greet(stream, shared.clone());
                shared.tasks.clone().spawn(async move {
                    shared.shutdown.run_until_cancelled(connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers a connection until it is upgraded or at its end.
async fn greet(stream: TcpStream, shared: Arc<Shared>) {
    // Keys typed must not wait for each other (Nagle).
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let answer = shared.answer(request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}

type Answer = Response<FullBody<Bytes>>;

fn refuse(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut answer = Response::new(FullBody::new(Bytes::from(text.into())));
    *answer.status_mut() = status;
    answer
}

/// The protocol a client and this server agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    WebSocket(Version),
    Spdy,
}

impl Shared {
    fn answer(self: &Arc<Self>, mut request: http::Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST open streams\n");
        }
        let (protocol, answer) = match negotiate(request.headers()) {
            Ok(agreed) => agreed,
            Err(refusal) => return *refusal,
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let text =
                format!("{MAX_CONNECTIONS} commands are at work on this node already; try again later\n");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let path = request.uri().path();
        let token = path.strip_prefix("/exec/").or_else(|| path.strip_prefix("/attach/"));
        let wanted = token.and_then(|token| self.tokens.lock().take(token, Instant::now()));
        let Some(wanted) = wanted else {
            return refuse(StatusCode::NOT_FOUND, "nothing waits at this address (any more)\n");
        };
        let upgrading = hyper::upgrade::on(&mut request);
        let handler = self.handler.clone();
        let serving = async move {
            let io = match tokio::time::timeout(HEAD_TIMEOUT, upgrading).await {
                Ok(Ok(upgraded)) => TokioIo::new(upgraded),
                Ok(Err(error)) => return tracing::debug!(%error, "a connection was not upgraded"),
                Err(_) => return tracing::debug!("a connection was not upgraded in time"),
            };
            match protocol {
                Protocol::WebSocket(version) => websocket::serve(io, version, wanted, handler).await,
                Protocol::Spdy => spdy::serve(io, wanted, handler).await,
            }
            drop(place);
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(until(shutdown, serving));
        answer
    }
}

async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    shutdown.run_until_cancelled(work).await;
}

/// The words of a header that may come in several lines, each with commas.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// What is spoken after the upgrade, and the answer that says so.
fn negotiate(headers: &HeaderMap) -> Result<(Protocol, Answer), Box<Answer>> {
    let refused = |status, text: &str| Box::new(refuse(status, format!("{text}\n")));
    let asks = |what: &str| words(headers, UPGRADE).any(|word| word.eq_ignore_ascii_case(what));
    if !words(headers, CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refused(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let mut answer = Response::new(FullBody::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if asks("websocket") {
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(refused(StatusCode::BAD_REQUEST, "only version 13 of WebSocket is spoken here"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
        let Some(accept) = key.and_then(|key| HeaderValue::try_from(key).ok()) else {
            return Err(refused(StatusCode::BAD_REQUEST, "the handshake has no Sec-WebSocket-Key"));
        };
        let Some(version) = Version::choose(words(headers, SEC_WEBSOCKET_PROTOCOL)) else {
            let text = "the client speaks none of v5.channel.k8s.io, v4.channel.k8s.io";
            return Err(refused(StatusCode::BAD_REQUEST, text));
        };
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(version.name()));
        return Ok((Protocol::WebSocket(version), answer));
    }
    if asks("spdy/3.1") {
        let mut offered = words(headers, STREAM_PROTOCOL);
        let Some(protocol) =
            offered.find_map(|word| spdy::PROTOCOLS.into_iter().find(|known| *known == word))
        else {
            return Err(refused(StatusCode::FORBIDDEN, "the client does not speak v4.channel.k8s.io"));
        };
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok((Protocol::Spdy, answer));
    }
    Err(refused(StatusCode::BAD_REQUEST, "Upgrade request required: to websocket or SPDY/3.1"))
}

#[cfg(test)]
mod tests;
