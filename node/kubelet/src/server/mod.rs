//! The kubelet's HTTPS server: logs, streams, image imports and metrics for the API server, and nothing for anybody else.
//!
//! Invariant: nobody is answered who has not shown a client certificate that the cluster's authority signed and
//! that names the API server or an administrator.
pub mod logs;
mod metrics;
mod routes;
mod streams;

pub use routes::{State, router};
pub use streams::Tunnels;

use axum::Router;
use axum::body::Body;
use axum::middleware::{Next, from_fn};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use pki::PeerIdentity;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once. The API server keeps one or a few; the rest are followed logs, one each over HTTP/1.1.
const CONNECTIONS: usize = 1024;
/// How long a client may take for its handshake and for each request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection that has been used may answer nothing before it is closed: the API server keeps one for 30 s.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// HTTP/2 connections are asked for a sign of life when they were silent for this long, and closed when none comes.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that is being closed may take for it.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How long a listener that cannot accept (too many open files) waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a caller may use the server. The API server's client certificate is `kube-apiserver…`
/// (kubeadm: `kube-apiserver-kubelet-client`), administrators are of `system:masters`.
pub fn may_call(peer: &PeerIdentity) -> bool {
    matches!(peer.common_name.as_str(), "kube-apiserver" | "kube-apiserver-kubelet-client")
        || peer.organizations.iter().any(|o| o == "system:masters")
}

/// Serves until the shutdown.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = tokio::select! {
            _ = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            _ = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            shutdown.run_until_cancelled(connection(stream, acceptor, router)).await;
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HEAD_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let peer =
        tls.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| pki::peer_identity(c).ok());
    let requests = Arc::new(watch::Sender::new(0_usize));
    let counted = requests.clone();
    let router = router.layer(axum::Extension(Caller(peer))).layer(from_fn(move |request, next: Next| {
        let answering = Answering::new(counted.clone());
        async move {
            next.run(request).await.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _until_it_is_sent = &answering;
                    frame
                }))
            })
        }
    }));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(tls), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = idleness(&requests) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CLOSE_LIMIT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended");
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
/// client that answers pings idles for ever.
async fn idleness(requests: &watch::Sender<usize>) {
    let mut changes = requests.subscribe();
    let mut limit = HEAD_LIMIT;
    loop {
        // The sender is ours, so waiting cannot fail.
        let _ = changes.wait_for(|n| *n == 0).await;
        if tokio::time::timeout(limit, changes.changed()).await.is_err() {
            return;
        }
        limit = IDLE_LIMIT;
    }
}

/// Who calls; nobody in particular without a certificate.
#[derive(Clone, Debug, Default)]
pub struct Caller(pub Option<PeerIdentity>);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_connection_that_brings_no_request_or_no_more_gives_its_place_back() {
        // TLS looks at the machine's own clock.
        #[allow(clippy::disallowed_methods)]
        let now = jiff::Timestamp::now();
        let authority = pki::Authority::generate("test", now).unwrap();
        let subject = pki::Subject { common_name: "n1", organization: None };
        let serving = authority.issue_serving(subject, &["127.0.0.1".into()], now).unwrap();
        let tls = pki::server_config(authority.certificate_pem(), &serving).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, tls, Router::new(), shutdown.clone()));
        let mut tls = pki::client_config(authority.certificate_pem(), None).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let name = rustls::pki_types::ServerName::from(address.ip());
        let stream = TcpStream::connect(address).await.unwrap();
        let mut silent = tls.connect(name.clone(), stream).await.unwrap();
        let stream = tls.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
        let (mut sender, idle) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let idle = tokio::spawn(idle);
        let request = http::Request::get(format!("https://{address}/")).body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
        tokio::time::pause();
        let mut byte = [0];
        let read = tokio::time::timeout(HEAD_LIMIT * 3, silent.read(&mut byte)).await;
        assert!(matches!(read.expect("it is still open"), Ok(0) | Err(_)));
        // It answers every ping and asks for nothing.
        let ended = tokio::time::timeout(IDLE_LIMIT * 3, idle).await;
        ended.expect("it is still open").unwrap().unwrap();
        shutdown.cancel();
        serving.await.unwrap();
    }
}
