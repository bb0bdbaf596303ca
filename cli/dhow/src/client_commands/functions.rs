//! `dhow ls`, `dhow rm`.
use crate::client_commands::{delete, function};
use crate::connect::{Cluster, explain};
use crate::output;
use crate::resources::Resources;
use anyhow::{Result, bail};
use client::dhow::v1alpha1::TrafficStatus;
use http::Request;
use serde_json::Value;

/// List functions and their URLs
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// Remove functions
#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn list(cluster: &Cluster, args: ListArgs) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let functions = resources.find("functions.dhow.dev")?;
    let path = functions.path((!args.all_namespaces).then_some(connection.namespace.as_str()));
    let list: Value =
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)?;
    let mut rows = vec![["NAME", "READY", "URL", "SERVES", "IMAGE", "WHY NOT"].map(str::to_owned).to_vec()];
    for f in list["items"].as_array().into_iter().flatten() {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let wanted = f["spec"]["replicas"].as_u64().unwrap_or(1);
        let mut name = text(&f["metadata"]["name"]);
        if args.all_namespaces {
            name = format!("{}/{name}", text(&f["metadata"]["namespace"]));
        }
        let ready = format!("{}/{wanted}", f["status"]["readyReplicas"].as_u64().unwrap_or(0));
        let traffic: Vec<TrafficStatus> =
            serde_json::from_value(f["status"]["traffic"].clone()).unwrap_or_default();
        let serves = function::shares(&traffic);
        let (url, image) = (text(&f["status"]["url"]), text(&f["spec"]["image"]));
        rows.push(vec![name, ready, url, serves, image, why_not(&f["status"])]);
    }
    if rows.len() == 1 {
        eprintln!("There are no functions; `dhow deploy FILE.wasm` makes one.");
    } else {
        print!("{}", output::columns(&rows));
    }
    Ok(())
}

/// What keeps the function, or one of its triggers, from being as wanted; nothing if all is well.
fn why_not(status: &Value) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let failing = conditions.filter(|c| c["status"] == "False");
    failing.filter_map(|c| c["message"].as_str()).collect::<Vec<_>>().join("; ")
}

pub(crate) async fn remove(cluster: &Cluster, args: RemoveArgs) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let functions = resources.find("functions.dhow.dev")?;
    for name in &args.names {
        if !delete::one(&connection, functions, &connection.namespace, name, None, "background").await? {
            bail!("there is no function {name}; `dhow ls` lists them");
        }
        println!("{} deleted", functions.name_of(name));
    }
    Ok(())
}
