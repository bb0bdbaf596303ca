//! What the runtime asks of whoever runs a container.
//!
//! Purpose: the border between the CRI runtime (sandboxes, images, logs, streams) and the things that can run
//! a program: a wasmtime sandbox, an OCI runtime's Linux container.
//!
//! Invariant: a shim knows one container at a time and nothing of pods, images on registries or Kubernetes.
//! Every call may be made twice; a container that has ended stays ended and keeps its [`Exit`].
//!
//! ```text
//!   runtime ──create──► Shim ──► Container ──start──► running ──wait──► Exit
//!                                   │ kill(signal)        │ stats, exec
//! ```
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

pub mod fake;
mod mount;
mod network;

pub use mount::{Mount, Pinned};
pub use network::Network;

/// What an image turned out to be once it lies on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageContent {
    /// One WebAssembly module or component.
    Wasm {
        /// The file with the binary (or text) form.
        path: PathBuf,
        /// `sha256:…` of that file; the key of the compile cache.
        digest: String,
    },
    /// A Linux root filesystem.
    Linux {
        /// Unpacked layers, lowest first; read-only.
        layers: Vec<PathBuf>,
    },
}

/// The kind of an image: what decides which shim runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    Wasm,
    Linux,
}

impl ImageContent {
    pub fn kind(&self) -> ImageKind {
        match self {
            Self::Wasm { .. } => ImageKind::Wasm,
            Self::Linux { .. } => ImageKind::Linux,
        }
    }
}

/// Limits; `None` is unlimited as far as the node's own limits allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub memory_limit_bytes: Option<u64>,
    /// CPU time in each period, microseconds (cgroup `cpu.cfs_quota_us`).
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    /// Relative weight (cgroup v1 `cpu.shares`, 1024 a core).
    pub cpu_shares: Option<u64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i64>,
}

/// Which system calls a container may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// All that its capabilities permit.
    #[default]
    Unconfined,
    /// Those of the shim's own profile.
    RuntimeDefault,
}

/// Where a container's output goes: the runtime's log of it, and whoever is attached.
pub trait Output: Send + Sync + 'static {
    /// Takes bytes of one stream as they come, whole lines or not. Blocks for no longer than a disk write;
    /// a guest that writes faster than its log allows is slowed down here.
    fn write(&self, stream: Stream, bytes: &[u8]);
    /// What to wait for before the next write, where somebody reads who must not be overrun; `None` to go on.
    fn room(&self) -> Option<Room> {
        None
    }
}

/// Resolves when there is room.
pub type Room = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Tells the time an [`Exit`] is stamped with. Handed in, so that tests decide what time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Standard input of a container.
pub type Input = Box<dyn tokio::io::AsyncRead + Send + Unpin>;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// The streams of a command that runs beside a container's own.
pub struct ExecStreams {
    pub stdin: Option<Input>,
    pub output: Arc<dyn Output>,
    /// The command gets a terminal, whose size changes with this; all it writes is then standard output.
    pub terminal: Option<watch::Receiver<Option<TerminalSize>>>,
}

/// Everything a shim must know to make a container.
pub struct ContainerSpec {
    /// Unique on this node; letters, digits and dashes.
    pub id: String,
    /// `namespace/pod/container`, for messages.
    pub display_name: String,
    pub image: ImageContent,
    /// The program and its arguments: the image's entrypoint and cmd with the pod's overrides applied.
    /// For wasm the first is what the guest sees as `argv[0]`.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Working directory; empty is the shim's default.
    pub cwd: String,
    /// `uid[:gid]` or a name, as the image or the pod says; empty is the shim's default.
    pub user: String,
    pub supplemental_groups: Vec<u32>,
    pub mounts: Vec<Mount>,
    pub read_only_root: bool,
    pub privileged: bool,
    pub seccomp: Seccomp,
    pub resources: Resources,
    /// The pod's address: where a wasi:http component is served and sockets are bound.
    pub pod_ip: IpAddr,
    pub hostname: String,
    /// TCP ports the container declares, in order. A wasi:http component is served on the first, or on
    /// [`DEFAULT_HTTP_PORT`].
    pub ports: Vec<u16>,
    /// What the pod may reach and be reached by. A shim that shares the node's network cannot enforce it.
    pub network: Network,
    /// The pod's network namespace; `None` shares the node's.
    pub network_namespace: Option<PathBuf>,
    /// Below which cgroup a Linux container goes: `/dhow/pod<uid>`.
    pub cgroup_parent: String,
    pub annotations: BTreeMap<String, String>,
    /// A directory of this container's own, made by the runtime and removed after [`Container::delete`].
    pub state_dir: PathBuf,
    pub stdin: Option<Input>,
    pub terminal: bool,
    pub output: Arc<dyn Output>,
}

