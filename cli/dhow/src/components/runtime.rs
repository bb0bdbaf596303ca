//! `dhow runtime`.
use crate::ambient;
use crate::client_commands::push::roots;
use crate::otlp::{self, Telemetry};
use anyhow::{Context, Result};
use apiserver::Cidr;
use cri::{
    ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest, RuntimeService,
    StopContainerRequest,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use pod_network::LoopbackNetwork;
use runtime::Runtime;
use shim::Shim;
use shim_oci::OciShim;
use shim_wasmtime::WasmtimeShim;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// How long containers get to end when the runtime is ended with them.
const GRACE_SECONDS: i64 = 5;

/// Start the container runtime of this node: images, sandboxes, and a shim for each kind of program
///
/// It speaks CRI v1 on a unix socket. SIGTERM ends it and leaves Linux containers running; SIGINT ends them as well.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where images and containers are kept
    #[arg(long, value_name = "DIR")]
    root_dir: PathBuf,
    /// The socket to listen on
    #[arg(long, value_name = "SOCKET")]
    listen: PathBuf,
    #[command(flatten)]
    flags: Flags,
}

/// Flags that `dhow up` passes on.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The program that runs Linux containers: runc, crun, youki or runsc
    #[arg(long, value_name = "PROGRAM", default_value = "runc")]
    oci_runtime: String,
    /// The range of pod addresses
    #[arg(long, value_name = "CIDR", default_value = LoopbackNetwork::DEFAULT_RANGE)]
    pod_cidr: String,
    /// The range of ClusterIPs
    #[arg(long, value_name = "CIDR", default_value_t = Cidr::DEFAULT_SERVICES)]
    pub(crate) service_cluster_ip_range: Cidr,
    /// A registry to be asked by plain HTTP (those on this machine always are); may be given again
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http_registry: Vec<String>,
    /// A certificate authority of registries to trust beside the system's, PEM; may be given again
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) traces: otlp::Flags,
}

impl Flags {
    /// The flags as words again.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        let mut words = vec![
            "--oci-runtime".to_owned(),
            self.oci_runtime.clone(),
            "--pod-cidr".to_owned(),
            self.pod_cidr.clone(),
            "--service-cluster-ip-range".to_owned(),
            self.service_cluster_ip_range.to_string(),
        ];
        for registry in &self.plain_http_registry {
            words.extend(["--plain-http-registry".to_owned(), registry.clone()]);
        }
        for file in &self.registry_ca {
            let path =
                std::path::absolute(file).with_context(|| format!("{} is not a path", file.display()))?;
            words.extend(["--registry-ca".to_owned(), path.display().to_string()]);
        }
        words.extend(self.traces.words());
        Ok(words)
    }
}

/// Those of `cidrs` that lie in 127.0.0.0/8, as address and number of bits.
fn loopback_ranges(cidrs: &[&str]) -> Vec<(Ipv4Addr, u8)> {
    let parse = |cidr: &&str| {
        let (address, bits) = cidr.split_once('/')?;
        Some((address.parse::<Ipv4Addr>().ok()?, bits.parse().ok()?))
    };
    cidrs.iter().filter_map(parse).filter(|(address, bits)| address.is_loopback() && *bits >= 8).collect()
}

/// Where the OCI runtime keeps its state: below `/run`, which a reboot empties as it ends the containers, under a name
/// of its own for each root directory.
fn oci_state(root: &Path) -> PathBuf {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(root.as_os_str().as_encoded_bytes());
    Path::new("/run/dhow").join(&hex::encode(digest)[..16])
}

