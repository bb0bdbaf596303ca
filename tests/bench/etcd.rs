//! Debian's etcd, as the API server of Kubernetes would use it: gRPC over HTTP/2, without TLS.
//!
//! The messages are encoded by hand: a client library of its own would make the load cost more than ours does.
use crate::Plan;
use crate::address::{free_port, listens};
use crate::connection::{Answer, Connection, Door, Protocol};
use crate::guard::Guard;
use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::Full;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

pub(crate) struct Etcd {
    _process: Child,
    door: Door,
    _guard: Guard,
}

impl Etcd {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let guard = Guard::new("bench-etcd");
        let (port, peer) = (free_port()?, free_port()?);
        let (client_url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let log = std::fs::File::create(guard.folder().join("etcd.log"))?;
        let process = Command::new(&plan.programs.etcd)
            .arg("--data-dir")
            .arg(guard.folder().join("data"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting etcd")?;
        listens((Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(30)).await?;
        Ok(Self { _process: process, door: Door::bare(port), _guard: guard })
    }

    pub(crate) async fn connections(&self, count: usize) -> Result<Vec<Connection>> {
        self.door.connections(count, Protocol::Http2).await
    }
}

/// A field of bytes in a protobuf message (wire type 2).
fn field(number: u8, value: &[u8], into: &mut BytesMut) {
    into.put_u8(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        into.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    into.put_u8(length as u8);
    into.put_slice(value);
}

fn call(method: &str, message: &[u8]) -> Result<Request<Full<Bytes>>> {
    let mut body = BytesMut::new();
    // Not compressed, and the length.
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(message);
    Ok(Request::post(format!("/etcdserverpb.KV/{method}"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(body.freeze().into())?)
}

pub(crate) fn put(key: &str, value: &[u8]) -> Result<Request<Full<Bytes>>> {
    let mut message = BytesMut::new();
    field(1, key.as_bytes(), &mut message);
    field(2, value, &mut message);
    call("Put", &message)
}

pub(crate) fn get(key: &str) -> Result<Request<Full<Bytes>>> {
    let mut message = BytesMut::new();
    field(1, key.as_bytes(), &mut message);
    call("Range", &message)
}

/// All keys from `first` to before `end`.
pub(crate) fn range(first: &str, end: &str) -> Result<Request<Full<Bytes>>> {
    let mut message = BytesMut::new();
    field(1, first.as_bytes(), &mut message);
    field(2, end.as_bytes(), &mut message);
    call("Range", &message)
}

pub(crate) fn check(answer: &Answer) -> Result<()> {
    let status = answer.trailers.get("grpc-status").and_then(|status| status.to_str().ok());
    ensure!(status == Some("0"), "etcd answered {} {:?}", answer.status, answer.trailers);
    Ok(())
}
