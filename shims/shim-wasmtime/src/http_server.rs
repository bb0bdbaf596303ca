//! A wasi:http component on the pod's address: one fresh instance for each request.
//!
//! Invariant: connections, requests at work, heads, bodies and times are bounded, so neither clients nor guests
//! can take more than their share. A guest that traps costs its one request; the container lives on.
//!
//! ```text
//!   listener ─► connection (≤ MAX_CONNECTIONS) ─► request ─► permit ─► store, instance, handle ─► response
//!                    │ head and idle timeouts        └ 503     └ 500 trap · 504 time · 413 body
//! ```
use crate::ending::{Ending, ending_of};
use crate::executor::Owned;
use crate::guest::{ComponentState, Guest};
use crate::host::Host;
use crate::limits::{
    FIRST_REQUEST_TIMEOUT, HEADER_TIMEOUT, MAX_BODY_ANNOTATION, MAX_BODY_BYTES, MAX_CONCURRENT_REQUESTS,
    MAX_CONNECTIONS, MAX_HEADER_BYTES, MAX_HEADERS, MAX_REQUEST_TIMEOUT, MAX_STREAMS_PER_CONNECTION,
    PING_INTERVAL, REQUEST_TIMEOUT, SEND_TIMEOUT, TIMEOUT_ANNOTATION,
};
use crate::request_body::LimitedBody;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use shim::{Error, Stream};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the pod's annotations may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) max_body: u64,
}

impl Settings {
    pub(crate) fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self, Error> {
        let timeout = match annotations.get(TIMEOUT_ANNOTATION) {
            None => REQUEST_TIMEOUT,
            Some(text) => parse_duration(text).filter(|d| !d.is_zero() && *d <= MAX_REQUEST_TIMEOUT).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {TIMEOUT_ANNOTATION}: {text:?} is not a time between 1ms and 1h, such as 30s or 5m"
                ))
            })?,
        };
        let max_body = match annotations.get(MAX_BODY_ANNOTATION) {
            None => MAX_BODY_BYTES,
            Some(text) => text.parse().map_err(|_| {
                Error::InvalidSpec(format!(
                    "annotation {MAX_BODY_ANNOTATION}: {text:?} is not a number of bytes"
                ))
            })?,
        };
        Ok(Self { timeout, max_body })
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// How many requests may be at work: as many instances as the container's memory limit has room for.
pub(crate) fn compute_concurrency(memory_limit: u64, initial_bytes: u64) -> usize {
    let fitting = memory_limit.checked_div(initial_bytes).unwrap_or(u64::MAX);
    usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, MAX_CONCURRENT_REQUESTS)
}

