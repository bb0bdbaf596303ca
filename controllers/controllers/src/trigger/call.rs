//! One call of a function: an HTTP request to a pod of the revision that serves.
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a pod may take to accept a connection; it is on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What is read of an answer: nobody looks at it, but a program that cannot write it may fail.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The header that tells the function what calls it.
pub(super) const TRIGGER: HeaderName = HeaderName::from_static("x-dhow-trigger");

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Pods that can be called; the first that takes the connection is.
    pub(super) addresses: Vec<SocketAddr>,
    /// `<service>.<namespace>.svc`, for the Host header.
    pub(super) host: String,
    pub(super) path: String,
    /// Beside `host`.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) timeout: Duration,
}

/// Why a call has no answer, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No pod took the connection: the function knows nothing of the call.
    #[error("{0}")]
    Unreached(String),
    /// The function may have done what it was asked.
    #[error("{0}")]
    Broken(String),
}

/// Who makes calls.
#[async_trait]
pub(super) trait Caller: Send + Sync {
    /// The status of the answer, once all of it is here.
    async fn call(&self, call: Call) -> Result<u16, Failure>;
}

/// Calls over TCP.
pub(super) struct TcpCaller;

#[async_trait]
impl Caller for TcpCaller {
    async fn call(&self, call: Call) -> Result<u16, Failure> {
        match tokio::time::timeout(call.timeout, exchange(&call)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Broken(format!("no answer within {} s", call.timeout.as_secs()))),
        }
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut why = "no pod of the function is ready".to_owned();
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => why = format!("{address} takes no connection: {e}"),
            Err(_) => why = format!("{address} takes no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
    Err(why)
}

async fn exchange(call: &Call) -> Result<u16, Failure> {
    let mut request = Request::post(&call.path)
        .header(header::HOST, &call.host)
        .body(Full::new(call.body.clone()))
        .map_err(|e| Failure::Broken(format!("the request cannot be made: {e}")))?;
    request.headers_mut().extend(call.headers.iter().cloned());
    let stream = connect(&call.addresses).await.map_err(Failure::Unreached)?;
    let broke =
        |e: hyper::Error| Failure::Broken(format!("the connection broke off: {}", client::error_chain(&e)));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broke)?;
        read(response).await
    };
    tokio::pin!(answered, connection);
    tokio::select! {
        status = &mut answered => status,
        // The connection may end with the last byte of the answer.
        ended = &mut connection => match ended {
            Ok(()) => answered.await,
            Err(e) => Err(broke(e)),
        },
    }
}

async fn read(response: Response<hyper::body::Incoming>) -> Result<u16, Failure> {
    let status = response.status().as_u16();
    match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(_) => Ok(status),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Ok(status),
        Err(e) => Err(Failure::Broken(format!("answered {status}, and the answer broke off: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn call(addresses: Vec<SocketAddr>) -> Call {
        Call {
            addresses,
            host: "f-r1.default.svc".into(),
            path: "/tick?a=1".into(),
            body: "now".into(),
            headers: super::super::cron_headers("t", "2026-01-01T00:00:00Z"),
            timeout: Duration::from_secs(10),
        }
    }

    /// A server that answers one request with `answer`; gives what it was sent.
    async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\nnow") {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the request ended early");
                text.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(text).unwrap()
        });
        (address, served)
    }

    #[tokio::test]
    async fn the_first_pod_that_takes_the_connection_is_called() {
        let (address, served) = server(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok").await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(TcpCaller.call(call(vec![closed, address])).await, Ok(202));
        let request = served.await.unwrap();
        assert!(request.starts_with("POST /tick?a=1 HTTP/1.1\r\n"), "{request}");
        for line in
            ["host: f-r1.default.svc", "x-dhow-trigger: t", "x-dhow-scheduled-time: 2026-01-01T00:00:00Z"]
        {
            assert!(request.contains(line), "{request}");
        }
    }

    #[tokio::test]
    async fn why_there_is_no_answer_is_said() {
        let none = TcpCaller.call(call(Vec::new())).await.unwrap_err();
        assert!(matches!(&none, Failure::Unreached(why) if why.contains("no pod")), "{none}");
        let (address, _served) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let half = TcpCaller.call(call(vec![address])).await.unwrap_err();
        assert!(matches!(&half, Failure::Broken(why) if why.contains("broke off")), "{half}");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut c = call(vec![silent.local_addr().unwrap()]);
        c.timeout = Duration::from_millis(20);
        assert_eq!(TcpCaller.call(c).await, Err(Failure::Broken("no answer within 0 s".into())));
    }
}
