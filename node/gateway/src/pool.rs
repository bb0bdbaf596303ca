//! Connections to backends: kept, bounded, and given up in time.
//!
//! An HTTP/1.1 connection has no task of its own. Whoever uses it drives it, so that a request and its answer pass
//! through the gateway in one task and wake nobody else on the way. An HTTP/2 connection is shared and has its task.
mod http1;
mod http2;

use crate::backends::Protocol;
use crate::proxy::upload::Upload;
use http::{Request, Response};
use http1::Http1Pool;
pub(crate) use http1::{Driver, Http1Body};
use http2::Http2Pool;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A backend of this node accepts at once or is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that nobody used for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer's head: as many as a request's may have.
const MAX_HEAD_BYTES: usize = crate::server::MAX_HEAD_BYTES;

/// Why a request got no answer's head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout,
    #[error("connecting failed")]
    Connect(#[source] std::io::Error),
    #[error("the connection cannot be used")]
    Handshake(#[source] hyper::Error),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
}

/// A request that failed, and what may still be done about it.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Request<Upload>>,
    /// The connection had carried requests before: the backend may have closed it just then.
    pub(crate) reused: bool,
}

/// An answer's body as it comes from a backend.
#[allow(clippy::large_enum_variant)] // one a request: a box would be an allocation more for each
pub(crate) enum Received {
    Http1(Http1Body),
    /// Over a connection that another task drives.
    Driven(hyper::body::Incoming),
}

/// All connections to all backends.
pub(crate) struct Pool {
    http1: Arc<Http1Pool>,
    http2: Http2Pool,
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| Error::ConnectTimeout)?
        .map_err(Error::Connect)?;
    // Without it small messages wait for an acknowledgement; a socket that refuses works all the same.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl Pool {
    /// `tasks` are those that must end with the gateway, at the latest when `stop` says so.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { http1: Arc::default(), http2: Http2Pool::new(tasks, stop) }
    }

    /// Sends a request to a backend and waits for the head of its answer. With `fresh`, over a new connection.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        request: Request<Upload>,
        fresh: bool,
    ) -> Result<Response<Received>, Failed> {
        match protocol {
            Protocol::Http1 => {
                self.http1.send(address, request, fresh).await.map(|answer| answer.map(Received::Http1))
            }
            Protocol::H2c => {
                self.http2.send(address, request, fresh).await.map(|answer| answer.map(Received::Driven))
            }
        }
    }

    /// Sends a request that wants its connection to become something else: over one of its own. The answer's head,
    /// and the task that drives the connection.
    pub(crate) async fn send_upgrade(
        &self,
        address: SocketAddr,
        request: Request<Upload>,
    ) -> Result<(Response<hyper::body::Incoming>, Driver), Failed> {
        http1::send_upgrade(address, request).await
    }

    /// Closes idle connections to backends that are no longer among `addresses`, and those idle for too long. A
    /// request that runs keeps its connection.
    pub(crate) fn keep_only(&self, addresses: &HashSet<SocketAddr>) {
        self.http1.keep_only(addresses);
        self.http2.keep_only(addresses);
    }

    /// Closes what has been idle for too long, for ever: to be run beside the listener.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(IDLE_TIMEOUT / 2).await;
            self.http1.close_idle();
            self.http2.close_idle();
        }
    }
}
