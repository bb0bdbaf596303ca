//! What the server answers.
use super::logs::{LogOptions, LogStream, read_log};
use super::{Caller, Tunnels, may_call, metrics, streams};
use crate::agent::Registry;
use crate::container_config::{log_dir_name, log_path};
use crate::metrics::Metrics;
use axum::body::Body;
use axum::extract::{Path, Query, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use client::Informer;
use client::k8s_openapi::api::core::v1 as core;
use cri::{ImageService, RuntimeService};
use futures::{StreamExt, TryStreamExt};
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use machinery::ambient::Ambient;
use machinery::status::Status;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest file that is imported. The largest guests known are tens of megabytes.
const MAX_IMPORT_BYTES: u64 = 512 << 20;

/// What the routes need.
pub struct State {
    pub registry: Registry,
    pub pods: Informer<core::Pod>,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub ambient: Ambient,
    pub logs_dir: PathBuf,
    pub node_name: String,
    pub metrics: Arc<Metrics>,
    pub tunnels: Tunnels,
}

/// The routes, behind a check of the caller.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/metrics", get(metrics::kubelet))
        .route("/metrics/resource", get(metrics::resource))
        .route("/metrics/cadvisor", get(metrics::cadvisor))
        .route("/stats/summary", get(metrics::summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(streams::exec).post(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(streams::attach).post(streams::attach))
        .route("/stdin/{namespace}/{pod}/{container}", post(stdin))
        .route("/images/import", post(import))
        .route("/images/pull", post(pull))
        .fallback(|| async { refuse(Status::no_such_path()) })
        .layer(Extension(Arc::new(state)))
        .layer(from_fn(authorize))
}

pub(super) fn refuse(status: Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(status.to_value())).into_response()
}

async fn authorize(request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    match caller.0 {
        None => refuse(Status::unauthorized()),
        Some(peer) if may_call(&peer) => next.run(request).await,
        Some(peer) => refuse(Status::forbidden(
            None,
            "",
            format!(
                "Forbidden (user={}, verb={}, resource=nodes)",
                peer.common_name,
                request.method().as_str().to_ascii_lowercase()
            ),
        )),
    }
}

async fn pods(Extension(state): Extension<Arc<State>>) -> Response {
    let items: Vec<_> = state.pods.list();
    let items: Vec<serde_json::Value> =
        items.iter().filter_map(|p| serde_json::to_value(&**p).ok()).collect();
    axum::Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
        .into_response()
}

/// `kubectl logs` as the API server passes it on (core/v1 PodLogOptions).
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

/// A boolean as Kubernetes' query parameters have it: `follow`, `follow=1`, `follow=true`.
fn on(value: &Option<String>) -> bool {
    value.as_deref().is_some_and(|v| !matches!(v, "false" | "0" | "False" | "f" | "F" | "FALSE"))
}

fn options(q: &LogQuery, now: Timestamp) -> Result<LogOptions, Status> {
    let positive = |name: &str, value: Option<i64>, least: i64| match value {
        Some(v) if v < least => Err(Status::bad_request(format!("{name} must be at least {least}, not {v}"))),
        other => Ok(other.map(|v| v as u64)),
    };
    let since = match (&q.since_time, positive("sinceSeconds", q.since_seconds, 1)?) {
        (Some(_), Some(_)) => {
            return Err(Status::bad_request("at most one of sinceTime or sinceSeconds may be given"));
        }
        (Some(text), None) => {
            Some(text.parse::<Timestamp>().map_err(|e| Status::bad_request(format!("sinceTime: {e}")))?)
        }
        (None, Some(seconds)) => now.checked_sub(SignedDuration::from_secs(seconds as i64)).ok(),
        (None, None) => None,
    };
    let stream = match q.stream.as_deref() {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(LogStream::Stdout),
        Some("Stderr") => Some(LogStream::Stderr),
        Some(other) => {
            return Err(Status::bad_request(format!("stream must be All, Stdout or Stderr, not {other:?}")));
        }
    };
    Ok(LogOptions {
        stream,
        follow: on(&q.follow),
        timestamps: on(&q.timestamps),
        tail_lines: positive("tailLines", q.tail_lines, 0)?,
        since,
        limit_bytes: positive("limitBytes", q.limit_bytes, 1)?,
    })
}

/// Which run of a container is meant, or why there is none to show.
fn run_of(status: &core::PodStatus, pod: &str, container: &str, previous: bool) -> Result<u32, String> {
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let Some(c) = all.into_iter().find(|c| c.name == container) else {
        return Err(format!("container {container:?} in pod {pod:?} is not available"));
    };
    let state = c.state.clone().unwrap_or_default();
    let last = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let count = u32::try_from(c.restart_count).unwrap_or(0);
    let waiting_again = state.waiting.is_some() && last.is_some();
    match previous {
        // While it waits to run again, the run before is the last one there was.
        true if waiting_again => Ok(count),
        true if last.is_some() && count > 0 => Ok(count - 1),
        true => Err(format!("previous terminated container {container:?} in pod {pod:?} not found")),
        false if state.running.is_some() || state.terminated.is_some() || waiting_again => Ok(count),
        false => {
            let w = state.waiting.unwrap_or_default();
            let why = match (w.reason, w.message) {
                (Some(r), Some(m)) if r.starts_with("Err") || r.ends_with("BackOff") => {
                    format!("trying and failing to pull image: {r}: {m}")
                }
                (Some(r), _) => r,
                _ => "ContainerCreating".to_owned(),
            };
            Err(format!("container {container:?} in pod {pod:?} is waiting to start: {why}"))
        }
    }
}

/// Whether a run may still write.
fn still_running(status: &core::PodStatus, container: &str, attempt: u32) -> bool {
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|c| c.name == container).is_some_and(|c| {
        u32::try_from(c.restart_count).is_ok_and(|n| n == attempt)
            && c.state.as_ref().is_some_and(|s| s.running.is_some())
    })
}

