//! The way through: an upgraded connection whose bytes are another's, for the API server and the kubelet.
//!
//! Invariant: a tunnel ends soon after either end has, and a while after nothing has moved, whatever the other does.
use crate::limits::{HEAD_TIMEOUT, IDLE_TIMEOUT, TUNNEL_CHUNK, TUNNEL_LINGER};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Where the protocol's version of a SPDY client stands.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// The headers by which two ends agree on an upgrade. (Extensions of WebSocket are not passed on: none are offered.)
const HANDSHAKE: [HeaderName; 7] = [
    CONNECTION,
    UPGRADE,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_ACCEPT,
    STREAM_PROTOCOL,
];

/// What of a request's or an answer's headers goes on through a tunnel.
pub fn handshake(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in HANDSHAKE {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Joins two connections that are being upgraded; returns when it is over.
pub async fn tunnel(client: OnUpgrade, server: OnUpgrade) -> io::Result<()> {
    let both = async { tokio::try_join!(client, server).map_err(io::Error::other) };
    let upgraded = tokio::time::timeout(HEAD_TIMEOUT, both).await;
    let (client, server) = upgraded.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    carry(TokioIo::new(client), TokioIo::new(server)).await
}

async fn carry<A, B>(client: A, server: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = AtomicU64::new(0);
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let mut up = std::pin::pin!(pump(client_read, server_write, &moved));
    let mut down = std::pin::pin!(pump(server_read, client_write, &moved));
    let linger = |_| Ok(());
    tokio::select! {
        ended = up.as_mut() => {
            ended?;
            tokio::time::timeout(TUNNEL_LINGER, down).await.unwrap_or_else(linger)
        }
        ended = down.as_mut() => {
            ended?;
            tokio::time::timeout(TUNNEL_LINGER, up).await.unwrap_or_else(linger)
        }
        () = idleness(&moved) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Carries bytes one way; its end is the other side's.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut chunk = vec![0; TUNNEL_CHUNK];
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..n]).await?;
        to.flush().await?;
        moved.fetch_add(1, Relaxed);
    }
}

/// Resolves when nothing was counted for [`IDLE_TIMEOUT`], and before twice as long has passed.
pub(crate) async fn idleness(moved: &AtomicU64) {
    let mut seen = moved.load(Relaxed);
    loop {
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let now = moved.load(Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use tokio::io::duplex;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_with_them() {
        let (mut client, theirs) = duplex(16);
        let (mut server, ours) = duplex(16);
        let tunnel = tokio::spawn(carry(theirs, ours));
        client.write_all(b"question").await.unwrap();
        let mut heard = [0; 8];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        drop(client);
        tunnel.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_never_closes_holds_nothing_for_long() {
        let (_stays, theirs) = duplex(16);
        let (server, ours) = duplex(16);
        drop(server);
        carry(theirs, ours).await.unwrap();
        let ((_one, theirs), (_other, ours)) = (duplex(16), duplex(16));
        assert_eq!(carry(theirs, ours).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_the_handshake_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v3.channel.k8s.io"));
        headers.append(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        headers.append(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        let kept = handshake(&headers);
        assert_eq!((kept.get_all(STREAM_PROTOCOL).iter().count(), kept.len()), (2, 3));
    }
}
