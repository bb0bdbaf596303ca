//! `dhow run`.
use crate::client_commands::{delete, import, logs};
use crate::connect::{Cluster, Connection, explain};
use crate::resources::Resource;
use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use http::Request;
use http_body_util::StreamBody;
use machinery::interface::IMPORTS_ANNOTATION;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// Run a program in the cluster to its end, with its output here
///
/// What it writes to standard error comes out on standard error. Exits with the program's code; with 125 if it could not be started.
///
/// Examples:
///   dhow run ./hello-cli.wasm -- world --exit 3
///   dhow run registry.example/tool:1 --env LEVEL=debug -v "$PWD:/data:ro" -- /data/file
///   echo hello | dhow run -i ./hello-cli.wasm -- --stdin
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// An image of a registry, or a .wasm file
    image: String,
    /// A variable of its environment; may be given again
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A directory or file of the node it sees; may be given again
    #[arg(short, long, value_name = "HOST:GUEST[:ro]")]
    volume: Vec<String>,
    /// Pass on standard input
    #[arg(short, long)]
    interactive: bool,
    /// Its arguments
    #[arg(last = true)]
    args: Vec<String>,
}

/// The exit code when the program could not be started, as docker has it.
const NOT_STARTED: u8 = 125;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What stands in a pod's waiting reason when waiting is in vain.
pub(crate) const HOPELESS: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// `NAME=VALUE` as an EnvVar.
pub(crate) fn env(words: &[String]) -> Result<Vec<Value>> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(json!({ "name": name, "value": value })),
            _ => bail!("{word:?} is not NAME=VALUE"),
        })
        .collect()
}

/// Volumes and mounts of `HOST:GUEST[:ro]` words.
fn volumes(words: &[String]) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    for (n, word) in words.iter().enumerate() {
        let parts: Vec<&str> = word.split(':').collect();
        let (host, guest, read_only) = match parts[..] {
            [host, guest] => (host, guest, false),
            [host, guest, "ro"] => (host, guest, true),
            _ => bail!("{word:?} is not HOST:GUEST or HOST:GUEST:ro"),
        };
        if !guest.starts_with('/') {
            bail!("{guest:?} must be an absolute path inside the program's world");
        }
        let host: PathBuf = std::path::absolute(host).with_context(|| format!("{host} is not a path"))?;
        if !host.exists() {
            bail!("{} does not exist", host.display());
        }
        volumes.push(json!({ "name": format!("v{n}"), "hostPath": { "path": host } }));
        mounts.push(json!({ "name": format!("v{n}"), "mountPath": guest, "readOnly": read_only }));
    }
    Ok((volumes, mounts))
}

fn pods() -> Resource {
    Resource {
        group: String::new(),
        version: "v1".into(),
        kind: "Pod".into(),
        plural: "pods".into(),
        singular: "pod".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
    }
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<ExitCode> {
    // Whatever goes wrong here is not the program's own ending.
    match run_pod(cluster, args).await {
        Ok(code) => Ok(code),
        Err(error) => {
            crate::output::error(&error);
            Ok(ExitCode::from(NOT_STARTED))
        }
    }
}

async fn run_pod(cluster: &Cluster, args: Args) -> Result<ExitCode> {
    let (volumes, mounts) = volumes(&args.volume)?;
    let env = env(&args.env)?;
    let connection = cluster.connect().await?;
    let image = import::image(&connection, &args.image, import::Use::Command).await?;
    let annotations = image.imports.map(|imports| json!({ IMPORTS_ANNOTATION: imports.join(",") }));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": format!("run-{}-", import::base_name(&args.image)),
                      "annotations": annotations,
                      "labels": { "app.kubernetes.io/managed-by": "dhow-run" } },
        "spec": {
            "restartPolicy": "Never", "volumes": volumes,
            "containers": [{ "name": "main", "image": image.reference, "args": args.args, "env": env, "volumeMounts": mounts,
                             "stdin": args.interactive, "stdinOnce": args.interactive }]
        }
    });
    // From here on there is a pod to remove, whatever comes.
    let mut stop = crate::ambient::StopSignal::new()?;
    let request = Request::post(format!("/api/v1/namespaces/{}/pods", connection.namespace))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&pod)?)?;
    let pod: Value = connection.client.request(request).await.map_err(explain)?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let outcome = tokio::select! {
        outcome = follow(&connection, &name, args.interactive) => outcome,
        signal = stop.recv() => Ok(ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0))),
    };
    let removed =
        delete::one(&connection, &pods(), &connection.namespace, &name, Some(0), "background").await;
    match (outcome, removed) {
        (Ok(code), Ok(_)) => Ok(code),
        (Ok(_), Err(e)) | (Err(e), _) => Err(e),
    }
}

