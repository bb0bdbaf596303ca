//! The listener: connections in, within limits, and a clean end.
use crate::proxy::Proxy;
use crate::routes::RouteTable;
use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once: each costs a descriptor of the 20,000 a process may commonly have, and so does the one to the
/// backend; the rest is for the other parts of the node.
const MAX_CONNECTIONS: usize = 4096;

/// A client has this long for the whole of a request's head (nginx `client_header_timeout` is 60 s).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and its fields: hyper's defaults would be 400 KiB and 100; nginx takes 32 KiB.
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
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
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
            let proxy = proxy.clone();
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, std::convert::Infallible>(proxy.handle(request, peer).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tasks.spawn(async move {
                // A client that goes away or talks nonsense is its own trouble.
                let _ = connection.await;
                drop(permit);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the gateway ended");
    }
}
