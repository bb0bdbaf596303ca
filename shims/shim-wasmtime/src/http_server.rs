//! A wasi:http component on the pod's address: an instance for each request, or for as many as the pod permits.
//!
//! Invariant: connections, requests at work, heads, bodies and times are bounded, so neither clients nor guests
//! can take more than their share. A guest that traps costs its one request; the container lives on.
//!
//! ```text
//!   listener ─► connection (≤ MAX_CONNECTIONS) ─► request ─► place (room) ─► instance: idle, or a new one ─► response
//!                    │ head and idle timeouts        └ 503     └ 500 trap · 504 time · 413 body
//! ```
//!
//! A request is begun by its connection's own task. Only a guest that has to wait for something gets a task of its own:
//! most do not, and then one write carries head and body, and no thread wakes another.
use crate::ending::{Ending, ending_of};
use crate::executor::Owned;
use crate::guest::Guest;
use crate::host::Host;
use crate::idle::IdleInstances;
use crate::instance::{Answered, HttpPre, Instance};
use crate::limits::{
    CONCURRENCY_ANNOTATION, FIRST_REQUEST_TIMEOUT, HEADER_TIMEOUT, INSTANCE_REUSE_ANNOTATION,
    MAX_BODY_ANNOTATION, MAX_BODY_BYTES, MAX_CONCURRENT_REQUESTS, MAX_CONNECTIONS, MAX_EXHAUSTIONS,
    MAX_HEADER_BYTES, MAX_HEADERS, MAX_INSTANCE_REUSE, MAX_REQUEST_TIMEOUT, MAX_RESPONSE_ANNOTATION,
    MAX_STREAMS_PER_CONNECTION, PING_INTERVAL, REQUEST_CPU_ANNOTATION, REQUEST_TIMEOUT, SEND_TIMEOUT,
    TIMEOUT_ANNOTATION,
};
use crate::request_body::LimitedBody;
use crate::response_body::Cut;
use crate::room::Room;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use network_policy::Protocol;
use parking_lot::Mutex;
use shim::Error;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::WasiBody;

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the pod's annotations may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    /// CPU time of one request.
    pub(crate) cpu: Duration,
    pub(crate) max_body: u64,
    pub(crate) max_response: u64,
    /// Requests at work at once.
    pub(crate) concurrency: usize,
    /// Requests one instance may serve, one after another.
    pub(crate) reuse: u32,
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
        let cpu = match annotations.get(REQUEST_CPU_ANNOTATION) {
            None => timeout / 3,
            Some(text) => parse_duration(text).filter(|d| !d.is_zero() && *d <= timeout).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {REQUEST_CPU_ANNOTATION}: {text:?} is not a time between 1ms and the request's \
                     timeout, {timeout:?}"
                ))
            })?,
        };
        let concurrency = match annotations.get(CONCURRENCY_ANNOTATION) {
            None => MAX_CONCURRENT_REQUESTS,
            Some(text) => text.parse().ok().filter(|n| (1..=MAX_CONCURRENT_REQUESTS).contains(n)).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {CONCURRENCY_ANNOTATION}: {text:?} is not a number from 1 to {MAX_CONCURRENT_REQUESTS}"
                ))
            })?,
        };
        let max_response = match annotations.get(MAX_RESPONSE_ANNOTATION) {
            None => u64::MAX,
            Some(text) => text.parse().map_err(|_| {
                Error::InvalidSpec(format!(
                    "annotation {MAX_RESPONSE_ANNOTATION}: {text:?} is not a number of bytes"
                ))
            })?,
        };
        let reuse = match annotations.get(INSTANCE_REUSE_ANNOTATION) {
            None => 1,
            Some(text) => text.parse().ok().filter(|n| (1..=MAX_INSTANCE_REUSE).contains(n)).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {INSTANCE_REUSE_ANNOTATION}: {text:?} is not a number of requests between 1 and \
                     {MAX_INSTANCE_REUSE}"
                ))
            })?,
        };
        Ok(Self { timeout, cpu, max_body, max_response, concurrency, reuse })
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

