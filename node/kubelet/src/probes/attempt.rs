//! One question to a container: HTTP, TCP, a command, gRPC.
use super::{Outcome, Prober};
use bytes::Bytes;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use cri::RuntimeService;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// The most of an HTTP answer that is read (upstream `maxRespBodyLength`: 10 KiB).
const MAX_BODY: usize = 10 * 1024;
/// The most of a command's output that an event shows (upstream `maxProbeMessageLength`).
const MAX_MESSAGE: usize = 1024;

/// What the runtime may take beside the command (kubelet `--runtime-request-timeout`: 2 minutes).
const RUNTIME_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// What a question needs to know of the container.
#[derive(Clone)]
pub struct Target {
    pub prober: Arc<dyn Prober>,
    pub runtime: Arc<dyn RuntimeService>,
    pub container_id: String,
    pub pod_ip: String,
    /// The container's named ports.
    pub ports: Vec<(String, i32)>,
}

/// What to ask: a probe's or a lifecycle hook's handler.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub exec: Option<core::ExecAction>,
    pub http: Option<core::HTTPGetAction>,
    pub tcp: Option<core::TCPSocketAction>,
    pub grpc: Option<core::GRPCAction>,
    /// Any answer over HTTP will do: a hook tells a program something, it does not ask how it is.
    pub any_status: bool,
}

impl From<&core::Probe> for Question {
    fn from(p: &core::Probe) -> Self {
        Self {
            exec: p.exec.clone(),
            http: p.http_get.clone(),
            tcp: p.tcp_socket.clone(),
            grpc: p.grpc.clone(),
            any_status: false,
        }
    }
}

impl From<&core::LifecycleHandler> for Question {
    fn from(h: &core::LifecycleHandler) -> Self {
        Self {
            exec: h.exec.clone(),
            http: h.http_get.clone(),
            tcp: h.tcp_socket.clone(),
            grpc: None,
            any_status: true,
        }
    }
}

/// Asks once.
pub async fn ask(question: &Question, target: &Target, timeout: Duration) -> Outcome {
    if let Some(exec) = &question.exec {
        return ask_exec(exec, target, timeout).await;
    }
    let asked = async {
        if let Some(http) = &question.http {
            ask_http(http, target, question.any_status).await
        } else if let Some(tcp) = &question.tcp {
            ask_tcp(tcp, target).await
        } else if let Some(grpc) = &question.grpc {
            super::grpc::ask_grpc(grpc, &target.pod_ip).await
        } else {
            Outcome::Unknown("missing probe handler".into())
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(outcome) => outcome,
        Err(_) if question.grpc.is_some() => Outcome::Failure(format!(
            "timeout: failed to connect service within {timeout:?}: context deadline exceeded"
        )),
        Err(_) => Outcome::Failure(format!(
            "{}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            describe(question, target)
        )),
    }
}

fn describe(question: &Question, target: &Target) -> String {
    match (&question.http, &question.tcp) {
        (Some(http), _) => match http_target(http, target) {
            Ok(t) => format!("Get {:?}", t.url()),
            Err(e) => e,
        },
        (_, Some(tcp)) => {
            let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.pod_ip);
            format!("dial tcp {host}:{}", port(&tcp.port, target).unwrap_or_default())
        }
        _ => String::new(),
    }
}

/// A port by number or by the name the container gives it.
fn port(port: &IntOrString, target: &Target) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            target.ports.iter().find(|(n, _)| n == name).map(|(_, p)| *p).or_else(|| name.parse().ok())
        }
    };
    match number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
        Some(n) => Ok(n),
        None => Err(format!("couldn't find port: {port:?}")),
    }
}

struct HttpTarget {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl HttpTarget {
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

fn http_target(http: &core::HTTPGetAction, target: &Target) -> Result<HttpTarget, String> {
    let path = http.path.clone().unwrap_or_default();
    Ok(HttpTarget {
        tls: http.scheme.as_deref() == Some("HTTPS"),
        host: http.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone()),
        port: port(&http.port, target)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
    })
}

async fn ask_http(http: &core::HTTPGetAction, target: &Target, any_status: bool) -> Outcome {
    let to = match http_target(http, target) {
        Ok(to) => to,
        Err(e) => return Outcome::Unknown(e),
    };
    let mut request = http::Request::get(&to.path)
        .header("host", to.authority())
        .header("user-agent", "kube-probe/1.36")
        .header("accept", "*/*")
        .header("connection", "close");
    for h in http.http_headers.iter().flatten() {
        let name = h.name.to_ascii_lowercase();
        if let Some(old) =
            request.headers_mut().filter(|_| matches!(name.as_str(), "host" | "user-agent" | "accept"))
        {
            old.remove(&name);
        }
        // An empty Accept asks for none.
        if !(name == "accept" && h.value.is_empty()) {
            request = request.header(name, &h.value);
        }
    }
    let request = match request.body(Empty::<Bytes>::new()) {
        Ok(r) => r,
        Err(e) => return Outcome::Unknown(e.to_string()),
    };
    let failed = |e: &dyn std::fmt::Display| Outcome::Failure(format!("Get {:?}: {e}", to.url()));
    let stream = match TcpStream::connect((to.host.as_str(), to.port)).await {
        Ok(s) => s,
        Err(e) => return failed(&format_args!("dial tcp {}: connect: {e}", to.authority())),
    };
    let _ = stream.set_nodelay(true);
    let response = if to.tls {
        match super::tls::connect(&to.host, stream).await {
            Ok(stream) => exchange(TokioIo::new(stream), request).await,
            Err(e) => return failed(&e),
        }
    } else {
        exchange(TokioIo::new(stream), request).await
    };
    match response {
        // Redirects are taken as an answer, as upstream does for those to another host.
        Ok(status) if any_status || (200..400).contains(&status) => Outcome::Success,
        Ok(status) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(e) => failed(&e),
    }
}

/// One request over one connection; the connection ends with the answer.
async fn exchange<S>(io: S, request: http::Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        // The beginning of the body is taken so that the server sees its answer read.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok(status)
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

async fn ask_tcp(tcp: &core::TCPSocketAction, target: &Target) -> Outcome {
    let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.pod_ip.clone());
    let port = match port(&tcp.port, target) {
        Ok(p) => p,
        Err(e) => return Outcome::Unknown(e),
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Outcome::Success,
        Err(e) => Outcome::Failure(format!("dial tcp {host}:{port}: connect: {e}")),
    }
}

/// The runtime ends the command in time; one that does not answer is not waited for much longer.
async fn ask_exec(exec: &core::ExecAction, target: &Target, timeout: Duration) -> Outcome {
    let request = cri::ExecSyncRequest {
        container_id: target.container_id.clone(),
        cmd: exec.command.clone().unwrap_or_default(),
        timeout: timeout.as_secs().max(1) as i64,
    };
    let asked = tokio::time::timeout(timeout + RUNTIME_REQUEST_TIMEOUT, target.runtime.exec_sync(request));
    let Ok(answer) = asked.await else {
        return Outcome::Failure("command timed out: the container runtime did not answer".into());
    };
    match answer {
        Ok(r) if r.exit_code == 0 => Outcome::Success,
        Ok(r) => {
            let mut text = String::from_utf8_lossy(&r.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&r.stderr));
            if let Some((end, _)) = text.char_indices().nth(MAX_MESSAGE) {
                text.truncate(end);
            }
            Outcome::Failure(text)
        }
        Err(cri::Error::DeadlineExceeded(e)) => Outcome::Failure(format!("command timed out: {e}")),
        Err(e) => Outcome::Unknown(e.to_string()),
    }
}
