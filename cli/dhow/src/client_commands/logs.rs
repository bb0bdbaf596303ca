//! `dhow logs`.
use crate::client_commands::function::FUNCTION;
use crate::client_commands::get::{self, query};
use crate::connect::{Cluster, Connection, explain};
use crate::resources::Resources;
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::io::AsyncReadExt;
use futures::stream::FuturesUnordered;
use http::Request;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

/// How soon a new pod of a followed function is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Print what a pod, a function, or the pods of a Deployment or Job wrote
///
/// Followed, a function's log goes on through its revisions until Ctrl-C.
///
/// Examples:
///   dhow logs hello --tail 20          # the pod hello, or else the function
///   dhow logs -f fn/hello
///   dhow logs -p hello-r1-7d4b9c-x2x4v
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A pod's or a function's name, or KIND/NAME
    target: String,
    /// The container, where a pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Of the container's last run, not this one
    #[arg(short, long)]
    previous: bool,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
}

/// Copies a pod's log to standard output. Returns when the log ends.
pub(crate) async fn copy(connection: &Connection, pod: &str, parameters: &str) -> Result<()> {
    copy_to(connection, pod, parameters, &mut std::io::stdout()).await
}

/// Copies a pod's log. Returns when the log ends.
pub(crate) async fn copy_to(
    connection: &Connection,
    pod: &str,
    parameters: &str,
    out: &mut impl Write,
) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log{parameters}", connection.namespace);
    let stream =
        connection.client.request_stream(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let mut stream = std::pin::pin!(stream);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer).await.context("the log broke off")?;
        if read == 0 {
            return Ok(());
        }
        // Whoever reads has gone (`| head`): an ordinary end.
        if out.write_all(&buffer[..read]).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
}

/// What the word on the command line means.
enum Source {
    Pods(Vec<String>),
    Function(String),
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let source = match args.target.split_once('/') {
        None => pod_or_function(&connection, &args.target).await?,
        Some((kind, name)) => pods_of(&connection, kind, name).await?,
    };
    let tail = args.tail.map(|n| n.to_string());
    let flag = |set: bool| set.then_some("true");
    let parameters = query(&[
        ("container", args.container.as_deref()),
        ("follow", flag(args.follow)),
        ("tailLines", tail.as_deref()),
        ("previous", flag(args.previous)),
        ("timestamps", flag(args.timestamps)),
    ]);
    let pods = match source {
        Source::Pods(pods) => pods,
        Source::Function(name) if args.follow => {
            return follow_function(&connection, &name, &parameters).await;
        }
        Source::Function(name) => {
            let pods = pods_with(&connection, &of_function(&name)).await?;
            let pods: Vec<String> = pods.iter().filter(|p| has_begun(p)).map(name_of).collect();
            if pods.is_empty() {
                bail!("{name} has no pod that has run; `dhow describe fn {name}` says why");
            }
            pods
        }
    };
    let copies = pods.iter().map(|pod| copy(&connection, pod, &parameters));
    futures::future::try_join_all(copies).await?;
    Ok(())
}

/// A pod of this name, or else a function.
async fn pod_or_function(connection: &Connection, name: &str) -> Result<Source> {
    let exists = async |path: String| -> Result<bool> {
        match connection.client.request::<Value>(Request::get(path).body(Vec::new())?).await {
            Ok(_) => Ok(true),
            Err(e) if client::is_not_found(&e) => Ok(false),
            Err(e) => Err(explain(e)),
        }
    };
    let namespace = &connection.namespace;
    if exists(format!("/api/v1/namespaces/{namespace}/pods/{name}")).await? {
        return Ok(Source::Pods(vec![name.to_owned()]));
    }
    if exists(format!("/apis/dhow.dev/v1alpha1/namespaces/{namespace}/functions/{name}")).await? {
        return Ok(Source::Function(name.to_owned()));
    }
    bail!(
        "there is neither a pod nor a function {name} in namespace {namespace}; `dhow get pods` and `dhow ls` list them"
    )
}

fn of_function(name: &str) -> String {
    format!("{FUNCTION}={name}")
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Whether a container of the pod has ever run: before that there is no log.
fn has_begun(pod: &Value) -> bool {
    let states = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    states.into_iter().any(|c| {
        let began = |state: &Value| state["running"].is_object() || state["terminated"].is_object();
        began(&c["state"]) || began(&c["lastState"])
    })
}

/// Follows the logs of a function's pods, those that come later too, until it is stopped.
async fn follow_function(connection: &Connection, name: &str, parameters: &str) -> Result<()> {
    let mut known = BTreeSet::new();
    let mut copies = FuturesUnordered::new();
    let mut look = tokio::time::interval(LOOK_AGAIN);
    loop {
        tokio::select! {
            // The pod went, and its log with it: the function goes on.
            Some(_) = copies.next() => {}
            _ = look.tick() => {
                for pod in pods_with(connection, &of_function(name)).await?.iter().filter(|p| has_begun(p)) {
                    let pod = name_of(pod);
                    if known.insert(pod.clone()) {
                        copies.push(async move { copy(connection, &pod, parameters).await });
                    }
                }
            }
        }
    }
}

/// The pods whose labels match.
async fn pods_with(connection: &Connection, selector: &str) -> Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{}/pods", connection.namespace)
        + &query(&[("labelSelector", Some(selector))]);
    let list: Value =
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The pods behind a pod, or behind whatever selects pods by labels.
async fn pods_of(connection: &Connection, kind: &str, name: &str) -> Result<Source> {
    let resources = Resources::discover(connection).await?;
    let resource = resources.find(kind)?;
    if resource.plural == "pods" {
        return Ok(Source::Pods(vec![name.to_owned()]));
    }
    let object = get::object(connection, resource, name).await?;
    if resource.kind == "Function" {
        return Ok(Source::Function(name.to_owned()));
    }
    let selector = if resource.kind == "Revision" {
        format!("dhow.dev/revision={name}")
    } else {
        let labels = &object["spec"]["selector"];
        get::equalities(labels.get("matchLabels").unwrap_or(labels))
    };
    if selector.is_empty() {
        bail!("{} selects no pods", resource.name_of(name));
    }
    let pods: Vec<String> = pods_with(connection, &selector).await?.iter().map(name_of).collect();
    if pods.is_empty() {
        bail!("{} has no pods", resource.name_of(name));
    }
    Ok(Source::Pods(pods))
}
