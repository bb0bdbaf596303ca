//! The pod's address, bound.
use shim::Error;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::net::{TcpListener, TcpSocket};

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;

/// Binds the pod's address, in the pod's network namespace if it has one of its own.
pub(crate) async fn bind(address: SocketAddr, namespace: Option<&Path>) -> Result<TcpListener, Error> {
    let bound = match namespace {
        None => listen(address),
        Some(namespace) => {
            let namespace = namespace.to_owned();
            let listener = tokio::task::spawn_blocking(move || listen_in(address, &namespace)).await;
            listener.unwrap_or_else(|e| Err(std::io::Error::other(e))).and_then(TcpListener::from_std)
        }
    };
    bound.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::Unavailable(format!(
            "{address} is in use by another program on this node; declare another containerPort"
        )),
        std::io::ErrorKind::PermissionDenied => Error::Unavailable(format!(
            "{address} may not be bound: ports below {} need root; declare a higher containerPort",
            1024
        )),
        _ => Error::Io { what: format!("listening on {address}"), source: e },
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket belongs to the namespace of the thread that made it, and keeps it; so a thread goes there, binds and
/// ends. (A thread of the pool must never change its namespace.)
fn listen_in(address: SocketAddr, namespace: &Path) -> std::io::Result<std::net::TcpListener> {
    let namespace = std::fs::File::open(namespace)?;
    std::thread::scope(|scope| {
        let binder = scope.spawn(|| {
            // SAFETY: setns takes a descriptor that stays open during the call.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        binder.join().unwrap_or_else(|_| Err(std::io::Error::other("the binding thread panicked")))
    })
}