async fn container_logs(
    Extension(state): Extension<Arc<State>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let options = match options(&query, state.ambient.now()) {
        Ok(o) => o,
        Err(status) => return refuse(status),
    };
    let Some(entry) = state.registry.get(&namespace, &pod) else {
        return refuse(Status::new(404, "NotFound", format!("pod {pod:?} does not exist on this node")));
    };
    let attempt = match run_of(&entry.mailbox.shown(), &pod, &container, on(&query.previous)) {
        Ok(attempt) => attempt,
        Err(why) => return refuse(Status::bad_request(why)),
    };
    let path =
        state.logs_dir.join(log_dir_name(&namespace, &pod, &entry.uid)).join(log_path(&container, attempt));
    let running = move || still_running(&entry.mailbox.shown(), &container, attempt);
    match read_log(path, options, running).await {
        Ok(stream) => ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response(),
        Err(e) => refuse(Status::internal(e)),
    }
}

#[derive(Deserialize)]
struct ImportQuery {
    #[serde(rename = "ref")]
    reference: String,
}

async fn import(
    Extension(state): Extension<Arc<State>>,
    Query(q): Query<ImportQuery>,
    body: Body,
) -> Response {
    let mut taken = 0u64;
    let file = body
        .into_data_stream()
        .map_err(|e| cri::Error::Internal(format!("the upload broke off: {e}")))
        .map(move |part| {
            let part = part?;
            taken += part.len() as u64;
            if taken > MAX_IMPORT_BYTES {
                return Err(cri::Error::ResourceExhausted(format!(
                    "the file is larger than the {MAX_IMPORT_BYTES} bytes that may be imported"
                )));
            }
            Ok(part)
        })
        .boxed();
    match state.images.import_image(q.reference, file).await {
        Ok(answer) => {
            axum::Json(json!({ "reference": answer.reference, "id": answer.image_ref })).into_response()
        }
        Err(e) => refuse_for(&e),
    }
}

/// A name and a password for the registry, in the body of a request to pull.
#[derive(Deserialize)]
struct PullCredential {
    username: String,
    password: String,
}

/// The longest body that can hold a credential.
const MAX_CREDENTIAL_BYTES: usize = 64 << 10;

/// Pulls an image and compiles it, before any pod wants it.
async fn pull(Extension(state): Extension<Arc<State>>, Query(q): Query<ImportQuery>, body: Body) -> Response {
    let body = match axum::body::to_bytes(body, MAX_CREDENTIAL_BYTES).await {
        Ok(body) => body,
        Err(e) => return refuse(Status::bad_request(format!("the credential cannot be read: {e}"))),
    };
    let auth = match body.is_empty() {
        true => None,
        false => match serde_json::from_slice::<PullCredential>(&body) {
            Ok(PullCredential { username, password }) => {
                Some(cri::AuthConfig { username, password, ..Default::default() })
            }
            // Not the error: it may quote what is secret.
            Err(_) => {
                let text = "the body is not {\"username\": …, \"password\": …}";
                return refuse(Status::bad_request(text));
            }
        },
    };
    let annotations = [(cri::PRECOMPILE_ANNOTATION.to_owned(), "true".to_owned())].into();
    let image = cri::ImageSpec { image: q.reference, annotations, ..Default::default() };
    let request = cri::PullImageRequest { image: Some(image), auth, sandbox_config: None };
    match state.images.pull_image(request).await {
        Ok(answer) => axum::Json(json!({ "id": answer.image_ref })).into_response(),
        Err(e) => refuse_for(&e),
    }
}

