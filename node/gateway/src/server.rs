//! The listener: connections in, within limits, and a clean end.
use crate::proxy::Proxy;
use crate::routes::RouteTable;
use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: each costs a descriptor of the 20,000 a process may commonly have, and so does the one to the
/// backend; the rest is for the other parts of the node.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// A client has this long for the whole of a request's head (nginx `client_header_timeout` is 60 s), and from
/// connecting to its first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Bytes of a request's head: twice what nginx takes; hyper's default would be 400 KiB.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Streams in one HTTP/2 connection; RFC 9113 section 6.5.2 advises no fewer than 100.
const MAX_STREAMS: u32 = 128;

/// How long running requests may take to end after the shutdown began.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(
    listener: TcpListener,
    table: Arc<ArcSwap<RouteTable>>,
    shutdown: CancellationToken,
) {
    let proxy = Arc::new(Proxy::new(table));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    let accepting = async {
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
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let _ = stream.set_nodelay(true);
            let asked = Arc::new(AtomicBool::new(false));
            let (proxy, noted) = (proxy.clone(), asked.clone());
            let service = service_fn(move |request| {
                noted.store(true, Relaxed);
                let proxy = proxy.clone();
                async move { Ok::<_, std::convert::Infallible>(proxy.handle(request, peer).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            let stop = stop.clone();
            tasks.spawn(async move {
                let life = async {
                    tokio::select! {
                        // A client that goes away or talks nonsense is its own trouble.
                        _ = connection => {}
                        () = silence(&asked) => {}
                    }
                };
                stop.run_until_cancelled(life).await;
                drop(permit);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the gateway ended");
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Resolves when a connection has brought no request within [`HEADER_TIMEOUT`]: hyper waits for a first byte for ever.
async fn silence(asked: &AtomicBool) {
    tokio::time::sleep(HEADER_TIMEOUT).await;
    if asked.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}