/// Binds the pod's address, in the pod's network namespace if it has one of its own.
pub(crate) async fn bind(address: SocketAddr, namespace: Option<&Path>) -> Result<TcpListener, Error> {
    let bound = match namespace {
        None => listen(address),
        Some(namespace) => {
            let namespace = namespace.to_owned();
            let listener = tokio::task::spawn_blocking(move || listen_in(address, &namespace)).await;
            listener.unwrap_or_else(|e| Err(std::io::Error::other(e))).and_then(TcpListener::from_std)
        }
    };
    bound.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::Unavailable(format!(
            "{address} is in use by another program on this node; declare another containerPort"
        )),
        std::io::ErrorKind::PermissionDenied => Error::Unavailable(format!(
            "{address} may not be bound: ports below {} need root; declare a higher containerPort",
            1024
        )),
        _ => Error::Io { what: format!("listening on {address}"), source: e },
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket belongs to the namespace of the thread that made it, and keeps it; so a thread goes there, binds and
/// ends. (A thread of the pool must never change its namespace.)
fn listen_in(address: SocketAddr, namespace: &Path) -> std::io::Result<std::net::TcpListener> {
    let namespace = std::fs::File::open(namespace)?;
    std::thread::scope(|scope| {
        let binder = scope.spawn(|| {
            // SAFETY: setns takes a descriptor that stays open during the call.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        binder.join().unwrap_or_else(|_| Err(std::io::Error::other("the binding thread panicked")))
    })
}

/// One container's server.
pub(crate) struct Server {
    pub(crate) host: Arc<Host>,
    pub(crate) pre: ProxyPre<ComponentState>,
    pub(crate) guest: Arc<Guest>,
    pub(crate) settings: Settings,
    /// Stop accepting, finish what runs.
    pub(crate) stop: CancellationToken,
    /// End everything now.
    pub(crate) kill: CancellationToken,
    requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    builder: auto::Builder<Owned>,
}

impl Server {
    pub(crate) fn new(
        host: Arc<Host>,
        pre: ProxyPre<ComponentState>,
        guest: Arc<Guest>,
        settings: Settings,
        concurrency: usize,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let builder = connection_builder(Owned { tasks: tasks.clone(), kill: kill.clone() });
        Arc::new(Self {
            host,
            pre,
            guest,
            settings,
            stop,
            kill,
            requests: Arc::new(Semaphore::new(concurrency)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks,
            builder,
        })
    }

    /// Serves until it is told to stop and the last request is answered, or until it is killed.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let _ = self.stop.run_until_cancelled(self.kill.run_until_cancelled(self.accept(&listener))).await;
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        // The semaphore is never closed: an error would mean that there is nothing left to serve.
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.tasks.spawn(self.clone().connection(stream, permit));
                }
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let _ = stream.set_nodelay(true);
        set_send_timeout(&stream);
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Relaxed);
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.clone().guest.figures.timed(server.answer(request)).await) }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let mut silence = pin!(tokio::time::sleep(FIRST_REQUEST_TIMEOUT));
        let (mut stopping, mut watched) = (false, true);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(e) = ended {
                        tracing::debug!(error = %e, "a connection ended early");
                    }
                    return;
                }
                () = self.kill.cancelled() => return,
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    if !asked.load(Relaxed) {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                () = silence.as_mut(), if watched => {
                    watched = false;
                    if !asked.load(Relaxed) {
                        return;
                    }
                }
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<HyperOutgoingBody> {
        if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
            return plain(StatusCode::BAD_REQUEST, "the request has no Host header");
        }
        let declared =
            request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > self.settings.max_body) {
            return plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the request's body is longer than {} bytes", self.settings.max_body),
            );
        }
        let waiting = tokio::time::timeout(self.settings.timeout, self.requests.clone().acquire_owned());
        let Ok(Ok(permit)) = waiting.await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
        };
        let (answered, answer) = oneshot::channel();
        let work = self.tasks.spawn(self.clone().handle(request, answered, permit));
        // A client that goes away takes its guest with it.
        let mut work = AbortOnDrop(Some(work));
        match answer.await {
            Ok(Ok(response)) => {
                work.0 = None;
                response
            }
            Ok(Err(code)) => {
                work.0 = None;
                self.log(&format!("request failed: the guest answered with {code:?}\n"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest answered with an error")
            }
            Err(_) => match work.outcome().await {
                Some(Outcome::TimedOut) => {
                    plain(StatusCode::GATEWAY_TIMEOUT, "the guest did not answer in time")
                }
                Some(Outcome::Ended(Ending::NoRoom(_))) => {
                    plain(StatusCode::SERVICE_UNAVAILABLE, "this node has no room for another instance")
                }
                Some(Outcome::Ended(Ending::OutOfMemory(_))) => {
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest exceeded its memory limit")
                }
                Some(Outcome::Ended(Ending::Trapped(_))) => {
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed; its log says why")
                }
                Some(Outcome::Killed) => plain(StatusCode::SERVICE_UNAVAILABLE, "the container is stopping"),
                Some(Outcome::Ended(_) | Outcome::Finished) | None => {
                    self.log("request failed: the guest ended without an answer\n");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest ended without an answer")
                }
            },
        }
    }

    /// One request in one instance, until the guest has said all it has to say.
    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        answered: oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>,
        _permit: OwnedSemaphorePermit,
    ) -> Outcome {
        let _running = self.host.ticker.running();
        let max_body = self.settings.max_body;
        let call = async {
            let mut store = self.guest.component_store(&self.host.engine, None)?;
            let request = request.map(|body| LimitedBody::new(body, max_body));
            let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let out = store.data_mut().http().new_response_outparam(answered)?;
            let proxy = self.pre.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
        };
        let timed = tokio::time::timeout(self.settings.timeout, self.guest.meter.run(call));
        let outcome = match self.kill.run_until_cancelled(timed).await {
            None => Outcome::Killed,
            Some(Err(_)) => Outcome::TimedOut,
            Some(Ok(Ok(()))) => Outcome::Finished,
            Some(Ok(Err(error))) => Outcome::Ended(ending_of(&error)),
        };
        match &outcome {
            Outcome::TimedOut => {
                self.guest.figures.timed_out();
                self.log(&format!("request failed: it took longer than {:?}\n", self.settings.timeout));
            }
            Outcome::Ended(ending) => {
                self.guest.figures.ended(ending);
                if let Some(line) = ending.log_line() {
                    self.log(&format!("request failed: {line}"));
                }
            }
            Outcome::Finished | Outcome::Killed => {}
        }
        outcome
    }

    fn log(&self, line: &str) {
        self.guest.stderr.output.write(Stream::Stderr, line.as_bytes());
    }
}

