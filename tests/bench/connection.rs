//! One connection of a client that asks and waits for the answer: HTTP/1.1 or HTTP/2, over TLS or bare. The same code
//! loads the product and its yardsticks.
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// A list of 5,000 objects has some 8 MB: a smaller window would measure round trips.
const WINDOW: u32 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Where connections lead.
pub(crate) struct Door {
    address: SocketAddr,
    /// `None`: no TLS.
    tls: Option<ClientConfig>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

pub(crate) struct Connection {
    sender: Sender,
    _driver: AbortOnDropHandle<()>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Door {
    /// The API server on this port, as the administrator whose certificate lies in `pki`.
    pub(crate) fn of_cluster(port: u16, pki: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = pki.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let own = pki::KeyedCertificate { certificate_pem: read("admin.crt")?, key_pem: read("admin.key")? };
        let tls = pki::client_config(&read("ca.crt")?, Some(&own))?;
        Ok(Self { address: (Ipv4Addr::LOCALHOST, port).into(), tls: Some(tls) })
    }

    pub(crate) fn bare(port: u16) -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), tls: None }
    }

    pub(crate) async fn connect(&self, protocol: Protocol) -> Result<Connection> {
        let tcp = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("connecting to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return shake_hands(tcp, protocol).await };
        let mut tls = tls.clone();
        let alpn: &[u8] = if protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.context("TLS")?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(alpn), "the server does not speak {protocol:?}");
        shake_hands(stream, protocol).await
    }

    pub(crate) async fn connections(&self, count: usize, protocol: Protocol) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(self.connect(protocol).await?);
        }
        Ok(connections)
    }
}

async fn shake_hands<S>(stream: S, protocol: Protocol) -> Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    // How a connection ends is told by the request that was under way.
    Ok(match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await?;
            let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
            Connection { sender: Sender::Http1(sender), _driver: driver }
        }
        Protocol::Http2 => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .handshake(io)
                .await?;
            let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
            Connection { sender: Sender::Http2(sender), _driver: driver }
        }
    })
}

impl Connection {
    /// Sends a request; the answer's head has come, its body has not.
    pub(crate) async fn begin(&mut self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>> {
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                let (mut parts, body) = request.into_parts();
                parts.uri =
                    http::uri::Builder::from(parts.uri).scheme("https").authority("localhost").build()?;
                parts.headers.remove(http::header::HOST);
                sender.send_request(Request::from_parts(parts, body)).await?
            }
        })
    }

    /// Sends a request and waits for all of its answer.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let response = self.begin(request).await?;
        let status = response.status();
        let collected = response.into_body().collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer { status, body: collected.to_bytes(), trailers })
    }
}
