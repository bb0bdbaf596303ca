//! `dhow logs`.
use crate::client_commands::get::{self, query};
use crate::connect::{Cluster, Connection, explain};
use crate::resources::Resources;
use anyhow::{Context, Result, bail};
use futures::io::AsyncReadExt;
use http::Request;
use serde_json::Value;
use std::io::Write;

/// Print what a pod, or the pods of a Deployment, Job or Function, wrote
///
/// Examples:
///   dhow logs -f hello-7d4b9c-x2x4v
///   dhow logs fn/hello --tail 20
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A pod's name, or KIND/NAME
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
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log{parameters}", connection.namespace);
    let stream =
        connection.client.request_stream(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let mut stream = std::pin::pin!(stream);
    let mut out = std::io::stdout();
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

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let pods = match args.target.split_once('/') {
        None => vec![args.target.clone()],
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
    let copies = pods.iter().map(|pod| copy(&connection, pod, &parameters));
    futures::future::try_join_all(copies).await?;
    Ok(())
}

/// The pods behind a pod, or behind whatever selects pods by labels.
async fn pods_of(connection: &Connection, kind: &str, name: &str) -> Result<Vec<String>> {
    let resources = Resources::discover(connection).await?;
    let resource = resources.find(kind)?;
    if resource.plural == "pods" {
        return Ok(vec![name.to_owned()]);
    }
    // A function's pods are those of its deployment.
    let resource = if resource.kind == "Function" { resources.find("deployments.apps")? } else { resource };
    let object = get::object(connection, resource, name).await?;
    let labels = &object["spec"]["selector"];
    let labels = labels.get("matchLabels").unwrap_or(labels);
    let selector = get::equalities(labels);
    if selector.is_empty() {
        bail!("{} selects no pods", resource.name_of(name));
    }
    let path = format!("/api/v1/namespaces/{}/pods", connection.namespace)
        + &query(&[("labelSelector", Some(&selector))]);
    let list: Value =
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let pods: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| p["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    if pods.is_empty() {
        bail!("{} has no pods", resource.name_of(name));
    }
    Ok(pods)
}
