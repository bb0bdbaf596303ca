//! The listeners: connections in, within limits, and a clean end.
use crate::metrics::Metrics;
use crate::proxy::{Peer, Proxy};
use crate::stream::ClientStream;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use telemetry::Tracer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: each costs a descriptor of the 20,000 a process may commonly have, and so does the one to the
/// backend; the rest is for the other parts of the node.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// A client has this long for the whole of a request's head, from its first byte on (nginx `client_header_timeout` is
/// 60 s), for a TLS handshake, and from connecting to its first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be open between requests (nginx `keepalive_timeout`), and when most places are taken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const IDLE_TIMEOUT_CROWDED: Duration = Duration::from_secs(5);
/// How often a connection is looked at: a head that began since the last look is still within its time.
const LOOK: Duration = IDLE_TIMEOUT_CROWDED;
const _: () = assert!(LOOK.as_secs() < HEADER_TIMEOUT.as_secs());
/// Places that are left when it is crowded.
const CROWDED: usize = MAX_CONNECTIONS / 8;

/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Bytes of a request's head: twice what nginx takes; hyper's default would be 400 KiB. Over HTTP/1.1 hyper takes no
/// more than 100 headers; over HTTP/2 each counts 32 bytes beside its own.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Streams in one HTTP/2 connection; RFC 9113 section 6.5.2 advises no fewer than 100.
const MAX_STREAMS: u32 = 128;

/// What a stream's, and all bodies of an HTTP/2 connection, may hold here before a backend takes them; and what a
/// stream's answer may hold before the client does. All places together hold 1 GiB at the most.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
const SEND_BUFFER: usize = 64 << 10;

/// How long running requests may take to end after the shutdown began.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Where HTTP/2 runs its streams: tasks that must have ended before the gateway has.
#[derive(Clone, Debug)]
pub(crate) struct Tracked(pub(crate) TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Whether a connection does anything.
#[derive(Debug)]
pub(crate) struct Activity {
    opened: Instant,
    running: AtomicUsize,
    /// Milliseconds from `opened` to the end of the last request; 0 before the first.
    quiet_since: AtomicU64,
    /// The same to the first byte that came after it; 0 while there is none.
    head_since: AtomicU64,
    /// HTTP/2 says things between requests that are no head.
    is_http2: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            opened: Instant::now(),
            running: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
        }
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.opened).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn began(&self, version: Version) {
        self.running.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        if version == Version::HTTP_2 {
            self.is_http2.store(true, Relaxed);
        }
    }

    pub(crate) fn ended(&self, now: Instant) {
        self.quiet_since.store(self.milliseconds(now), Relaxed);
        self.running.fetch_sub(1, Relaxed);
    }

    /// Notes that the client said something.
    pub(crate) fn heard(&self) {
        if self.running.load(Relaxed) == 0
            && self.head_since.load(Relaxed) == 0
            && !self.is_http2.load(Relaxed)
        {
            self.head_since.store(self.milliseconds(Instant::now()), Relaxed);
        }
    }

    /// Whether an HTTP/1.1 connection is at a head that did not come to its end, and at nothing else: there is nobody to
    /// wait for.
    fn is_at_a_head(&self) -> bool {
        let waits = self.head_since.load(Relaxed) > 0 || self.quiet_since.load(Relaxed) == 0;
        waits && self.running.load(Relaxed) == 0 && !self.is_http2.load(Relaxed)
    }

    /// Resolves when the connection has done nothing, or been at a request's head, for longer than it may.
    async fn bored(&self, places: &Semaphore) {
        tokio::time::sleep_until(self.opened + HEADER_TIMEOUT).await;
        loop {
            if self.running.load(Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let at = |milliseconds| self.opened + Duration::from_millis(milliseconds);
            let quiet = match self.quiet_since.load(Relaxed) {
                0 => return,
                since => at(since),
            };
            let limit =
                if places.available_permits() < CROWDED { IDLE_TIMEOUT_CROWDED } else { IDLE_TIMEOUT };
            let mut end = quiet + limit;
            if let Some(head) = Some(self.head_since.load(Relaxed)).filter(|since| *since > 0) {
                end = end.min(at(head) + HEADER_TIMEOUT);
            }
            let now = Instant::now();
            if end <= now {
                return;
            }
            tokio::time::sleep_until(end.min(now + LOOK)).await;
        }
    }
}

