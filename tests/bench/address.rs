//! Ports of this machine.
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A port of loopback nobody listens on now, and none that was given before.
pub(crate) fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if GIVEN.lock().is_ok_and(|mut given| given.insert(port)) {
            return Ok(port);
        }
    }
}

/// Waits until somebody listens there.
pub(crate) async fn listens(address: SocketAddr, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        if begin.elapsed() > limit {
            bail!("nobody listens on {address} after {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
