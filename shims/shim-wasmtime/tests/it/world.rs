//! A shim, a log and specifications for tests.
use sha2::{Digest, Sha256};
use shim::fake::Captured;
use shim::{Container, ContainerSpec, Error, Exit, ImageContent, Resources, Shim};
use shim_wasmtime::{Config, WasmtimeShim};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Few enough to be reached by a test.
pub const MAX_INSTANCES: u32 = 20;

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something, but not for ever.
pub async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("this takes too long")
}

/// One node's shim and its files.
pub struct World {
    pub dir: TempDir,
    pub shim: WasmtimeShim,
    pub shutdown: CancellationToken,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A node with another configuration.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config_in(dir.path());
        change(&mut config);
        let shutdown = CancellationToken::new();
        Self { dir, shim: WasmtimeShim::new(config, shutdown.clone()), shutdown }
    }

    /// Writes a guest and describes a container of it; the log is where it prints.
    pub fn spec(&self, bytes: &[u8]) -> (ContainerSpec, Arc<Captured>) {
        let digest = hex::encode(Sha256::digest(bytes));
        let path = self.dir.path().join(&digest);
        std::fs::write(&path, bytes).unwrap();
        let log = Arc::<Captured>::default();
        let spec = ContainerSpec {
            id: "c1".into(),
            display_name: "default/pod/main".into(),
            image: ImageContent::Wasm { path, digest: format!("sha256:{digest}") },
            args: vec!["guest".into()],
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
            cgroup_parent: "/dhow/pod1".into(),
            annotations: BTreeMap::new(),
            state_dir: self.state_dir(),
            stdin: None,
            terminal: false,
            output: log.clone(),
        };
        (spec, log)
    }

    pub fn state_dir(&self) -> PathBuf {
        let dir = self.dir.path().join("state");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub async fn start(&self, spec: ContainerSpec) -> Arc<dyn Container> {
        let container = soon(self.shim.create(spec)).await.unwrap();
        soon(container.start()).await.unwrap();
        container
    }

    pub async fn run(&self, spec: ContainerSpec) -> Exit {
        soon(self.start(spec).await.wait()).await
    }

    pub async fn refuse(&self, bytes: &[u8]) -> Error {
        soon(self.shim.create(self.spec(bytes).0)).await.err().expect("this image should be refused")
    }
}

fn config_in(dir: &Path) -> Config {
    let now = Arc::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
    let mut config = Config::new(dir.join("cache"), now);
    // A test's address space is shared with the others that run beside it.
    config.max_instances = MAX_INSTANCES;
    config.compiler = vec![env!("CARGO_BIN_EXE_shim-wasmtime-compiler").into()];
    config
}

pub fn shim_in(dir: &Path) -> (WasmtimeShim, CancellationToken) {
    let shutdown = CancellationToken::new();
    (WasmtimeShim::new(config_in(dir), shutdown.clone()), shutdown)
}

/// A preview 1 module whose `_start` is `body`; it can print, read, look at its arguments and exit.
pub fn module(declarations: &str, body: &str) -> Vec<u8> {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 2)
  {declarations}
  ;; Prints $length bytes at $text to the stream $fd, by way of a vector at 0.
  (func $print (param $fd i32) (param $text i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  ;; Reads into 4096 from the stream $fd and says how much.
  (func $read (param $fd i32) (result i32)
    (i32.store (i32.const 0) (i32.const 4096))
    (i32.store (i32.const 4) (i32.const 4096))
    (i32.store (i32.const 8) (i32.const 0))
    (drop (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $start (export "_start") {body}))"#
    )
    .into_bytes()
}
