//! `dhow delete`.
use crate::client_commands::{apply, get::query};
use crate::connect::{Cluster, Connection, explain};
use crate::resources::{Resource, Resources, targets};
use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Delete objects, and wait until they are gone
///
/// Examples:
///   dhow delete pod hello
///   dhow delete -f app.yaml
///   dhow delete pods -l app=web
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// KIND NAME… or KIND/NAME…
    what: Vec<String>,
    /// Delete what these files hold (`-` is standard input)
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Delete all objects of the kind whose labels match
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Delete all objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds a pod gets to end by itself; 0 removes it at once
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// What happens to dependents: background, foreground or orphan
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// Whether a missing object is no error
    #[arg(long)]
    ignore_not_found: bool,
}

/// Longest wait for an object to be gone: a pod's grace period is 30 s, its clean-up some seconds more.
const WAIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Deletes one object; `false` if there was none.
pub(crate) async fn one(
    connection: &Connection,
    resource: &Resource,
    namespace: &str,
    name: &str,
    grace_period: Option<u32>,
    cascade: &str,
) -> Result<bool> {
    let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
    options["propagationPolicy"] = json!(match cascade {
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        _ => "Background",
    });
    if let Some(seconds) = grace_period {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let path = format!("{}/{name}", resource.path(Some(namespace)));
    let request = Request::delete(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&options)?)?;
    match connection.client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(e) if client::is_not_found(&e) => Ok(false),
        Err(e) => Err(explain(e)),
    }
}

/// Waits until an object is gone.
pub(crate) async fn gone(
    connection: &Connection,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<()> {
    let path = format!("{}/{name}", resource.path(Some(namespace)));
    let waiting = async {
        loop {
            match connection.client.request::<Value>(Request::get(&path).body(Vec::new())?).await {
                Err(e) if client::is_not_found(&e) => return Ok(()),
                Err(e) => return Err(explain(e)),
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    match tokio::time::timeout(WAIT, waiting).await {
        Ok(result) => result,
        Err(_) => bail!(
            "{} is still there after {} s; `dhow describe` shows what holds it",
            resource.name_of(name),
            WAIT.as_secs()
        ),
    }
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let mut doomed: Vec<(&Resource, String, String)> = Vec::new();
    for object in apply::read_files(&args.filename)? {
        let resource = resources.of(&object)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&connection.namespace);
        doomed.push((
            resource,
            namespace.to_owned(),
            object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ));
    }
    if args.filename.is_empty() {
        for (resource, name) in targets(&resources, &args.what)? {
            match name {
                Some(name) => doomed.push((resource, connection.namespace.clone(), name)),
                None if args.all || args.selector.is_some() => {
                    let path = resource.path(Some(&connection.namespace))
                        + &query(&[("labelSelector", args.selector.as_deref())]);
                    let list: Value = connection
                        .client
                        .request(Request::get(path).body(Vec::new())?)
                        .await
                        .map_err(explain)?;
                    for item in list["items"].as_array().into_iter().flatten() {
                        let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                        doomed.push((resource, connection.namespace.clone(), name));
                    }
                }
                None => bail!("name the objects to delete, or say --all or -l LABELS"),
            }
        }
    }
    let mut missing = Vec::new();
    let mut leaving = Vec::new();
    for (resource, namespace, name) in doomed {
        if one(&connection, resource, &namespace, &name, args.grace_period, &args.cascade).await? {
            println!("{} deleted", resource.name_of(&name));
            leaving.push((resource, namespace, name));
        } else {
            missing.push(resource.name_of(&name));
        }
    }
    if !args.no_wait {
        for (resource, namespace, name) in leaving {
            gone(&connection, resource, &namespace, &name).await?;
        }
    }
    if !missing.is_empty() && !args.ignore_not_found {
        bail!("not found: {}", missing.join(", "));
    }
    Ok(())
}
