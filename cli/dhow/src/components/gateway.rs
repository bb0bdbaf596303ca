//! `dhow gateway`.
use crate::ambient;
use crate::connect::Cluster;
use crate::otlp::{self, Telemetry};
use crate::up::certificates::issue;
use anyhow::{Context, Result};
use client::Informers;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Start the gateway: HTTP from outside to functions, services and ingresses
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// The port to listen on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The port to listen on with TLS
    #[arg(long, value_name = "PORT", requires = "signer_dir")]
    tls_port: Option<u16>,
    /// The directory with ca.crt and ca.key, which sign certificates for names below localhost
    #[arg(long, value_name = "DIR")]
    signer_dir: Option<PathBuf>,
    /// Write a line for each request to standard error
    #[arg(long)]
    access_log: bool,
    #[command(flatten)]
    traces: otlp::Flags,
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await.with_context(|| format!("listening on {address}:{port}"))
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log(if args.access_log { crate::up::ACCESS_LOG } else { "warn" });
    let client = cluster.connect().await?.client;
    let tls = match (args.tls_port, &args.signer_dir) {
        (Some(port), Some(dir)) => {
            let authority = pki::ensure_authority(dir, "ca", "dhow", ambient::real().now())?;
            let listener = listen(args.bind_address, port).await?;
            Some(gateway::Tls { listener, issue: issue(Arc::new(authority)) })
        }
        _ => None,
    };
    let telemetry = Telemetry::start(&args.traces, "dhow-gateway")?;
    let config = gateway::Config {
        listener: listen(args.bind_address, args.port).await?,
        tls,
        metrics: Arc::default(),
        tracer: telemetry.as_ref().map(Telemetry::tracer),
        ambient: ambient::real(),
    };
    super::until_signal(|shutdown| {
        let informers = Informers::new(client.clone(), shutdown.clone());
        gateway::run(config, client, informers, shutdown)
    })
    .await??;
    if let Some(telemetry) = telemetry {
        telemetry.end().await;
    }
    Ok(())
}
