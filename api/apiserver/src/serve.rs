//! The HTTPS door: connections, their limits, and their end.
use crate::authentication::UserInfo;
use crate::body::RequestBody;
use crate::handler::{Caller, handle};
use crate::limits::Limits;
use crate::server::{ApiServer, Server};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest request head: the longest URL kubectl makes (a label selector over many values) is a few kB.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 connections are asked for a sign of life when they were silent for this long, and closed when none comes.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long running requests may go on after the shutdown began; watches end at once.
const GRACE: Duration = Duration::from_secs(5);
/// After a failed accept (no descriptors left) nothing is accepted for this long: some will be closed by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ApiServer {
    /// Serves HTTPS until `shutdown`; returns when every connection has ended.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.0.limits.connections));
        loop {
            // A full server lets newcomers wait in the kernel's queue.
            let place = tokio::select! {
                () = shutdown.cancelled() => break,
                place = places.clone().acquire_owned() => match place {
                    Ok(place) => place,
                    Err(_) => break,
                },
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection {
                        server: self.0.clone(),
                        acceptor: acceptor.clone(),
                        shutdown: shutdown.child_token(),
                        _place: place,
                    };
                    connections.spawn(connection.run(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

struct Connection {
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let gauge = self.server.metrics.connections().clone();
        gauge.inc();
        // Small answers must not wait for each other (Nagle).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        if let Err(error) = self.answer(stream).await {
            tracing::debug!(%error, "a connection ended early");
        }
        gauge.dec();
    }

    async fn answer(self, stream: TcpStream) -> Result<(), crate::body::BoxError> {
        let limits = &self.server.limits;
        let stream = tokio::select! {
            () = self.shutdown.cancelled() => return Ok(()),
            accepted = tokio::time::timeout(limits.handshake_timeout, self.acceptor.accept(stream)) => accepted??,
        };
        let peer = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) => Some(Arc::new(UserInfo::from(pki::peer_identity(certificate)?))),
            None => None,
        };
        // Ends the connection's streams: when this door closes, or when the API server itself stops.
        let end = self.shutdown.clone();
        let stopping = self.server.shutdown.clone();
        let server = self.server.clone();
        let requests = Arc::new(watch::Sender::new(0_usize));
        let service = {
            let (end, requests) = (end.clone(), requests.clone());
            hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let answering = Answering::new(requests.clone());
                let (server, peer, end) = (server.clone(), peer.clone(), end.clone());
                async move {
                    let request: http::Request<RequestBody> =
                        request.map(|body| body.map_err(Into::into).boxed_unsync());
                    let answer = handle(server, Caller::Peer(peer), request, end).await;
                    Ok::<_, Infallible>(answer.map(|body| body.holding(answering)))
                }
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = end.cancelled() => {}
            () = stopping.cancelled() => end.cancel(),
            () = idleness(&requests, limits) => {}
        }
        connection.as_mut().graceful_shutdown();
        // Whoever is still sending after the grace is cut off.
        tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
    }
}

/// A request of a connection, from its head to the end of its answer.
struct Answering(Arc<watch::Sender<usize>>);

impl Answering {
    fn new(requests: Arc<watch::Sender<usize>>) -> Self {
        requests.send_modify(|n| *n += 1);
        Self(requests)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// Resolves when a connection has had nothing to answer for too long: hyper waits for a first byte for ever, and an HTTP/2
/// client that answers pings idles for ever, so whoever knows no secret could take all places.
async fn idleness(requests: &watch::Sender<usize>, limits: &Limits) {
    let mut changes = requests.subscribe();
    let mut limit = limits.header_timeout;
    loop {
        // The sender is ours, so waiting cannot fail.
        let _ = changes.wait_for(|n| *n == 0).await;
        if tokio::time::timeout(limit, changes.changed()).await.is_err() {
            return;
        }
        limit = limits.idle_timeout;
    }
}
