//! `dhow up`: a whole cluster on this machine.
pub(crate) mod certificates;
mod runtime_process;

use crate::ambient;
use crate::components::autoscaling::{AutoscalerFlags, MetricsFlags};
use crate::components::{hostname, runtime::Flags};
use crate::connect::Cluster;
use crate::dirs::{self, Layout};
use crate::otlp::Telemetry;
use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, UserInfo};
use certificates::Certificates;
use client::k8s_openapi::api::core::v1::Node;
use client::{Client, Informers};
use metrics_server::MetricsServer;
use runtime_process::RuntimeProcess;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{RedbStore, Retention, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Start a cluster on this machine and keep it until Ctrl-C
///
/// Everything it holds lies in one directory; started again, it goes on where it was.
///
/// Examples:
///   dhow up
///   dhow up --data-dir ./cluster --port 7443 --gateway-port 9080
///   dhow up --otlp-endpoint http://127.0.0.1:4318
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Where everything is kept [default: dhow in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The port of the API server
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// The port where functions answer
    #[arg(long, default_value_t = 8080)]
    gateway_port: u16,
    /// The port where they answer over TLS, or `off` [default: 8443, off if another program has it]
    #[arg(long, value_name = "PORT", value_parser = TlsPort::parse)]
    gateway_tls_port: Option<TlsPort>,
    /// Write a line for each request that the gateway answers to standard error
    #[arg(long)]
    gateway_access_log: bool,
    /// The address that the API server and the gateway listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    bind_address: IpAddr,
    /// The name of this node [default: this machine's]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Pods this node takes
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    #[command(flatten)]
    runtime: Flags,
    #[command(flatten)]
    metrics: MetricsFlags,
    #[command(flatten)]
    autoscaler: AutoscalerFlags,
}

/// Where functions answer over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsPort {
    Off,
    Port(u16),
}

impl TlsPort {
    const DEFAULT: u16 = 8443;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            port => port.parse().map(Self::Port).map_err(|_| "a port, or off".to_owned()),
        }
    }
}

/// The TLS listener. A port that was asked for must be free; the one nobody asked for may be another program's.
async fn listen_with_tls(args: &Args) -> Result<Option<TcpListener>> {
    const FLAG: &str = "--gateway-tls-port";
    match args.gateway_tls_port {
        Some(TlsPort::Off) => Ok(None),
        Some(TlsPort::Port(port)) => listen(args.bind_address, port, FLAG).await.map(Some),
        None => match TcpListener::bind((args.bind_address, TlsPort::DEFAULT)).await {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            bound => bound
                .map(Some)
                .with_context(|| format!("listening on {}:{}", args.bind_address, TlsPort::DEFAULT)),
        },
    }
}

/// Longest wait for the runtime, and then for a node that is Ready: the slowest start seen was two seconds, on a
/// machine under load.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What is logged with `--gateway-access-log`; DHOW_LOG overrides it.
pub(crate) const ACCESS_LOG: &str = "warn,access=info";
/// How long the components may take to end.
const STOP: Duration = Duration::from_secs(20);