/// The runtime's error as the API says it.
pub(super) fn refuse_for(error: &cri::Error) -> Response {
    let text = error.to_string();
    refuse(match error {
        cri::Error::InvalidArgument(_) | cri::Error::FailedPrecondition(_) => Status::bad_request(text),
        cri::Error::ResourceExhausted(_) => Status::too_large(text),
        cri::Error::Unimplemented(_) => Status::new(501, "NotImplemented", text),
        cri::Error::Unavailable(_) => Status::unavailable(text),
        _ => Status::internal(text),
    })
}

/// The runtime's id of a running container.
pub(super) fn running_id(status: &core::PodStatus, container: &str) -> Option<String> {
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let found = all.into_iter().find(|c| c.name == container)?;
    found.state.as_ref()?.running.as_ref()?;
    let id = found.container_id.as_deref()?;
    Some(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
}

/// Writes the request's body to a container's standard input, as fast as the program takes it; answers when the
/// body has ended.
async fn stdin(
    Extension(state): Extension<Arc<State>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    body: Body,
) -> Response {
    let Some(entry) = state.registry.get(&namespace, &pod) else {
        return refuse(Status::new(404, "NotFound", format!("pod {pod:?} does not exist on this node")));
    };
    let Some(id) = running_id(&entry.mailbox.shown(), &container) else {
        return refuse(Status::bad_request(format!("container {container:?} in pod {pod:?} does not run")));
    };
    let input = body
        .into_data_stream()
        .map_err(|e| cri::Error::Internal(format!("standard input broke off: {e}")))
        .boxed();
    match state.runtime.send_input(id, input).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(e) => refuse_for(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(v: serde_json::Value) -> core::PodStatus {
        serde_json::from_value(json!({ "containerStatuses": [v] })).unwrap()
    }

    #[test]
    fn the_run_meant_is_found_or_the_reason_is_given() {
        let c = |state: serde_json::Value, last: serde_json::Value, n: i32| {
            status(json!({ "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": n,
                "state": state, "lastState": last }))
        };
        let running = c(json!({ "running": {} }), json!({}), 0);
        assert_eq!(run_of(&running, "p", "c", false), Ok(0));
        assert_eq!(
            run_of(&running, "p", "c", true).unwrap_err(),
            "previous terminated container \"c\" in pod \"p\" not found"
        );
        let again = c(json!({ "running": {} }), json!({ "terminated": { "exitCode": 1 } }), 3);
        assert_eq!(run_of(&again, "p", "c", true), Ok(2));
        let crashed = c(
            json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
            json!({ "terminated": { "exitCode": 1 } }),
            3,
        );
        assert_eq!((run_of(&crashed, "p", "c", false), run_of(&crashed, "p", "c", true)), (Ok(3), Ok(3)));
        let making = c(json!({ "waiting": { "reason": "ContainerCreating" } }), json!({}), 0);
        assert_eq!(
            run_of(&making, "p", "c", false).unwrap_err(),
            "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
        );
    }

    #[test]
    fn input_goes_to_a_container_that_runs_and_to_no_other() {
        let c = |state: serde_json::Value| {
            status(json!({ "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": "dhow://abc", "state": state }))
        };
        assert_eq!(running_id(&c(json!({ "running": {} })), "c").as_deref(), Some("abc"));
        assert_eq!(running_id(&c(json!({ "running": {} })), "other"), None);
        assert_eq!(running_id(&c(json!({ "terminated": { "exitCode": 0 } })), "c"), None);
    }

    #[test]
    fn the_options_of_kubectl_logs_are_read_and_nonsense_is_refused() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let read = |text: &str| {
            let q: LogQuery = serde_json::from_str(text).unwrap();
            options(&q, now)
        };
        let o = read(
            r#"{"follow":"true","tailLines":5,"sinceSeconds":30,"timestamps":"true","stream":"Stderr"}"#,
        );
        assert_eq!(
            o.unwrap(),
            LogOptions {
                stream: Some(LogStream::Stderr),
                follow: true,
                timestamps: true,
                tail_lines: Some(5),
                since: Some("2026-01-01T00:00:30Z".parse().unwrap()),
                limit_bytes: None
            }
        );
        assert!(read(r#"{"tailLines":-1}"#).is_err());
        assert!(read(r#"{"limitBytes":0}"#).is_err());
        assert!(read(r#"{"stream":"stderr"}"#).is_err());
        assert!(read(r#"{"sinceTime":"yesterday"}"#).is_err());
    }

    #[test]
    fn only_the_api_server_and_administrators_may_call() {
        let peer = |cn: &str, o: &[&str]| pki::PeerIdentity {
            common_name: cn.into(),
            organizations: o.iter().map(|s| s.to_string()).collect(),
        };
        assert!(may_call(&peer("kube-apiserver", &[])));
        assert!(may_call(&peer("kubernetes-admin", &["system:masters"])));
        assert!(!may_call(&peer("system:node:n1", &["system:nodes"])));
    }
}
