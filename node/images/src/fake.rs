//! A small registry in memory, for tests: plain HTTP on a loopback port, as much of the distribution API as pulling
//! and pushing need, and switches for what goes wrong with registries.
use crate::artifact::digest_of;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The registry; it stops with its last clone.
#[derive(Clone)]
pub struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: Arc<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Bytes>,
    /// `repository:tag` and `repository@digest` → media type and body.
    manifests: BTreeMap<String, (String, Bytes)>,
    login: Option<(String, String)>,
    /// Blobs sent with another content.
    corrupt: BTreeMap<String, Bytes>,
    requests: Vec<String>,
    uploads: u64,
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

impl FakeRegistry {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state.clone()));
        Ok(Self { address, state, _serving: Arc::new(serving) })
    }

    /// `127.0.0.1:port/name`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// From now on only this user gets in.
    pub fn require_login(&self, username: &str, password: &str) {
        self.state.lock().login = Some((username.to_string(), password.to_string()));
    }

    /// Adds a blob; gives its digest.
    pub fn add_blob(&self, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.state.lock().blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Adds a manifest under a tag and its digest; gives the digest.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> String {
        let body = body.into();
        let digest = digest_of(&body);
        let mut state = self.state.lock();
        state.manifests.insert(format!("{repository}:{tag}"), (media_type.to_string(), body.clone()));
        state.manifests.insert(format!("{repository}@{digest}"), (media_type.to_string(), body));
        digest
    }

    /// Sends `bytes` when asked for the blob `digest`.
    pub fn corrupt(&self, digest: &str, bytes: impl Into<Bytes>) {
        self.state.lock().corrupt.insert(digest.to_string(), bytes.into());
    }

    /// From now on blobs are sent only as permits are added to the semaphore given back.
    pub fn hold_blobs(&self) -> Arc<tokio::sync::Semaphore> {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        self.state.lock().gate = Some(gate.clone());
        gate
    }

    /// `METHOD path` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let state = state.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(state, request).await) }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no error of the registry's.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn reply(status: StatusCode, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::try_from(*name), http::HeaderValue::try_from(*value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn error(status: StatusCode, code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"fake registry","detail":null}}]}}"#);
    reply(status, &[("content-type", "application/json")], body)
}

fn allowed(login: &Option<(String, String)>, request: &Request<Incoming>) -> bool {
    let Some((username, password)) = login else { return true };
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let credential =
        given.and_then(|value| value.strip_prefix("Basic ")).map(crate::Credential::from_basic_auth);
    let wanted = crate::Credential::Basic { username: username.clone(), password: password.clone() };
    matches!(credential, Some(Ok(credential)) if credential == wanted)
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let query = request.uri().query().unwrap_or_default().to_string();
    {
        let mut state = state.lock();
        state.requests.push(format!("{method} {path}"));
        if !allowed(&state.login, &request) {
            let body =
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;
            return reply(StatusCode::UNAUTHORIZED, &[("www-authenticate", "Basic realm=\"fake\"")], body);
        }
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return error(StatusCode::NOT_FOUND, "NOT_FOUND") };
    if rest.is_empty() {
        return reply(StatusCode::OK, &[], "{}");
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        return manifest(&state, &method, repository, name, request).await;
    }
    if let Some((repository, _)) = rest.split_once("/blobs/uploads/") {
        return upload(&state, &method, repository, &query, request).await;
    }
    if let Some((_, digest)) = rest.split_once("/blobs/") {
        return blob(&state, &method, digest).await;
    }
    error(StatusCode::NOT_FOUND, "NOT_FOUND")
}

async fn manifest(
    state: &Mutex<State>,
    method: &Method,
    repository: &str,
    name: &str,
    request: Request<Incoming>,
) -> Answer {
    let key =
        if name.contains(':') { format!("{repository}@{name}") } else { format!("{repository}:{name}") };
    if method == Method::PUT {
        let media_type =
            request.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = media_type.to_string();
        let Ok(body) = request.into_body().collect().await else {
            return error(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
        };
        let body = body.to_bytes();
        let digest = digest_of(&body);
        let mut state = state.lock();
        state.manifests.insert(key, (media_type.clone(), body.clone()));
        state.manifests.insert(format!("{repository}@{digest}"), (media_type, body));
        let location = format!("/v2/{repository}/manifests/{digest}");
        return reply(
            StatusCode::CREATED,
            &[("location", &location), ("docker-content-digest", &digest)],
            "",
        );
    }
    match state.lock().manifests.get(&key).cloned() {
        Some((media_type, body)) => {
            let digest = digest_of(&body);
            reply(StatusCode::OK, &[("content-type", &media_type), ("docker-content-digest", &digest)], body)
        }
        None => error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
    }
}

async fn blob(state: &Mutex<State>, method: &Method, digest: &str) -> Answer {
    let gate = state.lock().gate.clone().filter(|_| method == Method::GET);
    if let Some(gate) = gate
        && let Ok(permit) = gate.acquire().await
    {
        permit.forget();
    }
    let state = state.lock();
    match state.corrupt.get(digest).or_else(|| state.blobs.get(digest)).cloned() {
        Some(bytes) => reply(StatusCode::OK, &[("content-type", "application/octet-stream")], bytes),
        None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
    }
}

async fn upload(
    state: &Mutex<State>,
    method: &Method,
    repository: &str,
    query: &str,
    request: Request<Incoming>,
) -> Answer {
    if method == Method::POST {
        let mut state = state.lock();
        state.uploads += 1;
        let location = format!("/v2/{repository}/blobs/uploads/{}", state.uploads);
        return reply(StatusCode::ACCEPTED, &[("location", &location)], "");
    }
    let wanted = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).unwrap_or_default();
    let wanted = wanted.replace("%3A", ":");
    let Ok(body) = request.into_body().collect().await else {
        return error(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID");
    };
    let body = body.to_bytes();
    if method != Method::PUT || digest_of(&body) != wanted {
        return error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
    state.lock().blobs.insert(wanted.clone(), body);
    let location = format!("/v2/{repository}/blobs/{wanted}");
    reply(StatusCode::CREATED, &[("location", &location)], "")
}
