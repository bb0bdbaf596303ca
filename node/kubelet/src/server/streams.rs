//! `/exec` and `/attach`: the runtime says where the streams are, and the caller's connection is passed on there.
use super::routes::{State, refuse, refuse_for, running_id};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cri::{AttachRequest, ExecRequest};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use machinery::status::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections passed on at once, each some 64 kB of buffers. Our runtime serves fewer; another may serve more.
const MAX_TUNNELS: usize = 512;
/// How long the runtime's streaming server may take to answer. It is on this machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// What a streaming server may say of a refusal.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// The connections that are passed on.
#[derive(Clone)]
pub struct Tunnels {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    places: Arc<Semaphore>,
}

impl Tunnels {
    /// Those run in `tasks` and end with `shutdown`.
    pub fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { tasks, shutdown, places: Arc::new(Semaphore::new(MAX_TUNNELS)) }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(work).await;
        });
    }
}

/// Which streams are asked for, by the kubelet's names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn options(query: Vec<(String, String)>) -> Options {
    let mut options = Options::default();
    for (name, value) in query {
        let on = matches!(value.as_str(), "1" | "true");
        match name.as_str() {
            "command" => options.command.push(value),
            "input" => options.stdin = on,
            "output" => options.stdout = on,
            "error" => options.stderr = on,
            "tty" => options.tty = on,
            _ => {}
        }
    }
    // A terminal has one output.
    options.stderr &= !options.tty;
    options
}

pub(super) async fn exec(
    Extension(state): Extension<Arc<State>>,
    Path(at): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let found = find(&state, &at);
    let Options { command, stdin, stdout, stderr, tty } = options(query);
    let asked = match found {
        Ok(container_id) => {
            let exec = ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr };
            state.runtime.exec(exec).await.map(|answer| answer.url)
        }
        Err(status) => return refuse(status),
    };
    pass_on(&state, asked, request).await
}

pub(super) async fn attach(
    Extension(state): Extension<Arc<State>>,
    Path(at): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let found = find(&state, &at);
    let Options { stdin, stdout, stderr, tty, .. } = options(query);
    let asked = match found {
        Ok(container_id) => {
            let attach = AttachRequest { container_id, stdin, tty, stdout, stderr };
            state.runtime.attach(attach).await.map(|answer| answer.url)
        }
        Err(status) => return refuse(status),
    };
    pass_on(&state, asked, request).await
}

/// The runtime's id of a container that runs.
fn find(state: &State, (namespace, pod, container): &(String, String, String)) -> Result<String, Status> {
    let Some(entry) = state.registry.get(namespace, pod) else {
        return Err(Status::new(404, "NotFound", format!("pod {pod:?} does not exist on this node")));
    };
    running_id(&entry.mailbox.shown(), container)
        .ok_or_else(|| Status::bad_request(format!("container {container:?} in pod {pod:?} does not run")))
}

async fn pass_on(state: &State, url: Result<String, cri::Error>, mut request: Request) -> Response {
    let url = match url {
        Ok(url) => url,
        Err(error) => return refuse_for(&error),
    };
    let Some(client) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refuse(Status::bad_request("Upgrade request required"));
    };
    let Ok(place) = state.tunnels.places.clone().try_acquire_owned() else {
        let text = format!("{MAX_TUNNELS} commands are at work on this node already; try again later");
        return refuse(Status::unavailable(text));
    };
    let handshake = streaming::handshake(request.headers());
    let opening = open(&state.tunnels, &url, request.method().clone(), handshake);
    let opened = tokio::time::timeout(ANSWER_LIMIT, opening).await;
    match opened.unwrap_or_else(|_| Err(Status::internal("the runtime's streaming server does not answer"))) {
        Ok((server, headers)) => {
            carry(&state.tunnels, client, server, place);
            (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
        }
        Err(status) => refuse(status),
    }
}

/// Asks the runtime's streaming server for the upgrade.
async fn open(
    tunnels: &Tunnels,
    url: &str,
    method: Method,
    handshake: HeaderMap,
) -> Result<(OnUpgrade, HeaderMap), Status> {
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        Status::internal(format!("{what} the runtime's streaming server: {error}"))
    };
    let uri = url.parse::<Uri>().map_err(|e| broken("the address of", &e))?;
    let authority = match uri.authority() {
        Some(authority) if uri.scheme_str() == Some("http") => authority.clone(),
        _ => return Err(Status::internal(format!("the runtime's streams are at {url}, which is not http"))),
    };
    let stream = TcpStream::connect(authority.as_str()).await.map_err(|e| broken("connecting to", &e))?;
    // Keys typed must not wait for each other (Nagle).
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken("speaking to", &e))?;
    tunnels.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the runtime's streaming server ended");
        }
    });
    let mut request = http::Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|e| broken("the address of", &e))?;
    *request.headers_mut() = handshake;
    let host = HeaderValue::try_from(authority.as_str()).map_err(|e| broken("the address of", &e))?;
    request.headers_mut().insert(header::HOST, host);
    let mut answer = sender.send_request(request).await.map_err(|e| broken("asking", &e))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let server = hyper::upgrade::on(&mut answer);
        return Ok((server, streaming::handshake(answer.headers())));
    }
    let status = answer.status();
    let text = Limited::new(answer.into_body(), MAX_REFUSAL_BYTES).collect().await;
    let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(match status {
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => Status::bad_request(text),
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(text),
        _ => Status::internal(format!("the runtime's streaming server answered {status}: {text}")),
    })
}

fn carry(tunnels: &Tunnels, client: OnUpgrade, server: OnUpgrade, place: OwnedSemaphorePermit) {
    tunnels.spawn(async move {
        let _held = place;
        if let Err(error) = streaming::tunnel(client, server).await {
            tracing::debug!(%error, "streams of a container broke off");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_by_the_kubelets_names_and_a_terminal_has_one_output() {
        let read = |pairs: &[(&str, &str)]| {
            options(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
        };
        let command = vec!["sh".to_owned(), "-c".to_owned()];
        assert_eq!(
            read(&[("command", "sh"), ("command", "-c"), ("input", "1"), ("output", "1"), ("error", "1")]),
            Options { command, stdin: true, stdout: true, stderr: true, tty: false }
        );
        let tty = read(&[("output", "1"), ("error", "1"), ("tty", "1")]);
        assert!(tty.stdout && tty.tty && !tty.stderr && !tty.stdin);
    }
}
