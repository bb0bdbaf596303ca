//! Connections of outgoing HTTP requests: the name resolved, each address checked, the source the pod's address.
//!
//! A machine with an IPv6 address and no route is common: addresses of the second family are tried as well when those of
//! the first have not answered after [`SECOND_FAMILY_DELAY`] (RFC 8305's idea with one step).
use crate::limits::CONNECT_TIMEOUT;
use crate::reach::{Reach, Refused};
use crate::sockets::plan_source;
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
pub(crate) struct Dialer(Arc<Reach>);

impl Dialer {
    pub(crate) fn new(reach: Arc<Reach>) -> Self {
        Self(reach)
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
        let reach = self.0.clone();
        Box::pin(async move {
            let connecting = dial(&reach, &uri);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        })
    }
}

async fn dial(reach: &Reach, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
    let addresses = reach.destinations(host, port_of(uri)).await?;
    let first_family = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_family);
    if second.is_empty() {
        return try_each(reach, &first).await;
    }
    let later = async {
        tokio::time::sleep(SECOND_FAMILY_DELAY).await;
        try_each(reach, &second).await
    };
    let trying = futures::future::select(Box::pin(try_each(reach, &first)), Box::pin(later)).await;
    match trying {
        futures::future::Either::Left((Err(_), later)) => later.await,
        futures::future::Either::Right((Err(_), first)) => first.await,
        futures::future::Either::Left((Ok(stream), _)) | futures::future::Either::Right((Ok(stream), _)) => {
            Ok(stream)
        }
    }
}

/// The port a request goes to.
pub(crate) fn port_of(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// A refusal as an error of the system's, whose kind tells it on the other side of the HTTP client.
impl From<Refused> for io::Error {
    fn from(why: Refused) -> Self {
        let (kind, text) = match why {
            Refused::Host => (io::ErrorKind::PermissionDenied, "the host is not on the pod's list"),
            Refused::Address => (io::ErrorKind::PermissionDenied, "it has no address that may be reached"),
            Refused::NoEndpoint => (io::ErrorKind::ConnectionRefused, "the service has no endpoint"),
            Refused::Unknown => (io::ErrorKind::NotFound, "the name is not known"),
        };
        Self::new(kind, text)
    }
}

/// Connects to the first that answers.
pub(crate) async fn try_each(reach: &Reach, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match connect(reach.pod_ip, *address).await {
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
