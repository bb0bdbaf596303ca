//! One request: checked, routed, sent to a backend, its answer passed on.
//!
//! ```text
//!   headers::check ─► RouteTable::find ─► Route::choose ─► a place ─► headers::prepare ─► Pool::send ─► Answer
//!        400, 405, 417       404               503          503                           502, 504, 4xx
//! ```
pub(crate) mod answer;
mod headers;
pub(crate) mod record;
mod span;
mod trace_context;
mod upgrade;
pub(crate) mod upload;

use crate::backends::{Backends, Protocol, Route};
use crate::metrics::Metrics;
use crate::pool::{Failed, Pool, Received};
use crate::routes::RouteTable;
use crate::server::Activity;
use answer::{Answer, say};
use arc_swap::ArcSwap;
use headers::Refused;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use record::Record;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use telemetry::Tracer;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace_context::TraceIds;
use upload::{Fault, Progress, Upload};

/// Requests at work at once: each may hold a connection to a backend. As many as client connections, which bounds
/// what the streams of HTTP/2 could ask for.
const MAX_REQUESTS: usize = crate::server::MAX_CONNECTIONS;

/// How long a request may wait for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// From a request's last byte to the answer's head, where no Function says otherwise: nginx's `proxy_read_timeout`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is noted of a request whose client went away before an answer began: nginx' code for it.
const CLIENT_GONE: u16 = 499;

/// Backends tried for one request.
const MAX_TRIES: usize = 3;

/// When no backend could be reached, the table may be older than the truth: how often, and after how long, a newer
/// one is looked for. A new address is in the table some ten milliseconds after its pod is Ready.
const NEWER_TABLE_LOOKS: usize = 5;
const NEWER_TABLE_WAIT: Duration = Duration::from_millis(20);

/// What is known of a client's connection.
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) shown: HeaderValue,
    pub(crate) https: bool,
    pub(crate) activity: Arc<Activity>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, https: bool, activity: Arc<Activity>) -> Self {
        let ip = address.ip().to_canonical();
        // The text of an address is a header's.
        let shown =
            HeaderValue::from_str(&ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { ip, shown, https, activity }
    }
}

/// Everything a request needs.
pub(crate) struct Proxy {
    table: Arc<ArcSwap<RouteTable>>,
    pool: Pool,
    turns: Arc<Semaphore>,
    traces: TraceIds,
    tracer: Option<Arc<Tracer>>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// An answer of the gateway's own.
struct Sentence(StatusCode, String);

impl From<Refused> for Sentence {
    fn from(Refused(status, text): Refused) -> Self {
        Self(status, text.to_owned())
    }
}

/// A request on its way to one route's backends.
struct Trip {
    route: Arc<Route>,
    host: HeaderValue,
    path: PathAndQuery,
    started: Instant,
}

impl Trip {
    /// When the whole request must be over.
    fn deadline(&self) -> Option<Instant> {
        self.route.timeout.map(|timeout| self.started + timeout)
    }

