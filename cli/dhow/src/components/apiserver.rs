//! `dhow apiserver`.
use crate::ambient;
use anyhow::{Context, Result};
use apiserver::{ApiServer, Authenticator, Cidr, Config, StaticTokens, UserInfo};
use client::Informers;
use machinery::metrics::MetricsReader;
use metrics_server::MetricsServer;
use pki::KeyedCertificate;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use store::{RedbStore, Retention, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Start the API server
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file that holds the cluster's state
    #[arg(long, value_name = "FILE")]
    store_file: PathBuf,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// The port to listen on
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// The address others reach this server at [default: --bind-address]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// The serving certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert_file: PathBuf,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    tls_private_key_file: PathBuf,
    /// The certificate authority of clients and kubelets, PEM
    #[arg(long, value_name = "FILE")]
    client_ca_file: PathBuf,
    /// What this server shows to kubelets, PEM
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    kubelet_client_key: Option<PathBuf>,
    /// Bearer tokens: lines of token,user,uid,"groups"
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// The range of ClusterIPs
    #[arg(long, default_value_t = Cidr::DEFAULT_SERVICES)]
    service_cluster_ip_range: Cidr,
    #[command(flatten)]
    metrics: super::autoscaling::MetricsFlags,
}

pub(crate) fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Keeps `metrics` fresh through the server's own inner door.
async fn measure(
    server: &ApiServer,
    metrics: MetricsServer,
    resolution: std::time::Duration,
    measures: bool,
    shutdown: CancellationToken,
) {
    if measures {
        let door = server.service(UserInfo::component("system:metrics-server"));
        let client = client::in_process(door, "default");
        let informers = Informers::new(client.clone(), shutdown.clone());
        metrics.run(client, informers.clone(), ambient::real(), resolution, shutdown).await;
        informers.ended().await;
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    ambient::log("info");
    let authority = read(&args.client_ca_file)?;
    let own = KeyedCertificate {
        certificate_pem: read(&args.tls_cert_file)?,
        key_pem: read(&args.tls_private_key_file)?,
    };
    let kubelet_client = match (&args.kubelet_client_certificate, &args.kubelet_client_key) {
        (Some(certificate), Some(key)) => {
            let shown = KeyedCertificate { certificate_pem: read(certificate)?, key_pem: read(key)? };
            Some(pki::client_config(&authority, Some(&shown))?)
        }
        _ => None,
    };
    let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(path) = &args.token_auth_file {
        authenticators.push(Arc::new(StaticTokens::from_file(path)?));
    }
    let address = SocketAddr::new(args.bind_address, args.secure_port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let store: Arc<dyn Store> =
        Arc::new(RedbStore::open(&args.store_file, ambient::store_clock(), Retention::default())?);
    let metrics = MetricsServer::default();
    // Without a way to kubelets there is nothing to tell.
    let reader = kubelet_client.is_some().then(|| Arc::new(metrics.clone()) as Arc<dyn MetricsReader>);
    let measures = reader.is_some();
    let server = ApiServer::new(Config {
        authenticators,
        kubelet_client,
        metrics: reader,
        service_cidr: args.service_cluster_ip_range,
        advertise_address: SocketAddr::new(
            args.advertise_address.unwrap_or(args.bind_address),
            args.secure_port,
        ),
        ..Config::new(store, ambient::real())
    });
    server.ensure_bootstrap().await?;
    let tls = pki::server_config(&authority, &own)?;
    super::until_signal(|shutdown| {
        let measuring = measure(&server, metrics, args.metrics.metric_resolution, measures, shutdown.clone());
        let serving = server.serve(listener, tls, shutdown);
        async move { tokio::join!(serving, measuring).0 }
    })
    .await??;
    server.shutdown().await;
    Ok(())
}
