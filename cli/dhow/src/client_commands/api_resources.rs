//! `dhow api-resources`.
use crate::connect::Cluster;
use crate::output;
use crate::resources::Resources;
use anyhow::Result;

/// List the kinds of objects the server has
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(cluster: &Cluster, _args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let resources = Resources::discover(&connection).await?;
    let mut rows =
        vec![["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].map(str::to_owned).to_vec()];
    for r in resources.all() {
        rows.push(vec![
            r.plural.clone(),
            r.short_names.join(","),
            r.api_version(),
            r.namespaced.to_string(),
            r.kind.clone(),
        ]);
    }
    print!("{}", output::columns(&rows));
    Ok(())
}