/// One container's server.
pub(crate) struct Server {
    pub(crate) host: Arc<Host>,
    pub(crate) pre: HttpPre,
    pub(crate) guest: Arc<Guest>,
    pub(crate) settings: Settings,
    /// Stop accepting, finish what runs.
    pub(crate) stop: CancellationToken,
    /// End everything now.
    pub(crate) kill: CancellationToken,
    room: Room,
    connections: Arc<Semaphore>,
    idle: Arc<IdleInstances>,
    /// From here on no instance is kept.
    over: CancellationToken,
    exhausted: Mutex<Exhausted>,
    tasks: TaskTracker,
    builder: auto::Builder<Owned>,
}

/// Requests that ended for want of memory.
#[derive(Default)]
struct Exhausted {
    /// Since one was answered.
    in_a_row: u32,
    /// How the container ends over it.
    ending: Option<Ending>,
}

impl Server {
    pub(crate) fn new(
        host: Arc<Host>,
        pre: HttpPre,
        guest: Arc<Guest>,
        settings: Settings,
        room: Room,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let builder = connection_builder(Owned { tasks: tasks.clone(), kill: kill.clone() });
        let over = kill.child_token();
        let idle = IdleInstances::new(settings.reuse, tasks.clone(), over.clone());
        host.idle.add(&idle);
        Arc::new(Self {
            host,
            pre,
            guest,
            settings,
            stop,
            kill,
            room,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            idle,
            over,
            exhausted: Mutex::default(),
            tasks,
            builder,
        })
    }

