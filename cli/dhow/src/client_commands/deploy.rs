//! `dhow deploy`.
use crate::client_commands::function::{self, LOOK_AGAIN, condition, shares};
use crate::client_commands::{import, run};
use crate::connect::{Cluster, Connection, explain};
use crate::project::Project;
use anyhow::{Context, Result, bail};
use client::dhow::v1alpha1::{Function, FunctionSpec, FunctionStatus, LATEST, Revision, TrafficStatus};
use client::kube::api::Api;
use http::Request;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Make a program that answers HTTP reachable under a URL
///
/// Makes or changes a Function, waits until the new revision serves, and prints its URL. A change of what runs makes a
/// revision; `dhow revisions` lists them, `dhow rollback` goes back to one.
///
/// Examples:
///   dhow deploy ./hello.wasm
///   dhow deploy registry.example/hello:2 --name hello --replicas 3
///   dhow deploy                               # builds and deploys the folder with a dhow.toml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// An image of a registry, a .wasm file, or a folder with a dhow.toml [default: this folder]
    image: Option<String>,
    /// The function's name [default: the image's, or that of dhow.toml]
    #[arg(long)]
    name: Option<String>,
    /// A variable of its environment; may be given again [default: none, or what it has]
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// How many pods serve it [default: 1, or what it has]
    #[arg(long)]
    replicas: Option<u32>,
    /// Seconds to wait until it serves
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

/// How often, and after how long each time, it is looked whether queues are read: three seconds in all.
const QUEUE_LOOKS: usize = 30;
const QUEUE_LOOK: Duration = Duration::from_millis(100);

/// What is to be deployed.
pub(crate) struct Wish {
    /// An image of a registry, or a file.
    image: String,
    name: String,
    /// Fields of the Function's spec; what is not named stays as it is.
    spec: Map<String, Value>,
}

impl Wish {
    /// The function of a project, of which `file` was built.
    pub(crate) fn of_project(project: &Project, file: &Path) -> Self {
        Self {
            image: file.to_string_lossy().into_owned(),
            name: project.manifest.name.clone(),
            spec: project.manifest.function.clone(),
        }
    }

    async fn of_args(args: &Args) -> Result<Self> {
        let word = args.image.as_deref().unwrap_or(".");
        let folder = Path::new(word);
        let mut wish = if folder.is_dir() {
            let project = Project::open(folder)?;
            Self::of_project(&project, &project.build().await?)
        } else {
            Self { image: word.to_owned(), name: import::base_name(word), spec: Map::new() }
        };
        if let Some(name) = &args.name {
            wish.name.clone_from(name);
        }
        let env = run::env(&args.env)?;
        if !env.is_empty() {
            wish.spec.insert("env".into(), json!(env));
        }
        if let Some(replicas) = args.replicas {
            wish.spec.insert("replicas".into(), json!(replicas));
        }
        Ok(wish)
    }
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let wish = Wish::of_args(&args).await?;
    let connection = cluster.connect().await?;
    let served = deploy(&connection, wish, args.timeout).await?;
    eprintln!("{}", served.note);
    println!("{}", served.url);
    Ok(())
}

/// What became of a deployment.
pub(crate) struct Served {
    pub(crate) url: String,
    /// Which revision serves.
    pub(crate) note: String,
    pub(crate) took: Took,
}

/// How long each step took.
pub(crate) struct Took {
    /// Until every node had the image.
    sent: Duration,
    /// Until the API server had the function.
    written: Duration,
    /// Until its status said that the new revision serves: it was scheduled, compiled, started and given the traffic.
    started: Duration,
    /// Until the gateway had an answer of it.
    answered: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [sent, written, started, answered] =
            [self.sent, self.written, self.started, self.answered].map(|part| part.as_millis());
        let all = sent + written + started + answered;
        write!(f, "{all} ms (sent {sent}, written {written}, started {started}, answered {answered})")
    }
}