/// Where a wasi:http component is served when its container declares no port.
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0–255; 128 + signal for a signal, as a shell says it.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`: Kubernetes' words.
    pub reason: String,
    /// What a person needs to know beyond that: the trap, the limit. May be empty.
    pub message: String,
    pub finished_at: SystemTime,
}

/// What a container uses now, and what it did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time since the start, nanoseconds.
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    /// The most memory it ever held at once; 0 where nobody keeps count of that.
    pub memory_peak_bytes: u64,
    /// What only a sandbox counts; `None` for a process of the kernel's.
    pub sandbox: Option<SandboxStats>,
}

/// What the instances of a sandbox did. All but `instances` only ever rise while the container lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxStats {
    /// Requests that were answered, by the first digit of their status: `[0]` are 1xx, `[4]` are 5xx.
    pub requests: [u64; 5],
    pub durations: Durations,
    /// Instances alive now.
    pub instances: u64,
    /// Instances made: cold starts. With an instance for each request there are as many as requests.
    pub instances_started: u64,
    /// Guests that trapped, those that went beyond their memory included.
    pub traps: u64,
    /// Requests that took longer than they may.
    pub timeouts: u64,
    /// Connections and requests to an address that the guest may not reach.
    pub egress_denials: u64,
    /// Connections that were refused because of who asked for them.
    pub ingress_denials: u64,
}

impl SandboxStats {
    /// Requests that were answered, whatever the answer.
    pub fn all_requests(&self) -> u64 {
        self.requests.iter().sum()
    }
}

/// How long requests took until the head of their answer was there: a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took no longer than the bound of the same index, and longer than the one before; the last are those
    /// beyond all bounds.
    pub counts: [u64; DURATION_BOUNDS.len() + 1],
    pub sum_nanoseconds: u64,
}

/// The upper bounds of [`Durations`]. A warm wasm request takes 0.1 ms, so they begin below that; the last is a third
/// of the usual time limit.
pub const DURATION_BOUNDS: [Duration; 15] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// Why a shim could not do what it was asked. Each text says what to do next, where there is something to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is not what it claims, or wants something the node has not: no retry will help.
    #[error("{0}")]
    InvalidImage(String),
    /// The specification asks for something this shim cannot give.
    #[error("{0}")]
    InvalidSpec(String),
    /// Something on this machine is missing or not permitted.
    #[error("{0}")]
    Unavailable(String),
    #[error("container {0} does not run")]
    NotRunning(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// Runs containers of one kind.
#[async_trait]
pub trait Shim: Send + Sync + 'static {
    /// The RuntimeClass handler: `wasmtime`, `runc`.
    fn handler(&self) -> &str;
    /// The kind of image it runs.
    fn image_kind(&self) -> ImageKind;
    /// The interfaces it offers to WebAssembly components, each with as much of its version as must fit:
    /// `wasi:http/types@0.2`. Empty where programs import nothing.
    fn offers(&self) -> Vec<String> {
        Vec::new()
    }
    /// Whether it can work on this machine; the error says what is missing.
    fn ready(&self) -> Result<(), Error>;
    /// Does beforehand what [`Shim::create`] would do for this image: compiles it, where there is something to compile.
    /// `tenant` is for whom, as far as tenants share the means.
    async fn prepare(&self, _image: &ImageContent, _tenant: &str) -> Result<(), Error> {
        Ok(())
    }
    /// Makes a container without starting it. Slow, failing things (compiling, mounting) happen here.
    /// Namespaces that keep something on this node beyond their containers.
    async fn kept_namespaces(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
    /// Removes what a namespace keeps on this node; [`Error::Unavailable`] while one of its containers may use it.
    async fn forget_namespace(&self, _namespace: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, Error>;
    /// Takes up a container that an earlier process of this runtime made and that may still run: `None` when
    /// there is none of that id (always, for containers that live inside the process).
    async fn adopt(
        &self,
        id: &str,
        state_dir: PathBuf,
        output: Arc<dyn Output>,
    ) -> Result<Option<Arc<dyn Container>>, Error>;
}

/// One container.
#[async_trait]
pub trait Container: Send + Sync + 'static {
    /// Starts it; returns once it runs (an http component: once its address is bound).
    async fn start(&self) -> Result<(), Error>;
    /// Sends a signal by number. 15 asks it to end, 9 ends it. Nothing happens if it has ended.
    async fn kill(&self, signal: i32) -> Result<(), Error>;
    /// Waits for its end; may be called by many, at any time, also after the end.
    async fn wait(&self) -> Exit;
    /// How it ended, if it has.
    fn exit(&self) -> Option<Exit>;
    fn stats(&self) -> Stats;
    /// Runs a command beside the container's own (probes). Gives its exit code.
    async fn exec(&self, args: &[String], timeout: Duration, output: Arc<dyn Output>) -> Result<i32, Error>;
    /// The same with streams and for as long as it takes. Dropping the future ends the command.
    async fn exec_with(&self, args: &[String], streams: ExecStreams) -> Result<i32, Error>;
    /// Releases everything it holds. It has ended, or is ended now.
    async fn delete(&self) -> Result<(), Error>;
}
