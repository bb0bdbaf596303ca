//! `dhow kubelet`.
use crate::ambient;
use crate::connect::Cluster;
use anyhow::{Context, Result};
use pki::KeyedCertificate;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Start the agent of this node
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The name of this node [default: this machine's]
    #[arg(long)]
    hostname_override: Option<String>,
    /// The address of this node
    #[arg(long, default_value = "127.0.0.1")]
    node_ip: IpAddr,
    /// The port of the kubelet's own server
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// The socket of the container runtime
    #[arg(long, value_name = "SOCKET")]
    container_runtime_endpoint: PathBuf,
    /// Where volumes and logs of pods are kept
    #[arg(long, value_name = "DIR")]
    root_dir: PathBuf,
    /// The serving certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert_file: PathBuf,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    tls_private_key_file: PathBuf,
    /// The certificate authority of those who may call, PEM
    #[arg(long, value_name = "FILE")]
    client_ca_file: PathBuf,
    /// Pods this node takes
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log("info");
    let client = cluster.connect().await?.client;
    let read = super::apiserver::read;
    let own = KeyedCertificate {
        certificate_pem: read(&args.tls_cert_file)?,
        key_pem: read(&args.tls_private_key_file)?,
    };
    let tls = pki::server_config(&read(&args.client_ca_file)?, &own)?;
    let listener = TcpListener::bind((args.node_ip, args.port))
        .await
        .with_context(|| format!("listening on {}:{}", args.node_ip, args.port))?;
    let endpoint = args.container_runtime_endpoint.to_string_lossy();
    let cri = Arc::new(cri::client::connect(endpoint.trim_start_matches("unix://")));
    let name = args.hostname_override.unwrap_or_else(super::hostname);
    let mut config = kubelet::Config::new(&name, client, cri.clone(), cri, args.root_dir, args.node_ip);
    config.max_pods = args.max_pods;
    config.https = Some(kubelet::Https { listener, tls });
    super::until_signal(|shutdown| kubelet::run(config, ambient::real(), shutdown)).await??;
    Ok(())
}