    /// Serves until it is told to stop and the last request is answered, or until it is killed.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) -> Ending {
        let _ = self.stop.run_until_cancelled(self.kill.run_until_cancelled(self.accept(&listener))).await;
        drop(listener);
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.exhausted.lock().ending.take().unwrap_or(Ending::Exited(0))
    }

    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let port = listener.local_addr().map_or(0, |own| own.port());
        // The semaphore is never closed: an error would mean that there is nothing left to serve.
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            match listener.accept().await {
                // Closed at once: who may not come learns nothing, and costs nothing more.
                Ok((stream, peer)) if !self.admits(peer, port) => drop(stream),
                Ok((stream, peer)) => {
                    self.tasks.spawn(self.clone().connection(stream, peer, port, permit));
                }
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Whether the pod's rules admit a connection.
    fn admits(&self, peer: SocketAddr, port: u16) -> bool {
        self.guest.outbound.reach().admits(peer.ip(), Protocol::Tcp, port)
    }

    /// Waits until the pod's rules are such that a connection would not be admitted any more.
    async fn refused(&self, peer: SocketAddr, port: u16) {
        let mut network = self.guest.outbound.reach().network();
        loop {
            network.rules.mark_unchanged();
            if !self.admits(peer, port) {
                return;
            }
            network.rules_changed().await;
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        port: u16,
        _permit: OwnedSemaphorePermit,
    ) {
        let _ = stream.set_nodelay(true);
        set_send_timeout(&stream);
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Relaxed);
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.clone().guest.figures.timed(server.answer(request)).await) }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        // In a set, they are looked at when one of them has happened, and not with every byte of the connection.
        let mut signals = FuturesUnordered::new();
        signals.push(self.signal(true, true, peer, port));
        loop {
            let signal = tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(e) = ended {
                        tracing::debug!(error = %e, "a connection ended early");
                    }
                    return;
                }
                signal = signals.select_next_some() => signal,
            };
            let idle = !asked.load(Relaxed);
            match signal {
                Signal::Kill => return,
                Signal::Stop | Signal::Silence if idle => return,
                Signal::Stop => {
                    connection.as_mut().graceful_shutdown();
                    signals.push(self.signal(false, false, peer, port));
                }
                Signal::Silence => signals.push(self.signal(true, false, peer, port)),
            }
        }
    }

    /// The next thing a connection must know of.
    async fn signal(&self, stop: bool, silence: bool, peer: SocketAddr, port: u16) -> Signal {
        tokio::select! {
            () = self.kill.cancelled() => Signal::Kill,
            () = self.refused(peer, port) => Signal::Kill,
            () = self.stop.cancelled(), if stop => Signal::Stop,
            () = tokio::time::sleep(FIRST_REQUEST_TIMEOUT), if silence => Signal::Silence,
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<WasiBody> {
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
        let Some(place) = self.room.enter(self.settings.timeout).await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
        };
        let (answered, mut answer) = oneshot::channel();
        let cut = Cut::default();
        let mut work = Box::pin(self.clone().handle(request, answered, place, cut.clone()));
        let begun = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        let outcome = match (begun, answer.try_recv()) {
            (Poll::Ready(_), Ok(answer)) => return self.respond(answer, cut),
            (Poll::Ready(outcome), Err(_)) => Some(outcome),
            (Poll::Pending, early) => {
                let kill = self.kill.clone();
                let rest = async move { kill.run_until_cancelled(work).await.unwrap_or(Outcome::Killed) };
                let rest = self.tasks.spawn(rest);
                if let Ok(answer) = early {
                    return self.respond(answer, cut);
                }
                // A client that goes away takes its guest with it.
                let mut rest = AbortOnDrop(Some(rest));
                if let Ok(answer) = answer.await {
                    rest.0 = None;
                    return self.respond(answer, cut);
                }
                rest.outcome().await
            }
        };
        self.refuse(outcome)
    }

    /// What the guest answered.
    fn respond(&self, answer: Result<Response<WasiBody>, String>, cut: Cut) -> Response<WasiBody> {
        match answer {
            Ok(response) => response.map(|body| cut.guard(body, self.settings.max_response)),
            Err(code) => {
                self.log(&format!("request failed: the guest answered with {code}\n"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest answered with an error")
            }
        }
    }

    /// What is said in place of a guest that did not answer.
    fn refuse(&self, outcome: Option<Outcome>) -> Response<WasiBody> {
        match outcome {
            Some(Outcome::TimedOut) => plain(StatusCode::GATEWAY_TIMEOUT, "the guest did not answer in time"),
            Some(Outcome::Ended(Ending::NoRoom(_))) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "this node has no room for another instance")
            }
            Some(Outcome::Ended(Ending::OutOfMemory(_))) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest exceeded its memory limit")
            }
            Some(Outcome::Ended(Ending::OutOfTime(_))) => {
                plain(StatusCode::GATEWAY_TIMEOUT, "the guest used more CPU time than a request may")
            }
            Some(Outcome::Ended(Ending::Trapped(_))) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed; its log says why")
            }
            Some(Outcome::Killed) => plain(StatusCode::SERVICE_UNAVAILABLE, "the container is stopping"),
            Some(Outcome::Ended(_) | Outcome::Finished) | None => {
                self.log("request failed: the guest ended without an answer\n");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest ended without an answer")
            }
        }
    }

    /// One request in one instance, until the guest has said all it has to say.
    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        answered: Answered,
        place: OwnedSemaphorePermit,
        cut: Cut,
    ) -> Outcome {
        let _running = self.host.ticker.running();
        let request = request.map(|body| LimitedBody::new(body, self.settings.max_body));
        let me = self.clone();
        let call = async move {
            let mut instance = me.instance().await?;
            let served = cut.unless_done();
            instance.serve(request, answered).await?;
            served.done();
            me.room.learn(instance.memory());
            me.idle.keep(instance);
            wasmtime::Result::Ok(())
        };
        let metered = self.guest.meter.run_call(Some(self.settings.cpu), call);
        let timed = tokio::time::timeout(self.settings.timeout, metered);
        let outcome = match timed.await {
            Err(_) => Outcome::TimedOut,
            Ok(Ok(())) => Outcome::Finished,
            Ok(Err(error)) => Outcome::Ended(ending_of(&error)),
        };
        match &outcome {
            Outcome::TimedOut => {
                self.guest.figures.timed_out();
                self.log(&format!("request failed: it took longer than {:?}\n", self.settings.timeout));
            }
            Outcome::Ended(ending) => {
                self.guest.figures.ended(ending);
                self.count_exhaustion(ending);
                if let Some(line) = ending.log_line() {
                    self.log(&format!("request failed: {line}"));
                }
            }
            Outcome::Finished => self.exhausted.lock().in_a_row = 0,
            Outcome::Killed => {}
        }
        self.room.leave(place);
        outcome
    }

    /// One request that takes too much memory is that request's fault; when none is answered any more, it is the
    /// container's.
    fn count_exhaustion(&self, ending: &Ending) {
        let mut exhausted = self.exhausted.lock();
        match ending {
            Ending::OutOfMemory(_) => exhausted.in_a_row += 1,
            _ => exhausted.in_a_row = 0,
        }
        if exhausted.in_a_row >= MAX_EXHAUSTIONS && exhausted.ending.is_none() {
            exhausted.ending = Some(ending.clone());
            self.stop.cancel();
        }
    }

    /// An idle instance or a new one; if the node has room for none, in the place of others' idle ones.
    async fn instance(&self) -> wasmtime::Result<Instance> {
        if let Some(instance) = self.idle.take() {
            return Ok(instance);
        }
        match Instance::new(&self.pre, &self.guest).await {
            Err(error) if error.is::<wasmtime::PoolConcurrencyLimitError>() && self.host.idle.shed() => {
                Instance::new(&self.pre, &self.guest).await
            }
            made => made,
        }
    }

    fn log(&self, line: &str) {
        self.guest.stderr.note(line);
    }
}

