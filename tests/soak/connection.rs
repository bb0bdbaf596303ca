//! A client's connection: HTTP/1.1, kept for several requests.
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// Not a byte was sent: the other side had closed the connection before.
    NotSent,
    Failed(String),
}

/// The most of an answer that is read: that of a function has a line.
const MAX_ANSWER: usize = 4 << 20;

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let failed = |what: &str, e: &dyn std::error::Error| Error::Failed(format!("{what}: {}", chain(e)));
        let tcp = TcpStream::connect(address).await.map_err(|e| failed("connecting", &e))?;
        tcp.set_nodelay(true).map_err(|e| failed("connecting", &e))?;
        let (sender, connection) =
            handshake(TokioIo::new(tcp)).await.map_err(|e| failed("connecting", &e))?;
        // How a connection ends is told by the request that was under way.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { sender, _driver: driver })
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Result<Answer, Error> {
        let request = Request::get(path)
            .header(http::header::HOST, host)
            .body(Empty::new())
            .map_err(|e| Error::Failed(e.to_string()))?;
        if self.sender.ready().await.is_err() {
            return Err(Error::NotSent);
        }
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let sent = error.take_message().is_none();
                let why = || Error::Failed(format!("waiting for the answer: {}", chain(error.error())));
                return Err(if sent { why() } else { Error::NotSent });
            }
        };
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::Failed(format!("{status}, then: {}", chain(&e))))?;
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > MAX_ANSWER {
                break;
            }
        }
        Ok(Answer { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}