/// Makes or changes the function and waits until it serves.
pub(crate) async fn deploy(connection: &Connection, wish: Wish, timeout: u64) -> Result<Served> {
    let begun = Instant::now();
    let image = import::image(connection, &wish.image, import::Use::Http).await?;
    let sent = begun.elapsed();
    let name = wish.name;
    let mut spec = wish.spec;
    // Always: what the image before imported is not what this one does.
    if !spec.contains_key("imports") {
        spec.insert("imports".into(), json!(image.imports));
    }
    spec.insert("image".into(), json!(image.reference));
    let path = format!("/apis/dhow.dev/v1alpha1/namespaces/{}/functions", connection.namespace);
    let existing =
        connection.client.request::<Value>(Request::get(format!("{path}/{name}")).body(Vec::new())?).await;
    let request = match existing {
        Ok(_) => Request::patch(format!("{path}/{name}?fieldManager=dhow-deploy"))
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(serde_json::to_vec(&json!({ "spec": spec }))?)?,
        Err(e) if client::is_not_found(&e) => {
            let mut function =
                serde_json::to_value(Function::new(&connection.namespace, &name, FunctionSpec::default()))?;
            spec.retain(|_, value| !value.is_null());
            function["spec"] = Value::Object(spec);
            Request::post(format!("{path}?fieldManager=dhow-deploy"))
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(serde_json::to_vec(&function)?)?
        }
        Err(e) => return Err(explain(e)),
    };
    let function: Function = connection.client.request(request).await.map_err(explain)?;
    let written = begun.elapsed();
    let deployed = serving(connection, &name, function.metadata.generation);
    match tokio::time::timeout(Duration::from_secs(timeout), deployed).await {
        Ok(served) => {
            let (url, mut note, started) = served?;
            let started = started.duration_since(begun);
            let took = Took {
                sent,
                written: written.saturating_sub(sent),
                started: started.saturating_sub(written),
                answered: begun.elapsed().saturating_sub(started),
            };
            if let Some(why) = unread_queue(connection, &name).await? {
                note += &format!("\nbut not its queue: {why}; `dhow ls` shows when that changes");
            }
            Ok(Served { url, note, took })
        }
        Err(_) => {
            let status = function::get(connection, &name).await?.status.unwrap_or_default();
            let (_, _, message) = condition(&status.conditions, "Ready").unwrap_or_default();
            bail!(
                "{name} does not serve after {timeout} s: {message}; `dhow describe fn {name}` and `dhow get pods` \
                 say more"
            )
        }
    }
}

/// Why the messages of one of the function's queues are not delivered, if that is so after a moment.
async fn unread_queue(connection: &Connection, name: &str) -> Result<Option<String>> {
    let mut why = None;
    for _ in 0..QUEUE_LOOKS {
        let f = function::get(connection, name).await?;
        let conditions = f.status.map(|s| s.conditions).unwrap_or_default();
        match condition(&conditions, "TriggersReady") {
            _ if !f.spec.triggers.iter().any(|t| t.queue.is_some()) => return Ok(None),
            Some(("True", _, _)) => return Ok(None),
            Some((_, _, message)) => why = Some(message.to_owned()),
            None => {}
        }
        tokio::time::sleep(QUEUE_LOOK).await;
    }
    Ok(why)
}