/// How one request's guest ended.
#[derive(Debug)]
enum Outcome {
    Finished,
    Ended(Ending),
    TimedOut,
    Killed,
}

struct AbortOnDrop(Option<JoinHandle<Outcome>>);

impl AbortOnDrop {
    async fn outcome(&mut self) -> Option<Outcome> {
        match self.0.as_mut() {
            Some(work) => work.await.ok(),
            None => None,
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(work) = &self.0 {
            work.abort();
        }
    }
}

fn connection_builder(executor: Owned) -> auto::Builder<Owned> {
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// A client that stops reading would otherwise hold its connection for as long as it likes.
fn set_send_timeout(stream: &TcpStream) {
    let milliseconds = SEND_TIMEOUT.as_millis() as libc::c_uint;
    // SAFETY: the option's value is a c_uint that lives during the call. Failure only means no such timeout.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            std::ptr::from_ref(&milliseconds).cast(),
            size_of::<libc::c_uint>() as libc::socklen_t,
        );
    }
}

fn plain(status: StatusCode, text: &str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_set_the_limits_and_nonsense_is_refused() {
        let settings = |key: &str, value: &str| {
            Settings::from_annotations(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert_eq!(
            settings("x", "y").unwrap(),
            Settings { timeout: REQUEST_TIMEOUT, max_body: MAX_BODY_BYTES }
        );
        assert_eq!(settings(TIMEOUT_ANNOTATION, "250ms").unwrap().timeout, Duration::from_millis(250));
        assert_eq!(settings(TIMEOUT_ANNOTATION, "5m").unwrap().timeout, Duration::from_secs(300));
        assert_eq!(settings(MAX_BODY_ANNOTATION, "10").unwrap().max_body, 10);
        for bad in ["", "5", "0s", "2h", "s", "-1s", "99999999999999999999s"] {
            assert!(settings(TIMEOUT_ANNOTATION, bad).is_err(), "{bad}");
        }
        assert!(settings(MAX_BODY_ANNOTATION, "64Mi").is_err());
    }

    #[test]
    fn concurrency_follows_from_the_memory_limit() {
        assert_eq!(compute_concurrency(u64::MAX, 1 << 20), MAX_CONCURRENT_REQUESTS);
        assert_eq!(compute_concurrency(10 << 20, 1 << 20), 10);
        assert_eq!(compute_concurrency(1, 1 << 20), 1);
        assert_eq!(compute_concurrency(1 << 30, 0), MAX_CONCURRENT_REQUESTS);
    }
}