async fn listen(address: IpAddr, port: u16, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} of {} is in use by another program; choose another with {flag}", address.ip())
        }
        Err(e) => Err(e).with_context(|| format!("listening on {address}")),
    }
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    ambient::log(if args.gateway_access_log { ACCESS_LOG } else { "warn" });
    let begin = Instant::now();
    let layout = Layout::new(match &args.data_dir {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("{} is not a path", dir.display()))?,
        None => dirs::default_data_dir()?,
    });
    // Secrets and keys lie in it: nobody else may look.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(layout.root())
        .with_context(|| format!("making {}", layout.root().display()))?;
    // The store first: its lock says whether this directory is somebody else's cluster.
    let store = RedbStore::open(&layout.state(), ambient::store_clock(), Retention::default())?;
    let api_listener = listen(args.bind_address, args.port, "--port").await?;
    let gateway_listener = listen(args.bind_address, args.gateway_port, "--gateway-port").await?;
    let gateway_tls_listener = listen_with_tls(&args).await?;
    let gateway_tls_port = gateway_tls_listener.as_ref().and_then(|l| l.local_addr().ok()).map(|a| a.port());
    let api_address = api_listener.local_addr()?;
    let gateway_address = gateway_listener.local_addr()?;
    let telemetry = Telemetry::start(&args.runtime.traces, "dhow-gateway")?;
    let mut runtime = RuntimeProcess::start(&layout, &args.runtime).await?;

    let node_name = args.node_name.clone().unwrap_or_else(hostname);
    let certificates = Certificates::ensure(&layout, &node_name, &args, ambient::real().now())?;
    let kubeconfig = cluster.kubeconfig.clone().unwrap_or_else(|| layout.kubeconfig());
    let reachable =
        if api_address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { api_address.ip() };
    let url = format!("https://{}", SocketAddr::new(reachable, api_address.port()));
    let text =
        pki::kubeconfig("dhow", &url, &certificates.authority_pem, "kubernetes-admin", &certificates.admin);
    pki::write_private(&kubeconfig, &text)?;

    let gateway_metrics: Arc<gateway::Metrics> = Arc::default();
    let queue_metrics: Arc<controllers::QueueMetrics> = Arc::default();
    let shutdown = CancellationToken::new();
    let mut parts = Parts::default();
    let metrics = MetricsServer::default();
    let server = ApiServer::new(apiserver::Config {
        metrics: Some(Arc::new(metrics.clone())),
        kubelet_client: Some(pki::client_config(
            &certificates.authority_pem,
            Some(&certificates.kubelet_client),
        )?),
        service_cidr: args.runtime.service_cluster_ip_range,
        advertise_address: SocketAddr::new(reachable, api_address.port()),
        collectors: [gateway_metrics.collector(), queue_metrics.collector()]
            .into_iter()
            .chain(telemetry.as_ref().map(Telemetry::collector))
            .collect(),
        ..apiserver::Config::new(Arc::new(store) as Arc<dyn Store>, ambient::real())
    });
    let tls = pki::server_config(&certificates.authority_pem, &certificates.apiserver)?;
    // The door closes last, when everyone who writes through it has ended.
    let door = CancellationToken::new();
    {
        let (server, door) = (server.clone(), door.clone());
        parts
            .add("apiserver", async move { server.serve(api_listener, tls, door).await.map_err(Into::into) });
    }
    // From here on the runtime is a process that somebody must end: a signal that comes now is not to kill this one.
    let mut stop = ambient::StopSignal::new().context("signals cannot be listened to")?;
    let starting = async {
        server.ensure_bootstrap().await?;
        match tokio::time::timeout(READY_TIMEOUT, runtime.answers()).await {
            Ok(answered) => answered?,
            Err(_) => bail!(
                "the runtime does not answer after {} s; see {}",
                READY_TIMEOUT.as_secs(),
                layout.runtime_log().display()
            ),
        }
        let gateway_port = gateway_address.port();
        let socket = runtime.socket();
        start_components(
            &mut parts,
            &args,
            &layout,
            &node_name,
            &server,
            metrics,
            &certificates,
            socket,
            gateway_listener,
            gateway_tls_listener,
            gateway_metrics,
            queue_metrics,
            telemetry.as_ref().map(Telemetry::tracer),
            gateway_port,
            &shutdown,
        )
        .await
    };
    tokio::select! {
        started = starting => started?,
        _ = stop.recv() => return Ok(()),
    }
    let runtime_shutdown = CancellationToken::new();
    let supervisor = tokio::spawn(runtime.supervise(runtime_shutdown.clone()));

    let ready = async {
        node_is_ready(&server, &node_name, &shutdown).await?;
        gateway_answers(gateway_address).await
    };
    let outcome = tokio::select! {
        ready = tokio::time::timeout(READY_TIMEOUT, ready) => match ready {
            Ok(Ok(())) => {
                println!("dhow is ready in {} ms", begin.elapsed().as_millis());
                println!("  API server    {url}");
                println!("  functions     http://NAME.localhost:{}", gateway_address.port());
                match (gateway_tls_port, args.gateway_tls_port) {
                    (Some(port), _) => println!("  over TLS      https://NAME.localhost:{port}"),
                    (None, None) => println!(
                        "  over TLS      off: another program has port {}; choose one with --gateway-tls-port",
                        TlsPort::DEFAULT
                    ),
                    (None, Some(_)) => {}
                }
                println!("  kubectl       export KUBECONFIG={}", kubeconfig.display());
                println!("  next          dhow deploy FILE.wasm");
                tokio::select! {
                    _ = stop.recv() => Ok(()),
                    ended = parts.ended() => ended,
                }
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("the node is not Ready after {} s; see {}", READY_TIMEOUT.as_secs(), layout.runtime_log().display())),
        },
        ended = parts.ended() => ended,
        _ = stop.recv() => Ok(()),
    };
    shutdown.cancel();
    runtime_shutdown.cancel();
    let _ = supervisor.await;
    door.cancel();
    if tokio::time::timeout(STOP, parts.all_ended()).await.is_err() {
        tracing::warn!("some components did not end in time");
    }
    server.shutdown().await;
    if let Some(telemetry) = telemetry {
        telemetry.end().await;
    }
    outcome
}