/// Waits until the revision of this generation serves, or is ready and has no share of the traffic: gives the URL, what
/// is to be said, and when the status told of it.
async fn serving(
    connection: &Connection,
    name: &str,
    generation: Option<i64>,
) -> Result<(String, String, Instant)> {
    let mut told = None;
    loop {
        let f = function::get(connection, name).await?;
        let status = f.status.clone().unwrap_or_default();
        if status.observed_generation >= generation
            && let Some(own) = status.latest_created_revision.as_deref()
        {
            if let Some(why) = failure(connection, name, &status, own).await? {
                if status.traffic.is_empty() {
                    bail!("{why}; `dhow describe fn {name}` shows more, `dhow rm {name}` removes it");
                }
                bail!(
                    "{why}; {} serves as before; `dhow describe rev {own}` shows more",
                    shares(&status.traffic)
                );
            }
            if let (Some(note), Some(url)) = (note(name, &f, &status, own), status.url.clone()) {
                let told = *told.get_or_insert_with(Instant::now);
                if answers(&url).await {
                    return Ok((url, note, told));
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is to be said when the revision is where it shall be; `None` while it is not.
fn note(name: &str, f: &Function, status: &FunctionStatus, own: &str) -> Option<String> {
    let (ready, reason, _) = condition(&status.conditions, "Ready")?;
    let sends = |t: &TrafficStatus| t.revision == own;
    if f.spec.replicas_or_default() == 0 && reason == "ScaledToZero" {
        return None;
    }
    if ready == "True" && status.traffic.iter().any(sends) {
        return Some(format!("{name} serves {}", shares(&status.traffic)));
    }
    let is_ready = status.latest_ready_revision.as_deref() == Some(own);
    let pinned = !f.spec.traffic.is_empty() && !f.spec.traffic.iter().any(|t| t.revision == LATEST);
    (is_ready && pinned && !status.traffic.is_empty()).then(|| {
        format!(
            "{own} is ready, but gets no requests: {} serves, as `dhow rollback` or `dhow traffic` said; \
             `dhow traffic {name} latest=100` changes that",
            shares(&status.traffic)
        )
    })
}

/// Why the revision will never serve, if that is so.
async fn failure(
    connection: &Connection,
    name: &str,
    status: &FunctionStatus,
    own: &str,
) -> Result<Option<String>> {
    if let Some((_, reason, message)) = condition(&status.conditions, "Ready") {
        match reason {
            "NameTaken" => return Ok(Some(message.to_owned())),
            "ScaledToZero" => return Ok(Some("it has no replicas: `--replicas 1` starts it".to_owned())),
            _ => {}
        }
    }
    let revisions: Api<Revision> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let Some(revision) = revisions.get_opt(own).await.map_err(explain)? else { return Ok(None) };
    let conditions = revision.status.unwrap_or_default().conditions;
    Ok(match condition(&conditions, "Ready") {
        Some(("False", "Failed", why)) => Some(format!("{name} cannot start: {own}: {why}")),
        Some(("False", "NameTaken", why)) => Some(why.to_owned()),
        _ => None,
    })
}

/// Whether the gateway has a route and a pod for the URL. The host is `*.localhost`, so it is the gateway of this
/// machine that is asked (RFC 6761 section 6.3).
async fn answers(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else { return false };
    let ask = async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let request = Request::head("/")
            .header(http::header::HOST, format!("{host}:{port}"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .ok()?;
        tokio::select! {
            response = sender.send_request(request) => response.ok().map(|r| r.status().as_u16()),
            _ = connection => None,
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten();
    // 502 and 503 are the gateway's own: no pod, or not yet. A function's own 404 means that it answers, the
    // gateway's that it has no route; both come without a body here, so a route is asked for once more by GET.
    matches!(status, Some(code) if code != 502 && code != 503 && code != 404)
        || (status == Some(404) && routed(host, port).await)
}

/// Whether a 404 is the function's own.
async fn routed(host: &str, port: u16) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        stream
            .write_all(
                format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await?;
        let mut text = Vec::new();
        stream.take(4096).read_to_end(&mut text).await?;
        anyhow::Ok(String::from_utf8_lossy(&text).contains("no function or service answers"))
    };
    !tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|r| r.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_deployment_follows_the_traffic() {
        let at = |ready: &str, serving: &str, latest_ready: &str| -> FunctionStatus {
            serde_json::from_value(json!({
                "latestReadyRevision": latest_ready,
                "traffic": [{ "revision": serving, "percent": 100 }],
                "conditions": [{ "type": "Ready", "status": ready, "reason": "r", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z" }]
            }))
            .expect("a status")
        };
        let mut f = Function::new("default", "f", FunctionSpec::default());
        let told = |f: &Function, status: FunctionStatus| note("f", f, &status, "f-r2");
        assert_eq!(told(&f, at("False", "f-r1", "f-r1")), None);
        assert_eq!(
            told(&f, at("True", "f-r1", "f-r1")),
            None,
            "the old one serves, the new one is on its way"
        );
        assert_eq!(told(&f, at("True", "f-r2", "f-r2")).as_deref(), Some("f serves f-r2 100 %"));
        f.spec.traffic =
            serde_json::from_value(json!([{ "revision": "f-r1", "percent": 100 }])).expect("traffic");
        assert_eq!(told(&f, at("True", "f-r1", "f-r1")), None, "it may still fail");
        let told = told(&f, at("True", "f-r1", "f-r2")).expect("a note");
        assert!(told.contains("f-r2 is ready") && told.contains("dhow traffic f latest=100"), "{told}");
    }
}
