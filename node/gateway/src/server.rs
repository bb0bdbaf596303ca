//! The listeners: connections in, within limits, and a clean end.
use crate::metrics::Metrics;
use crate::proxy::{Peer, Proxy};
use crate::stream::ClientStream;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
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

/// A client has this long for the whole of a request's head (nginx `client_header_timeout` is 60 s), for a TLS
/// handshake, and from connecting to its first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be open between requests (nginx `keepalive_timeout`), and when most places are taken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const IDLE_TIMEOUT_CROWDED: Duration = Duration::from_secs(5);
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
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { opened: Instant::now(), running: AtomicUsize::new(0), quiet_since: AtomicU64::new(0) }
    }
    pub(crate) fn began(&self) {
        self.running.fetch_add(1, Relaxed);
    }
    pub(crate) fn ended(&self, now: Instant) {
        let quiet = now.duration_since(self.opened).as_millis();
        self.quiet_since.store(u64::try_from(quiet).unwrap_or(u64::MAX).max(1), Relaxed);
        self.running.fetch_sub(1, Relaxed);
    }

    /// Resolves when the connection has done nothing for longer than it may.
    async fn bored(&self, places: &Semaphore) {
        tokio::time::sleep_until(self.opened + HEADER_TIMEOUT).await;
        loop {
            let quiet_since = match (self.running.load(Relaxed), self.quiet_since.load(Relaxed)) {
                (0, 0) => return,
                (0, ms) => Some(self.opened + Duration::from_millis(ms)),
                _ => None,
            };
            let limit =
                if places.available_permits() < CROWDED { IDLE_TIMEOUT_CROWDED } else { IDLE_TIMEOUT };
            if quiet_since.is_some_and(|since| since.elapsed() >= limit) {
                return;
            }
            tokio::time::sleep(IDLE_TIMEOUT_CROWDED).await;
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
    pub(crate) fn new(metrics: Arc<Metrics>, seed: u64, shutdown: CancellationToken) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut builder = auto::Builder::new(Tracked(tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
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
            proxy: Arc::new(Proxy::new(metrics.clone(), seed, tasks.clone(), stop.clone())),
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
        let stream = ClientStream::new(stream);
        let activity = Arc::new(Activity::new());
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
