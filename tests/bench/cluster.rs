//! `dhow up` of the run: in a folder of its own, on ports and address ranges of its own.
use crate::Plan;
use crate::address::free_port;
use crate::connection::{Connection, Door, Protocol};
use crate::guard::Guard;
use crate::processes;
use crate::watch::Watch;
use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// The longest a cluster may take until it is ready, and until it has ended.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    up: Child,
    /// From exec to the line that says so.
    pub(crate) ready_after: Duration,
    pub(crate) gateway_port: u16,
    door: Door,
    data: PathBuf,
    guard: Guard,
}

impl Cluster {
    pub(crate) async fn start(plan: &Plan, words: &[&str]) -> Result<Self> {
        let guard = Guard::new("bench");
        let data = guard.folder().join("data");
        let (port, gateway_port) = (free_port()?, free_port()?);
        let log = std::fs::File::create(guard.folder().join("up.log"))?;
        let mut command = Command::new(&plan.programs.dhow);
        command
            .args(["up", "--port", &port.to_string(), "--gateway-port", &gateway_port.to_string()])
            // Away from the ranges dhow takes by itself, in case one runs here already.
            .args(["--pod-cidr", "127.110.0.0/16", "--service-cluster-ip-range", "127.111.0.0/16"])
            .arg("--data-dir")
            .arg(&data)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let begin = Instant::now();
        let mut up = command.spawn().context("starting dhow up")?;
        let mut stdout = BufReader::new(up.stdout.take().context("its output")?);
        let mut line = String::new();
        loop {
            line.clear();
            let read = tokio::time::timeout(LIMIT, stdout.read_line(&mut line))
                .await
                .context("dhow up is not ready")??;
            if read == 0 {
                let said = std::fs::read_to_string(guard.folder().join("up.log")).unwrap_or_default();
                bail!("dhow up ended before it was ready: {}", said.trim());
            }
            if line.starts_with("dhow is ready") {
                break;
            }
        }
        let ready_after = begin.elapsed();
        // A pipe nobody reads would stop its writer in the end.
        tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = stdout.read_to_end(&mut rest).await;
        });
        let door = Door::of_cluster(port, &data.join("pki"))?;
        Ok(Self { up, ready_after, gateway_port, door, data, guard })
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.guard.folder()
    }
    pub(crate) fn processes(&self) -> Result<std::collections::BTreeSet<u32>> {
        let pids = processes::naming(&self.data)?;
        ensure!(pids.len() >= 2, "dhow up and its runtime should run; found {pids:?}");
        Ok(pids)
    }

    pub(crate) async fn connect(&self, protocol: Protocol) -> Result<Connection> {
        self.door.connect(protocol).await
    }
    pub(crate) async fn connections(&self, count: usize, protocol: Protocol) -> Result<Vec<Connection>> {
        self.door.connections(count, protocol).await
    }

    /// Ctrl-C, and waits for the end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.up.id().context("dhow up has ended by itself")?;
        // SAFETY: no memory is involved.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGINT) };
        let status =
            tokio::time::timeout(LIMIT, self.up.wait()).await.context("dhow up does not end on SIGINT")??;
        ensure!(status.success(), "dhow up ended with {status}");
        Ok(())
    }

    /// The answer of the API server, which must be a success.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let mut connection = self.connect(Protocol::Http2).await?;
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = connection.send(json_request(method, path, bytes)?).await?;
        ensure!(
            answer.status.is_success(),
            "{path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Sends the guest to the node; its reference.
    pub(crate) async fn import_guest(&self, plan: &Plan) -> Result<String> {
        self.import("hello-http", std::fs::read(&plan.programs.guest)?).await
    }

    /// Sends a program to the node under a name; its reference.
    pub(crate) async fn import(&self, name: &str, wasm: Vec<u8>) -> Result<String> {
        let nodes = self.ask(Method::GET, "/api/v1/nodes", Value::Null).await?;
        let node = nodes["items"][0]["metadata"]["name"].as_str().context("a node")?.to_owned();
        let reference = format!("localhost/{name}:0123456789ab");
        let request = Request::post(format!("/api/v1/nodes/{node}/proxy/images/import?ref={reference}"))
            .header(http::header::HOST, "localhost")
            .header(http::header::CONTENT_TYPE, "application/wasm")
            .body(wasm.into())?;
        let answer = self.connect(Protocol::Http1).await?.send(request).await?;
        ensure!(
            answer.status.is_success(),
            "import: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(reference)
    }

    /// Makes a pod of the guest and waits until it is Ready; its address. The first pod of a cluster waits for the
    /// namespace's service account.
    pub(crate) async fn ready_pod(&self, name: &str, image: &str) -> Result<String> {
        self.ready(name, &pod(name, image)).await
    }

    /// The same, of a pod whose instances serve up to `reuse` requests each.
    pub(crate) async fn ready_pod_reusing(&self, name: &str, image: &str, reuse: u32) -> Result<String> {
        let mut pod = pod(name, image);
        pod["metadata"]["annotations"] = json!({ "dhow.dev/instance-reuse": reuse.to_string() });
        self.ready(name, &pod).await
    }

    async fn ready(&self, name: &str, pod: &Value) -> Result<String> {
        let mut watch = Watch::of(self, "/api/v1/namespaces/default/pods").await?;
        let mut connection = self.connect(Protocol::Http2).await?;
        let begin = Instant::now();
        loop {
            let answer = connection.send(create(pod)?).await?;
            match answer.status {
                StatusCode::CREATED => break,
                StatusCode::FORBIDDEN if begin.elapsed() < LIMIT => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                status => bail!("pod {name}: {status} {}", String::from_utf8_lossy(&answer.body)),
            }
        }
        let pod = tokio::time::timeout(LIMIT, watch.until(|event| event.is_ready(name)))
            .await
            .with_context(|| format!("pod {name} is not Ready"))??;
        Ok(pod.object["status"]["podIP"].as_str().context("an address")?.to_owned())
    }
}

pub(crate) fn json_request(
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<Request<http_body_util::Full<bytes::Bytes>>> {
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.into())?)
}

/// The request that makes a pod of the guest.
pub(crate) fn create_pod(name: &str, image: &str) -> Result<Request<http_body_util::Full<bytes::Bytes>>> {
    create(&pod(name, image))
}

fn create(pod: &Value) -> Result<Request<http_body_util::Full<bytes::Bytes>>> {
    json_request(Method::POST, "/api/v1/namespaces/default/pods", pod.to_string().into_bytes())
}

pub(crate) fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "bench" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "hello", "image": image, "ports": [{ "containerPort": 8080 }] }],
        },
    })
}