/// The listeners and what all their connections share.
pub(crate) struct Server {
    proxy: Arc<Proxy>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    builder: auto::Builder<Tracked>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    stop: CancellationToken,
}

impl Server {
    /// A server that begins to end when `shutdown` says so. `seed` are random bits.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        tracer: Option<Arc<Tracer>>,
        seed: u64,
        shutdown: CancellationToken,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut builder = auto::Builder::new(Tracked(tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            // It would run between requests as well; `Activity` tells the two apart.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .max_header_list_size(MAX_HEAD_BYTES as u32);
        Self {
            proxy: Arc::new(Proxy::new(metrics.clone(), tracer, seed, tasks.clone(), stop.clone())),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            metrics,
            builder,
            tasks,
            shutdown,
            stop,
        }
    }

    /// Gives up idle connections to backends that are no longer in the table.
    pub(crate) fn backends_changed(&self) {
        let addresses: HashSet<SocketAddr> =
            self.metrics.table().load().addresses().iter().copied().collect();
        self.proxy.pool().keep_only(&addresses);
    }

    /// Serves until the shutdown, then drains. `tls` is a second listener with what it shows.
    pub(crate) async fn serve(self: &Arc<Self>, plain: TcpListener, tls: Option<(TcpListener, TlsAcceptor)>) {
        let encrypted = async {
            match tls {
                Some((listener, acceptor)) => self.accept(listener, Some(acceptor)).await,
                None => std::future::pending().await,
            }
        };
        let serving = async {
            tokio::join!(self.accept(plain, None), encrypted, self.proxy.pool().sweep());
        };
        self.shutdown.run_until_cancelled(serving).await;
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("requests were still running when the gateway ended");
        }
        self.stop.cancel();
        self.tasks.wait().await;
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    // Out of descriptors, mostly: some will be freed.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let _ = stream.set_nodelay(true);
            let (server, tls) = (self.clone(), tls.clone());
            self.tasks.spawn(async move {
                server.metrics.connections.inc();
                server.connection(stream, peer, tls).await;
                server.metrics.connections.dec();
                drop(place);
            });
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        let activity = Arc::new(Activity::new());
        let stream = ClientStream::new(stream, activity.clone());
        let peer = Arc::new(Peer::new(peer, tls.is_some(), activity.clone()));
        match tls {
            None => self.drive(stream, peer, &activity).await,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream));
                match self.shutdown.run_until_cancelled(handshake).await {
                    Some(Ok(Ok(stream))) => self.drive(stream, peer, &activity).await,
                    Some(Ok(Err(error))) => {
                        tracing::debug!(%error, "a TLS handshake failed");
                    }
                    // Too slow, or too late.
                    Some(Err(_)) | None => {}
                }
            }
        }
    }

    /// Serves one connection to its end, or until it has been idle for too long, or the gateway ends.
    async fn drive<S>(&self, stream: S, peer: Arc<Peer>, activity: &Activity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let proxy = self.proxy.clone();
        let service = service_fn(move |request| {
            let (proxy, peer) = (proxy.clone(), peer.clone());
            async move { Ok::<_, std::convert::Infallible>(proxy.handle(request, &peer).await) }
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        // Looked at only when it has something to say: timers and tokens take locks, and a connection is polled for
        // every piece of every request.
        let end = async {
            tokio::select! {
                () = activity.bored(&self.places) => {}
                () = self.shutdown.cancelled() => {}
            }
        };
        let mut end: FuturesUnordered<_> = [end].into_iter().collect();
        tokio::select! {
            biased;
            // A client that goes away or talks nonsense is its own trouble.
            _ = connection.as_mut() => return,
            _ = end.next() => {}
        }
        if activity.is_at_a_head() && !self.shutdown.is_cancelled() {
            return;
        }
        GracefulConnection::graceful_shutdown(connection.as_mut());
        // An HTTP/2 client may have begun requests that it was not told of yet: they end.
        let limit = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = async {
                    tokio::time::sleep(DRAIN).await;
                    while activity.running.load(Relaxed) > 0 {
                        tokio::time::sleep(DRAIN).await;
                    }
                } => {}
            }
        };
        let mut limit: FuturesUnordered<_> = [limit].into_iter().collect();
        tokio::select! {
            biased;
            _ = connection => {}
            _ = limit.next() => {}
        }
    }
}
