//! `dhow kube-proxy`.
use crate::ambient;
use crate::connect::Cluster;
use anyhow::Result;
use client::Informers;
use std::net::IpAddr;

/// Start the service proxy of this node
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The name of this node [default: this machine's]
    #[arg(long)]
    hostname_override: Option<String>,
    /// Addresses that NodePorts answer on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    nodeport_addresses: Vec<IpAddr>,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log("info");
    let client = cluster.connect().await?.client;
    let config = kube_proxy::Config {
        node_name: args.hostname_override.unwrap_or_else(super::hostname),
        node_addresses: args.nodeport_addresses,
        ambient: ambient::real(),
    };
    super::until_signal(|shutdown| {
        let informers = Informers::new(client.clone(), shutdown.clone());
        kube_proxy::run(config, client, informers, shutdown)
    })
    .await
}
