//! Connections of outgoing HTTP requests: the name resolved, each address checked, the source the pod's address.
//!
//! A machine with an IPv6 address and no route is common: addresses of the second family are tried as well when those of
//! the first have not answered after [`SECOND_FAMILY_DELAY`] (RFC 8305's idea with one step).
use crate::figures::Figures;
use crate::limits::CONNECT_TIMEOUT;
use crate::outbound::Policy;
use crate::sockets::{plan_destination, plan_source};
use http::Uri;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// What RFC 8305 recommends.
const SECOND_FAMILY_DELAY: Duration = Duration::from_millis(250);

/// One container's.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Policy>, Arc<Figures>);

impl Dialer {
    pub(crate) fn new(policy: Arc<Policy>, figures: Arc<Figures>) -> Self {
        Self(policy, figures)
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (policy, figures) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let connecting = dial(&policy, &figures, &uri);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        })
    }
}

async fn dial(policy: &Policy, figures: &Figures, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let addresses = resolve(policy, figures, host, uri.port_u16().unwrap_or(usual)).await?;
    let first_family = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_family);
    if second.is_empty() {
        return try_each(policy, &first).await;
    }
    let later = async {
        tokio::time::sleep(SECOND_FAMILY_DELAY).await;
        try_each(policy, &second).await
    };
    let trying = futures::future::select(Box::pin(try_each(policy, &first)), Box::pin(later)).await;
    match trying {
        futures::future::Either::Left((Err(_), later)) => later.await,
        futures::future::Either::Right((Err(_), first)) => first.await,
        futures::future::Either::Left((Ok(stream), _)) | futures::future::Either::Right((Ok(stream), _)) => {
            Ok(stream)
        }
    }
}

/// The addresses of a name that the policy permits.
async fn resolve(policy: &Policy, figures: &Figures, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => vec![plan_destination(policy.pod_ip, SocketAddr::new(address, port))],
        Err(_) if host.eq_ignore_ascii_case("localhost") => vec![SocketAddr::new(policy.pod_ip, port)],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|e| io::Error::new(io::ErrorKind::NotFound, e.to_string()))?
            .collect(),
    };
    let permitted: Vec<SocketAddr> = found.into_iter().filter(|a| policy.permits(a.ip())).collect();
    if permitted.is_empty() {
        figures.egress_denied();
        let why = format!("{host} has no address that guests may reach");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(permitted)
}

async fn try_each(policy: &Policy, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match connect(policy.pod_ip, *address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn connect(pod_ip: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = plan_source(pod_ip, address.ip()) {
        share_source_ports(&socket);
        socket.bind(source)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Leaves the choice of the port to connect, which may use one for several destinations; bind would take one of the
/// address's 28,000 for this connection alone.
fn share_source_ports(socket: &TcpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a c_int that lives during the call. Failure only means that ports are not shared.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