/// The running components, each with its name.
#[derive(Default)]
struct Parts(JoinSet<(&'static str, Result<()>)>);

impl Parts {
    fn add(&mut self, name: &'static str, part: impl Future<Output = Result<()>> + Send + 'static) {
        self.0.spawn(async move { (name, part.await) });
    }

    /// Resolves when a component ends that should not: with its error.
    async fn ended(&mut self) -> Result<()> {
        match self.0.join_next().await {
            Some(Ok((name, Ok(())))) => bail!("the {name} ended by itself"),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("the {name} failed"))),
            Some(Err(error)) => Err(error).context("a component failed"),
            None => std::future::pending().await,
        }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(name, error = %format!("{error:#}"), "a component ended with an error");
            }
        }
    }
}

/// A client through the server's inner door.
fn client_as(server: &ApiServer, user: UserInfo) -> Client {
    client::in_process(server.service(user), "default")
}

#[expect(clippy::too_many_arguments, reason = "each is one thing that up has made and a component needs")]
async fn start_components(
    parts: &mut Parts,
    args: &Args,
    layout: &Layout,
    node_name: &str,
    server: &ApiServer,
    metrics: MetricsServer,
    certificates: &Certificates,
    runtime_socket: &std::path::Path,
    gateway_listener: TcpListener,
    gateway_tls_listener: Option<TcpListener>,
    gateway_metrics: Arc<gateway::Metrics>,
    queue_metrics: Arc<controllers::QueueMetrics>,
    tracer: Option<Arc<telemetry::Tracer>>,
    gateway_port: u16,
    shutdown: &CancellationToken,
) -> Result<()> {
    let manager = client_as(server, UserInfo::component("system:kube-controller-manager"));
    // One watch of each kind for the whole process, whoever asks for it.
    let informers = Informers::new(manager.clone(), shutdown.clone());

    let (i, s) = (informers.clone(), shutdown.clone());
    let c = client_as(server, UserInfo::component("system:kube-scheduler"));
    parts.add("scheduler", async move {
        scheduler::run(scheduler::Config::default(), c, i, ambient::real(), s).await;
        Ok(())
    });

    let (i, s) = (informers.clone(), shutdown.clone());
    let config = controllers::Config {
        gateway_port,
        root_ca_pem: certificates.authority_pem.clone(),
        autoscaler: args.autoscaler.config(),
        queue_metrics,
        ..controllers::Config::default()
    };
    parts.add("controller manager", async move {
        controllers::run(config, manager, i, ambient::real(), s).await;
        Ok(())
    });

    let (i, s) = (informers.clone(), shutdown.clone());
    let c = client_as(server, UserInfo::component("system:metrics-server"));
    let resolution = args.metrics.metric_resolution;
    parts.add("metrics server", async move {
        metrics.run(c, i, ambient::real(), resolution, s).await;
        Ok(())
    });

    let (i, s) = (informers.clone(), shutdown.clone());
    let c = client_as(server, UserInfo::component("system:kube-proxy"));
    let config = kube_proxy::Config {
        node_name: node_name.to_owned(),
        node_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ambient: ambient::real(),
    };
    parts.add("kube-proxy", async move {
        kube_proxy::run(config, c, i, s).await;
        Ok(())
    });

    let (i, s) = (informers.clone(), shutdown.clone());
    let c = client_as(server, UserInfo::component("system:gateway"));
    let issue = certificates::issue(certificates.authority.clone());
    let config = gateway::Config {
        listener: gateway_listener,
        tls: gateway_tls_listener.map(|listener| gateway::Tls { listener, issue }),
        metrics: gateway_metrics,
        tracer,
        ambient: ambient::real(),
    };
    parts.add("gateway", async move { gateway::run(config, c, i, s).await.map_err(Into::into) });

    let cri = Arc::new(cri::client::connect(runtime_socket));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening for the kubelet")?;
    let mut config = kubelet::Config::new(
        node_name,
        client_as(server, UserInfo::node(node_name)),
        cri.clone(),
        cri,
        layout.kubelet(),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
    );
    config.max_pods = args.max_pods;
    config.https = Some(kubelet::Https {
        listener,
        tls: pki::server_config(&certificates.authority_pem, &certificates.kubelet)?,
    });
    let s = shutdown.clone();
    parts.add("kubelet", async move { kubelet::run(config, ambient::real(), s).await.map_err(Into::into) });
    Ok(())
}

/// Resolves when the node's Ready condition is True.
async fn node_is_ready(server: &ApiServer, node_name: &str, shutdown: &CancellationToken) -> Result<()> {
    let nodes = Informers::new(client_as(server, UserInfo::admin()), shutdown.clone()).get::<Node>();
    let mut changes = nodes.subscribe();
    while changes.next().await.is_some() {
        let ready = nodes.get("", node_name).is_some_and(|node| {
            let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        });
        if ready {
            return Ok(());
        }
    }
    bail!("the watch of the node ended")
}

async fn gateway_answers(address: SocketAddr) -> Result<()> {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    TcpStream::connect((ip, address.port())).await.context("the gateway does not answer")?;
    Ok(())
}