    fn timed_out(&self) -> Sentence {
        let owner = &self.route.owner;
        let text = match self.route.timeout {
            Some(timeout) => format!(
                "{owner} did not answer within {} s; its spec.timeoutSeconds says how long it may take",
                timeout.as_secs()
            ),
            None => format!("{owner} did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
        };
        Sentence(StatusCode::GATEWAY_TIMEOUT, text)
    }

    /// Makes the request the backend's: origin form over HTTP/1.1, with its authority over HTTP/2.
    fn address(&self, request: &mut Request<Upload>, protocol: Protocol) -> Result<(), Sentence> {
        let bad = |_| Sentence(StatusCode::BAD_REQUEST, "the request's host or path is not one".to_owned());
        *request.uri_mut() = match protocol {
            Protocol::Http1 => Uri::from(self.path.clone()),
            Protocol::H2c => Uri::builder()
                .scheme("http")
                .authority(self.host.as_bytes())
                .path_and_query(self.path.clone())
                .build()
                .map_err(bad)?,
        };
        *request.version_mut() = match protocol {
            Protocol::Http1 => Version::HTTP_11,
            Protocol::H2c => {
                request.headers_mut().remove(http::header::HOST);
                Version::HTTP_2
            }
        };
        Ok(())
    }
}

/// The sentence for a request that its client did not bring to an end; `None` when it did.
fn fault(progress: &Progress) -> Option<Sentence> {
    let (status, text) = match progress.fault()? {
        Fault::Malformed => {
            (StatusCode::BAD_REQUEST, "the request's body is not one, or broke off".to_owned())
        }
        Fault::Slow => {
            let seconds = upload::IDLE.as_secs();
            (StatusCode::REQUEST_TIMEOUT, format!("nothing of the request's body came for {seconds} s"))
        }
        Fault::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, too_large()),
    };
    Some(Sentence(status, text))
}

fn too_large() -> String {
    format!("the request's body is larger than {} bytes", upload::MAX_BYTES)
}

impl Proxy {
    /// `tasks` are those that must end with the gateway, at the latest when `stop` says so.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        tracer: Option<Arc<Tracer>>,
        seed: u64,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            table: metrics.table().clone(),
            pool: Pool::new(tasks.clone(), stop.clone()),
            turns: Arc::new(Semaphore::new(MAX_REQUESTS)),
            traces: TraceIds::new(seed),
            tracer,
            metrics,
            tasks,
            stop,
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn handle(&self, request: Request<Incoming>, peer: &Peer) -> Response<Answer> {
        let started = Instant::now();
        peer.activity.began(request.version());
        self.metrics.in_flight.inc();
        let mut record = Record {
            metrics: self.metrics.clone(),
            activity: peer.activity.clone(),
            started,
            peer: peer.ip,
            route: None,
            code: CLIENT_GONE,
            sent: 0,
            broken: false,
            line: Record::is_logged().then(Box::default),
            span: self.tracer.as_ref().map(|tracer| span::begin(tracer, &request, peer)),
            turn: None,
        };
        match self.pass(request, peer, started, &mut record).await {
            Ok((head, content)) => {
                record.code = head.status.as_u16();
                let deadline = record.route.as_ref().and_then(|r| r.timeout).map(|t| started + t);
                match content {
                    Content::Received(received) => match Answer::received(received, deadline, record).await {
                        Ok(answer) => Response::from_parts(head, answer),
                        Err((error, mut record)) => {
                            record.code = StatusCode::BAD_GATEWAY.as_u16();
                            let owner =
                                record.route.as_ref().map(|r| r.owner.to_string()).unwrap_or_default();
                            let text = format!("{owner} broke off: {}", client::error_chain(&error));
                            say(StatusCode::BAD_GATEWAY, &text, record)
                        }
                    },
                    Content::Upgraded(upgrade) => {
                        upgrade.start(self, record);
                        Response::from_parts(head, Answer::own(None, None))
                    }
                }
            }
            Err(Sentence(status, text)) => {
                record.code = status.as_u16();
                say(status, &text, record)
            }
        }
    }