pub(crate) async fn run(args: Args) -> Result<()> {
    ambient::log("info");
    std::fs::create_dir_all(&args.root_dir).with_context(|| format!("making {}", args.root_dir.display()))?;
    let shutdown = CancellationToken::new();
    let now: shim::Clock = {
        let ambient = ambient::real();
        Arc::new(move || ambient.now().into())
    };
    let random = ambient::real();
    let program = std::env::current_exe().context("finding this program")?.into_os_string();
    let mut wasm = shim_wasmtime::Config::new(args.root_dir.join("compiled"), now.clone());
    // Compiling a hostile module must not take this process with it.
    wasm.compiler = vec![program.clone(), "internal-wasm-compile".into()];
    wasm.reachable_loopback =
        loopback_ranges(&[&args.flags.pod_cidr, &args.flags.service_cluster_ip_range.to_string()]);
    wasm.service_ranges = loopback_ranges(&[&args.flags.service_cluster_ip_range.to_string()]);
    let telemetry = Telemetry::start(&args.flags.traces, "dhow-runtime")?;
    wasm.tracer = telemetry.as_ref().map(Telemetry::tracer);
    let wasm = WasmtimeShim::new(wasm, shutdown.clone());
    let monitor = vec![program, "internal-shim-monitor".into()];
    let linux = OciShim::new(
        shim_oci::Config {
            runtime: args.flags.oci_runtime.clone(),
            state_root: oci_state(&args.root_dir),
            monitor,
        },
        shutdown.clone(),
    );
    let shims: Vec<Arc<dyn Shim>> = vec![Arc::new(wasm), Arc::new(linux)];
    let mut config = runtime::Config::new(
        args.root_dir.clone(),
        shims,
        Arc::new(LoopbackNetwork::new(&args.flags.pod_cidr)?),
        now,
        Arc::new(move || random.random()),
    );
    config.registries.plain_http = args.flags.plain_http_registry.clone();
    config.registries.extra_roots = roots(&args.flags.registry_ca)?;
    let runtime = Arc::new(Runtime::open(config).await?);
    // The runtime holds its directory, so a socket that is there is left over.
    match std::fs::remove_file(&args.listen) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("removing {}", args.listen.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&args.listen)
        .with_context(|| format!("listening on {}", args.listen.display()))?;
    std::fs::set_permissions(&args.listen, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let serving = cri::server::serve(listener, runtime.clone(), runtime.clone(), shutdown.clone());
    tokio::pin!(serving);
    let mut stop = ambient::StopSignal::new()?;
    let signal = tokio::select! {
        result = &mut serving => return Ok(result?),
        signal = stop.recv() => signal,
    };
    if signal == Signal::SIGINT {
        stop_containers(&runtime).await;
    }
    shutdown.cancel();
    let _ = std::fs::remove_file(&args.listen);
    let served = serving.await;
    runtime.close().await;
    if let Some(telemetry) = telemetry {
        telemetry.end().await;
    }
    if signal == Signal::SIGINT {
        unmount_below(&args.root_dir);
    }
    Ok(served?)
}

/// Takes away the mounts of containers that have ended, so that the directory can be removed. A container that is started
/// anew mounts its own.
fn unmount_below(root: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The latest first: one may lie on another.
    for point in mount_points(&mounts).into_iter().rev().filter(|point| point.starts_with(root)) {
        // Out of its peer group first, or what is mounted in a volume would go with the pin that shows it.
        let none = None::<&str>;
        let alone = mount(none, &point, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
        if let Err(error) = alone.and_then(|()| umount2(&point, MntFlags::MNT_DETACH)) {
            tracing::warn!(mount = %point.display(), %error, "a mount stays");
        }
    }
}

/// The mount points of `proc_pid_mountinfo(5)`: the fifth field, spaces and their like as three octal digits.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let unescape = |field: &str| {
        ["\\040", "\\011", "\\012", "\\134"]
            .iter()
            .zip([" ", "\t", "\n", "\\"])
            .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
    };
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| unescape(field).into()).collect()
}

/// Ends every container that runs, all at once.
async fn stop_containers(runtime: &Runtime) {
    let running = ContainerFilter {
        state: Some(ContainerStateValue { state: ContainerState::Running.into() }),
        ..ContainerFilter::default()
    };
    let listed = match runtime.list_containers(ListContainersRequest { filter: Some(running) }).await {
        Ok(listed) => listed.containers,
        Err(error) => return tracing::warn!(%error, "the containers cannot be listed"),
    };
    let stops = listed.into_iter().map(|container| async move {
        let request = StopContainerRequest { container_id: container.id, timeout: GRACE_SECONDS };
        if let Err(error) = runtime.stop_container(request).await {
            tracing::warn!(%error, "a container does not stop");
        }
    });
    futures::future::join_all(stops).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        let text = "36 35 98:0 / /data\\040dir/rootfs rw - overlay overlay rw\n37 35 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(mount_points(text), [PathBuf::from("/data dir/rootfs"), PathBuf::from("/proc")]);
    }

    #[test]
    fn only_loopback_ranges_are_opened_to_guests() {
        let ranges = loopback_ranges(&["127.42.0.0/16", "10.0.0.0/8", "nonsense", "127.0.0.0/4"]);
        assert_eq!(ranges, [(Ipv4Addr::new(127, 42, 0, 0), 16)]);
    }
}
