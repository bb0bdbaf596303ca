//! The kubelet's HTTPS server: logs, image imports and metrics for the API server, and nothing for anybody else.
//!
//! Invariant: nobody is answered who has not shown a client certificate that the cluster's authority signed and
//! that names the API server or an administrator.
pub mod logs;
mod metrics;
mod routes;

pub use routes::{State, router};

use axum::Router;
use axum::middleware::{Next, from_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use pki::PeerIdentity;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once. The API server keeps one or a few; the rest are followed logs, one each over HTTP/1.1.
const CONNECTIONS: usize = 1024;
/// How long a client may take for its handshake and for each request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
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
    let asked = Arc::new(AtomicBool::new(false));
    let noted = asked.clone();
    let router = router.layer(axum::Extension(Caller(peer))).layer(from_fn(move |request, next: Next| {
        noted.store(true, Relaxed);
        next.run(request)
    }));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.http2().timer(TokioTimer::new());
    tokio::select! {
        ended = builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(router)) => {
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended");
            }
        }
        () = silence(&asked) => tracing::debug!("a connection brought no request"),
    }
}

/// Resolves when a connection brought no request in time: hyper waits for a first byte for ever.
async fn silence(asked: &AtomicBool) {
    tokio::time::sleep(HEAD_LIMIT).await;
    if asked.load(Relaxed) {
        std::future::pending::<()>().await;
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
    async fn a_connection_that_brings_no_request_gives_its_place_back() {
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
        let stream = TcpStream::connect(address).await.unwrap();
        let tls = Arc::new(pki::client_config(authority.certificate_pem(), None).unwrap());
        let name = rustls::pki_types::ServerName::from(address.ip());
        let mut silent = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
        tokio::time::pause();
        let mut byte = [0];
        let read = tokio::time::timeout(HEAD_LIMIT * 3, silent.read(&mut byte)).await;
        assert!(matches!(read.expect("it is still open"), Ok(0) | Err(_)));
        shutdown.cancel();
        serving.await.unwrap();
    }
}
