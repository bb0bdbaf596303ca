//! A machine with runc, an image of busybox, a log.
use shim::fake::Captured;
use shim::{Container, ContainerSpec, Error, Exit, ImageContent, Resources, Shim};
use shim_oci::{Config, OciShim};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for something, but not for ever.
pub async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("this takes too long")
}

/// One node's shim and its files.
pub struct World {
    pub dir: TempDir,
    pub shim: OciShim,
    pub shutdown: CancellationToken,
}

/// The process that runs a container's monitor.
pub fn monitor() -> Vec<std::ffi::OsString> {
    vec![env!("CARGO_BIN_EXE_shim-oci-monitor").into()]
}

impl World {
    /// `None`, with a line that says why, where Linux containers cannot run.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (shim, shutdown) = shim_in(dir.path());
        if let Err(missing) = shim.ready() {
            eprintln!("SKIPPED, not tested here: {missing}");
            return None;
        }
        if !Path::new("/bin/busybox").is_file() {
            eprintln!(
                "SKIPPED, not tested here: the image is made of busybox; apt-get install busybox-static"
            );
            return None;
        }
        Some(Self { dir, shim, shutdown })
    }

    /// Two layers: busybox below, a few files above.
    pub fn layers(&self) -> Vec<PathBuf> {
        let (base, top) = (self.dir.path().join("base"), self.dir.path().join("top"));
        if !base.exists() {
            for directory in ["bin", "etc", "tmp"] {
                std::fs::create_dir_all(base.join(directory)).unwrap();
            }
            std::fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
            for tool in ["sh", "cat", "id", "echo", "pwd", "sleep", "ls", "hostname", "env", "touch"] {
                symlink("busybox", base.join("bin").join(tool)).unwrap();
            }
            std::fs::write(base.join("etc/motd"), "below").unwrap();
            std::fs::create_dir_all(top.join("etc")).unwrap();
            std::fs::write(top.join("etc/motd"), "above").unwrap();
            std::fs::write(top.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
                .unwrap();
            std::fs::write(top.join("etc/group"), "logs:x:50:web\n").unwrap();
        }
        vec![base, top]
    }

    /// A container of that name that runs a shell script.
    pub fn spec(&self, name: &str, script: &str) -> (ContainerSpec, Arc<Captured>) {
        let log = Arc::<Captured>::default();
        // Names are the machine's: tests run side by side.
        let unique = self.dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let id = format!("{name}-{unique}");
        let state_dir = self.dir.path().join(&id);
        std::fs::create_dir_all(&state_dir).unwrap();
        let spec = ContainerSpec {
            id,
            display_name: format!("default/pod/{name}"),
            image: ImageContent::Linux { layers: self.layers() },
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            supplemental_groups: Vec::new(),
            mounts: Vec::new(),
            read_only_root: false,
            privileged: false,
            seccomp: shim::Seccomp::Unconfined,
            resources: Resources::default(),
            pod_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            hostname: "pod".into(),
            ports: Vec::new(),
            network: shim::Network::default(),
            network_namespace: None,
            cgroup_parent: format!("/dhow-test/pod{unique}"),
            annotations: BTreeMap::new(),
            state_dir,
            stdin: None,
            terminal: false,
            output: log.clone(),
        };
        (spec, log)
    }

    pub async fn start(&self, spec: ContainerSpec) -> Arc<dyn Container> {
        let container = soon(self.shim.create(spec)).await.unwrap();
        soon(container.start()).await.unwrap();
        container
    }

    /// Runs it to its end and leaves nothing of it.
    pub async fn run(&self, spec: ContainerSpec) -> Exit {
        let container = self.start(spec).await;
        let exit = soon(container.wait()).await;
        soon(container.delete()).await.unwrap();
        exit
    }

    pub async fn refuse(&self, spec: ContainerSpec) -> Error {
        soon(self.shim.create(spec)).await.err().expect("this container should be refused")
    }

    /// What of this test's files is mounted.
    pub fn mounts(&self) -> Vec<String> {
        let here = self.dir.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned).collect()
    }
}

pub fn shim_in(dir: &Path) -> (OciShim, CancellationToken) {
    let shutdown = CancellationToken::new();
    let config = Config { runtime: "runc".into(), state_root: dir.join("runc"), monitor: monitor() };
    (OciShim::new(config, shutdown.clone()), shutdown)
}

/// The process a container's state directory names.
pub fn pid_in(state_dir: &Path) -> i32 {
    std::fs::read_to_string(state_dir.join("pid")).unwrap().trim().parse().unwrap()
}

/// Who supervises it.
pub fn parent_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}