/// What happens to a connection from outside of it.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Kill,
    Stop,
    /// The time for its first request is over.
    Silence,
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

fn plain(status: StatusCode, text: &str) -> Response<WasiBody> {
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
            Settings {
                timeout: REQUEST_TIMEOUT,
                cpu: REQUEST_TIMEOUT / 3,
                max_body: MAX_BODY_BYTES,
                max_response: u64::MAX,
                concurrency: MAX_CONCURRENT_REQUESTS,
                reuse: 1
            }
        );
        assert_eq!(settings(TIMEOUT_ANNOTATION, "250ms").unwrap().timeout, Duration::from_millis(250));
        assert_eq!(settings(TIMEOUT_ANNOTATION, "5m").unwrap().timeout, Duration::from_secs(300));
        assert_eq!(settings(MAX_BODY_ANNOTATION, "10").unwrap().max_body, 10);
        assert_eq!(settings(CONCURRENCY_ANNOTATION, "7").unwrap().concurrency, 7);
        assert!(settings(CONCURRENCY_ANNOTATION, "0").is_err());
        assert_eq!(settings(REQUEST_CPU_ANNOTATION, "50ms").unwrap().cpu, Duration::from_millis(50));
        assert!(settings(REQUEST_CPU_ANNOTATION, "31s").is_err(), "more than the request's time");
        for bad in ["", "5", "0s", "2h", "s", "-1s", "99999999999999999999s"] {
            assert!(settings(TIMEOUT_ANNOTATION, bad).is_err(), "{bad}");
        }
        assert!(settings(MAX_BODY_ANNOTATION, "64Mi").is_err());
        assert_eq!(settings(INSTANCE_REUSE_ANNOTATION, "128").unwrap().reuse, 128);
        for bad in ["", "0", "-1", "true", "10001"] {
            assert!(settings(INSTANCE_REUSE_ANNOTATION, bad).is_err(), "{bad}");
        }
    }
}
