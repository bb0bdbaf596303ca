//! `dhow controller-manager`.
use crate::ambient;
use crate::connect::Cluster;
use anyhow::Result;
use client::Informers;
use std::path::PathBuf;

/// Start the controllers
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The certificate authority that pods are told of, PEM
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The port of the gateway, for the URLs of functions
    #[arg(long, default_value_t = 8080)]
    gateway_port: u16,
    #[command(flatten)]
    autoscaler: super::autoscaling::AutoscalerFlags,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log("info");
    let client = cluster.connect().await?.client;
    let root_ca_pem = match &args.root_ca_file {
        Some(path) => super::apiserver::read(path)?,
        None => String::new(),
    };
    let config = controllers::Config {
        gateway_port: args.gateway_port,
        root_ca_pem,
        autoscaler: args.autoscaler.config(),
        ..controllers::Config::default()
    };
    super::until_signal(|shutdown| {
        let informers = Informers::new(client.clone(), shutdown.clone());
        controllers::run(config, client, informers, ambient::real(), shutdown)
    })
    .await?;
    Ok(())
}
