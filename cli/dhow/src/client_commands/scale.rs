//! `dhow scale`.
use crate::connect::{Cluster, explain};
use crate::resources::{Resources, targets};
use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};

/// Set how many replicas a Deployment, ReplicaSet or Function has
///
/// Example:
///   dhow scale deploy/hello --replicas 3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    /// How many
    #[arg(long)]
    replicas: u32,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    for (resource, name) in targets(&resources, &args.what)? {
        let Some(name) = name else {
            bail!("name what to scale, for example `dhow scale deploy/NAME --replicas 3`")
        };
        let path = format!("{}/{name}/scale", resource.path(Some(&connection.namespace)));
        let request = Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(serde_json::to_vec(&json!({ "spec": { "replicas": args.replicas } }))?)?;
        let _: Value = connection.client.request(request).await.map_err(explain)?;
        println!("{} scaled", resource.name_of(&name));
    }
    Ok(())
}
