//! The gRPC health question (`grpc.health.v1.Health/Check`), written by hand: one message of one field each way.
use super::Outcome;
use bytes::{BufMut, Bytes, BytesMut};
use client::k8s_openapi::api::core::v1 as core;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// An answer is a few bytes; anything larger is not a health answer.
const MAX_ANSWER: usize = 4096;
/// The longest service name sent: its length must fit one varint byte pair and a frame.
const MAX_SERVICE: usize = 1024;

/// The framed request: `service` is field 1, a string.
fn request_body(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut n = service.len();
        while n >= 0x80 {
            message.put_u8((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        message.put_u8(n as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// The status (field 1, an enum) of a framed answer; 0 when it is not there.
fn answer_status(body: &[u8]) -> Option<u8> {
    let length = u32::from_be_bytes(body.get(1..5)?.try_into().ok()?) as usize;
    let message = body.get(5..5 + length)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

pub(super) async fn ask_grpc(grpc: &core::GRPCAction, pod_ip: &str) -> Outcome {
    let service = grpc.service.as_deref().unwrap_or_default();
    let Ok(port) = u16::try_from(grpc.port) else { return Outcome::Unknown("the port is not a port".into()) };
    if service.len() > MAX_SERVICE {
        return Outcome::Unknown("the service name is too long".into());
    }
    match check(pod_ip, port, service).await {
        Ok(1) => Outcome::Success,
        Ok(status) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(usize::from(status));
            Outcome::Failure(format!("service unhealthy (responded with {:?})", name.unwrap_or(&"UNKNOWN")))
        }
        Err(e) => Outcome::Failure(format!("error: {e}")),
    }
}

async fn check(host: &str, port: u16, service: &str) -> Result<u8, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let stream = TcpStream::connect((host, port)).await.map_err(|e| text(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| text(&e))?;
    let request = http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request_body(service)))
        .map_err(|e| text(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = response.headers().get("grpc-status").cloned();
        let body =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        let status = status.or_else(|| body.trailers().and_then(|t| t.get("grpc-status")).cloned());
        match status.as_ref().and_then(|s| s.to_str().ok()) {
            Some("0") => answer_status(&body.to_bytes()).ok_or_else(|| "not a health answer".to_owned()),
            Some("12") => {
                Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
            }
            Some(code) => Err(format!("rpc error: code = {code}")),
            None => Err("the answer has no status".to_owned()),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        out = &mut exchange => out,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_framed_and_carries_the_service() {
        assert_eq!(&request_body("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_body("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn the_answers_status_is_read() {
        assert_eq!(answer_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(answer_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(answer_status(&[0, 0, 0, 0, 9, 8, 1]), None);
    }
}
