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
use crate::limited_body::{LimitedBody, TooLong};
use crate::limits::{
    ENDPOINT_SETTLE, FIRST_REQUEST_TIMEOUT, HEADER_TIMEOUT, MAX_CONNECTIONS, MAX_EXHAUSTIONS,
    MAX_HEADER_BYTES, MAX_HEADERS, MAX_LINGER, MAX_STREAMS_PER_CONNECTION, PING_INTERVAL, SEND_TIMEOUT,
};
use crate::response_body::Cut;
use crate::room::Room;
use crate::settings::Settings;
use crate::traces::Serving;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use network_policy::Protocol;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::WasiBody;

/// A request that is longer than its container takes.
const TOO_LONG: TooLong = wasmtime_wasi_http::Error::HttpRequestBodySize;

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One container's server.
pub(crate) struct Server {
    pub(crate) host: Arc<Host>,
    pub(crate) pre: HttpPre,
    pub(crate) guest: Arc<Guest>,
    pub(crate) settings: Settings,
    /// Soon no more: see [`Server::linger`].
    retire: CancellationToken,
    /// That time has begun: answers say that they are the last of their connection.
    retiring: AtomicBool,
    /// Connections so far.
    accepted: AtomicU64,
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
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a container has made for it")]
    pub(crate) fn new(
        host: Arc<Host>,
        pre: HttpPre,
        guest: Arc<Guest>,
        settings: Settings,
        room: Room,
        retire: CancellationToken,
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
            retire,
            retiring: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
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
        let accepting = async {
            tokio::select! {
                () = self.accept(&listener) => {}
                () = self.linger() => {}
            }
        };
        let _ = self.stop.run_until_cancelled(self.kill.run_until_cancelled(accepting)).await;
        drop(listener);
        self.stop.cancel();
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.exhausted.lock().ending.take().unwrap_or(Ending::Exited(0))
    }

    /// Resolves some time after it was told to retire. A pod is told to end at the moment in which the others hear that
    /// it ends: a request that was sent to it meanwhile, on an open connection or a new one, is answered. Whoever keeps
    /// connections closes them when it has heard, so it is over once nobody comes and no connection is open.
    async fn linger(&self) {
        self.retire.cancelled().await;
        self.retiring.store(true, Relaxed);
        let quiet = async {
            loop {
                let before = self.accepted.load(Relaxed);
                tokio::time::sleep(ENDPOINT_SETTLE).await;
                // One place is the acceptor's own.
                let open = MAX_CONNECTIONS.saturating_sub(self.connections.available_permits() + 1);
                if open == 0 && self.accepted.load(Relaxed) == before {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(MAX_LINGER, quiet).await;
    }

    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let port = listener.local_addr().map_or(0, |own| own.port());
        // The semaphore is never closed: an error would mean that there is nothing left to serve.
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            match listener.accept().await {
                // Closed at once: who may not come learns nothing, and costs nothing more.
                Ok((stream, peer)) if !self.admits(peer, port) => drop(stream),
                Ok((stream, peer)) => {
                    self.accepted.fetch_add(1, Relaxed);
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
            async move {
                Ok::<_, Infallible>(server.clone().guest.figures.timed(server.serve_request(request)).await)
            }
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

    async fn serve_request(self: Arc<Self>, mut request: Request<Incoming>) -> Response<WasiBody> {
        let serving = self.guest.traces.as_ref().and_then(|traces| traces.serve(&mut request));
        let is_http1 = request.version() < Version::HTTP_2;
        let mut response = self.clone().answer(request, serving.as_ref()).await;
        if let Some(serving) = serving {
            serving.answered(response.status());
        }
        // An HTTP/2 client is told by a GOAWAY, which loses nothing.
        if is_http1 && self.retiring.load(Relaxed) {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        serving: Option<&Arc<Serving>>,
    ) -> Response<WasiBody> {
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
        let mut work = Box::pin(self.clone().handle(request, serving.cloned(), answered, place, cut.clone()));
        let begun = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        let outcome = match (begun, answer.try_recv()) {
            (Poll::Ready(_), Ok(answer)) => return self.respond(answer, cut, serving),
            (Poll::Ready(outcome), Err(_)) => Some(outcome),
            (Poll::Pending, early) => {
                let kill = self.kill.clone();
                let rest = async move { kill.run_until_cancelled(work).await.unwrap_or(Outcome::Killed) };
                let rest = self.tasks.spawn(rest);
                if let Ok(answer) = early {
                    return self.respond(answer, cut, serving);
                }
                // A client that goes away takes its guest with it.
                let mut rest = AbortOnDrop(Some(rest));
                if let Ok(answer) = answer.await {
                    rest.0 = None;
                    return self.respond(answer, cut, serving);
                }
                rest.outcome().await
            }
        };
        self.refuse(outcome, serving)
    }

    /// What the guest answered.
    fn respond(
        &self,
        answer: Result<Response<WasiBody>, String>,
        cut: Cut,
        serving: Option<&Arc<Serving>>,
    ) -> Response<WasiBody> {
        match answer {
            Ok(response) => response.map(|body| cut.guard(body, self.settings.max_response)),
            Err(code) => {
                self.log(serving, &format!("request failed: the guest answered with {code}\n"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest answered with an error")
            }
        }
    }

    /// What is said in place of a guest that did not answer.
    fn refuse(&self, outcome: Option<Outcome>, serving: Option<&Arc<Serving>>) -> Response<WasiBody> {
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
                self.log(serving, "request failed: the guest ended without an answer\n");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest ended without an answer")
            }
        }
    }

    /// One request in one instance, until the guest has said all it has to say.
    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        serving: Option<Arc<Serving>>,
        answered: Answered,
        place: OwnedSemaphorePermit,
        cut: Cut,
    ) -> Outcome {
        let _running = self.host.ticker.running();
        let request = request.map(|body| LimitedBody::new(body, self.settings.max_body, TOO_LONG));
        let (me, within) = (self.clone(), serving.clone());
        let call = async move {
            let mut instance = me.instance(within.as_deref()).await?;
            let served = cut.unless_done();
            instance.serve(request, answered, within.as_deref()).await?;
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
                if let Some(serving) = &serving {
                    serving.failed("timeout", "it took longer than it may");
                }
                self.log(
                    serving.as_ref(),
                    &format!("request failed: it took longer than {:?}\n", self.settings.timeout),
                );
            }
            Outcome::Ended(ending) => {
                self.guest.figures.ended(ending);
                self.count_exhaustion(ending);
                if let Some(serving) = &serving {
                    serving.ended(ending);
                }
                if let Some(line) = ending.log_line() {
                    self.log(serving.as_ref(), &format!("request failed: {line}"));
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
    async fn instance(&self, serving: Option<&Serving>) -> wasmtime::Result<Instance> {
        let idle = self.idle.take();
        if let Some(serving) = serving {
            serving.instantiated(idle.is_none());
        }
        if let Some(instance) = idle {
            return Ok(instance);
        }
        match Instance::new(&self.pre, &self.guest).await {
            Err(error) if error.is::<wasmtime::PoolConcurrencyLimitError>() && self.host.idle.shed() => {
                Instance::new(&self.pre, &self.guest).await
            }
            made => made,
        }
    }

    fn log(&self, serving: Option<&Arc<Serving>>, line: &str) {
        match serving {
            None => self.guest.stderr.note(line),
            Some(serving) => self.guest.stderr.note(&format!("{}{line}", serving.note_label())),
        }
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