    async fn pass(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
        started: Instant,
        record: &mut Record,
    ) -> Result<(http::response::Parts, Content), Sentence> {
        let host = headers::check(request.method(), request.uri(), request.version(), request.headers());
        if let Some(line) = &mut record.line {
            line.method = request.method().clone();
            line.path = request.uri().path().to_owned();
        }
        let host = host?;
        // Checked to be plain text.
        let host_text = host.to_str().unwrap_or_default();
        if let Some(span) = &mut record.span {
            span::note_host(span, host_text);
        }
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let table = self.table.load();
        let Some(route) = table.find(host_text, path.path()).cloned() else {
            return Err(Sentence(
                StatusCode::NOT_FOUND,
                format!(
                    "no function or service answers for {host_text}{path}; `dhow ls` lists the functions and their URLs"
                ),
            ));
        };
        drop(table);
        if let Some(line) = &mut record.line {
            line.host = host_text.to_owned();
        }
        record.route = Some(route.clone());
        if let Some(span) = &mut record.span {
            span::note_owner(span, &route.owner);
        }
        let backends = ready(&route, request.headers())?;
        if let Some(span) = &mut record.span {
            span::note_backends(span, &route.owner, &backends);
        }
        record.turn = Some(match self.turns.clone().try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => match tokio::time::timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned()).await {
                Ok(Ok(turn)) => turn,
                _ => {
                    let text = "the gateway has too many requests at once; try again later";
                    return Err(Sentence(StatusCode::SERVICE_UNAVAILABLE, text.to_owned()));
                }
            },
        });
        let wanted = headers::upgrade(request.version(), request.headers());
        let protocol = if headers::is_grpc(request.headers()) { Protocol::H2c } else { backends.protocol };
        headers::prepare(request.headers_mut(), &host, &peer.shown, peer.https);
        match &record.span {
            Some(span) => telemetry::trace_context::inject(span.context(), request.headers_mut()),
            None => self.traces.ensure(request.headers_mut()),
        }
        if let Some(line) = &mut record.line {
            let trace = telemetry::trace_context::trace_id(request.headers());
            line.trace = trace.unwrap_or_default().to_owned();
        }
        let length = http_body::Body::size_hint(request.body()).lower();
        if length > upload::MAX_BYTES {
            return Err(Sentence(StatusCode::PAYLOAD_TOO_LARGE, too_large()));
        }
        let trip = Trip { route, host, path, started };
        if let Some(wanted) = wanted {
            return self.upgrade(request, &trip, &backends, wanted, record).await;
        }
        let (head, body) = request.into_parts();
        let (body, progress) = Upload::new(body);
        let mut request = Request::from_parts(head, body);
        trip.address(&mut request, protocol)?;
        let sending = self.send(request, &trip, backends, protocol, &progress, record);
        let outcome = match trip.deadline() {
            Some(deadline) => tokio::time::timeout_at(deadline, sending).await.ok(),
            None => patiently(sending, &progress).await,
        };
        let response = outcome.unwrap_or_else(|| Err(trip.timed_out()))?;
        let (mut head, received) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        head.version = Version::HTTP_11;
        Ok((head, Content::Received(received)))
    }

    /// Offers the request to the backends whose turn it is, until one takes it. A request is offered again only if
    /// nothing of it was sent; or if its connection broke before an answer began (an idle one was just being closed,
    /// a pod was just ending), the request has no body, and to do it twice is the same as once (RFC 9110 section
    /// 9.2.2). Over a new connection that happens once: a request may be what ends the pods.
    async fn send(
        &self,
        mut request: Request<Upload>,
        trip: &Trip,
        mut backends: Arc<Backends>,
        protocol: Protocol,
        progress: &Progress,
        record: &mut Record,
    ) -> Result<Response<Received>, Sentence> {
        let may_repeat = request.body().is_empty()
            && matches!(
                *request.method(),
                Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
            );
        let (mut last, mut broken) = (String::new(), false);
        for _ in 0..=NEWER_TABLE_LOOKS {
            for address in backends.in_turn().take(MAX_TRIES) {
                record.offered(address);
                let mut fresh = false;
                loop {
                    let spare = may_repeat.then(|| copy(&request));
                    let failed = match self.pool.send(address, protocol, request, fresh).await {
                        Ok(response) => return Ok(response),
                        Err(failed) => failed,
                    };
                    if let Some(sentence) = fault(progress) {
                        return Err(sentence);
                    }
                    let Failed { error, unsent, reused } = failed;
                    last = client::error_chain(&error);
                    tracing::debug!(backend = %address, error = %last, "a backend failed");
                    match (unsent, spare, reused) {
                        (Some(unsent), _, true) | (None, Some(unsent), true) => {
                            request = unsent;
                            fresh = true;
                        }
                        (Some(unsent), _, false) => {
                            request = unsent;
                            break;
                        }
                        (None, Some(spare), false) if !std::mem::replace(&mut broken, true) => {
                            request = spare;
                            break;
                        }
                        (None, _, _) => return Err(unreachable(&trip.route, &last)),
                    }
                }
            }
            // Nobody took it: the addresses may have changed just now.
            tokio::time::sleep(NEWER_TABLE_WAIT).await;
            let table = self.table.load();
            let host = trip.host.to_str().unwrap_or_default();
            if let Some(route) = table.find(host, trip.path.path())
                && let Ok(now) = ready(route, request.headers())
                && now.addresses != backends.addresses
            {
                backends = now;
            }
        }
        Err(unreachable(&trip.route, &last))
    }
}

/// What an answer consists of beside its head.
#[allow(clippy::large_enum_variant)] // one a request: a box would be an allocation more for each
enum Content {
    Received(Received),
    Upgraded(upgrade::Upgraded),
}

fn unreachable(route: &Route, why: &str) -> Sentence {
    Sentence(StatusCode::BAD_GATEWAY, format!("{} cannot be reached: {why}", route.owner))
}

/// The backends for a request, of which at least one has an address.
fn ready(route: &Route, headers: &http::HeaderMap) -> Result<Arc<Backends>, Sentence> {
    match route.choose(headers) {
        Some(backends) if !backends.addresses.is_empty() => Ok(backends.clone()),
        Some(_) => {
            Err(Sentence(StatusCode::SERVICE_UNAVAILABLE, format!("{} has no ready pod", route.owner)))
        }
        None => Err(Sentence(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{} names a Service or port that does not exist", route.owner),
        )),
    }
}

/// A request without a body, once more.
fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut again = Request::new(Upload::default());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
}

/// Waits [`ANSWER_TIMEOUT`], and on while the request's body still moves.
async fn patiently<T>(sending: impl Future<Output = T>, progress: &Progress) -> Option<T> {
    let mut sending = std::pin::pin!(sending);
    let mut moved = progress.bytes();
    loop {
        if let Ok(outcome) = tokio::time::timeout(ANSWER_TIMEOUT, sending.as_mut()).await {
            return Some(outcome);
        }
        let now = progress.bytes();
        if now == moved {
            return None;
        }
        moved = now;
    }
}

#[cfg(test)]
mod tests;
