//! `dhow scheduler`.
use crate::ambient;
use crate::connect::Cluster;
use anyhow::Result;
use client::Informers;

/// Start the scheduler
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stand for election: only one of several schedulers works
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log("info");
    let client = cluster.connect().await?.client;
    let config = scheduler::Config {
        leader_identity: args.leader_elect.then(|| format!("{}_{}", super::hostname(), std::process::id())),
        ..scheduler::Config::default()
    };
    super::until_signal(|shutdown| {
        let informers = Informers::new(client.clone(), shutdown.clone());
        scheduler::run(config, client, informers, ambient::real(), shutdown)
    })
    .await
}