/// The pod's only container's status.
fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

async fn follow(connection: &Connection, name: &str, interactive: bool) -> Result<ExitCode> {
    let Some(started) = started(connection, name).await? else { return Ok(ExitCode::from(NOT_STARTED)) };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let log = async {
        let stdout = logs::copy_to(connection, name, "?follow=true&stream=Stdout", &mut out);
        let stderr = logs::copy_to(connection, name, "?follow=true&stream=Stderr", &mut err);
        tokio::try_join!(stdout, stderr).map(|_| ())
    };
    if interactive {
        let node = started["spec"]["nodeName"].as_str().unwrap_or_default();
        let sending = send_stdin(connection, node, name);
        // The program may end without having read everything.
        tokio::select! {
            result = log => result?,
            never = async { sending.await?; std::future::pending::<Result<std::convert::Infallible>>().await } => {
                match never? {}
            }
        }
    } else {
        log.await?;
    }
    loop {
        let pod: Value = connection.client.request(get(connection, name)?).await.map_err(explain)?;
        let ended = &container(&pod)["state"]["terminated"];
        if let Some(code) = ended["exitCode"].as_i64() {
            // Other endings have said why in the log.
            if ended["reason"] == "OOMKilled" {
                let message = ended["message"].as_str().filter(|m| !m.is_empty());
                eprintln!(
                    "{}",
                    message.unwrap_or("the program wanted more memory than its limit").trim_end()
                );
            }
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
        }
        if pod["status"]["phase"] == "Failed" {
            eprintln!("{}", pod["status"]["message"].as_str().unwrap_or("the pod failed"));
            return Ok(ExitCode::from(NOT_STARTED));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn get(connection: &Connection, name: &str) -> Result<Request<Vec<u8>>> {
    Ok(Request::get(format!("/api/v1/namespaces/{}/pods/{name}", connection.namespace)).body(Vec::new())?)
}

/// Waits until the program runs or has run. `None` when it never will; why not has been said.
async fn started(connection: &Connection, name: &str) -> Result<Option<Value>> {
    let mut said = String::new();
    loop {
        let pod: Value = connection.client.request(get(connection, name)?).await.map_err(explain)?;
        let state = &container(&pod)["state"];
        if state["running"].is_object() || state["terminated"].is_object() {
            return Ok(Some(pod));
        }
        let waiting = &state["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if HOPELESS.contains(&reason) {
            eprintln!("error: {reason}: {}", waiting["message"].as_str().unwrap_or("no message"));
            return Ok(None);
        }
        if pod["status"]["phase"] == "Failed" {
            eprintln!("error: {}", pod["status"]["message"].as_str().unwrap_or("the pod failed"));
            return Ok(None);
        }
        let unscheduled = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
        if let Some(condition) = unscheduled {
            let text = format!("waiting: {}", condition["message"].as_str().unwrap_or_default());
            if text != said {
                eprintln!("{text}");
                said = text;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Sends standard input to the container until it ends, as fast as the program takes it.
async fn send_stdin(connection: &Connection, node: &str, pod: &str) -> Result<()> {
    let path = format!("/api/v1/nodes/{node}/proxy/stdin/{}/{pod}/main", connection.namespace);
    let frames = ReaderStream::new(tokio::io::stdin()).map_ok(hyper::body::Frame::data);
    connection.post_stream(&path, StreamBody::new(frames)).await.context("sending standard input")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_what_they_should_be_are_refused() {
        for word in ["NAME", "=x", ""] {
            assert!(env(&[word.to_owned()]).is_err(), "{word}");
        }
        assert_eq!(env(&["A=b=c".to_owned()]).expect("a variable")[0]["value"], "b=c");
        for word in ["a", "/tmp:data", "/tmp:/data:rw", "/nothing/here:/data"] {
            assert!(volumes(&[word.to_owned()]).is_err(), "{word}");
        }
        let (volumes, mounts) = volumes(&["/:/data:ro".to_owned()]).expect("a volume");
        assert_eq!((&volumes[0]["hostPath"]["path"], &mounts[0]["readOnly"]), (&json!("/"), &json!(true)));
    }
}
