//! Runs WebAssembly: the shim whose containers are sandboxes inside the runtime's own process.
//!
//! Purpose: turn one WebAssembly binary and a [`ContainerSpec`] into a [`Container`]. Three kinds of binary are
//! taken: a WASI preview 1 module and a command component of WASI 0.2 or 0.3 run once, from start to exit; a
//! `wasi:http` component is served on the pod's address, with a fresh instance for every request unless the pod
//! permits one to serve several.
//!
//! Invariant: no guest can hold a thread, a byte or a socket beyond its limits. It is interrupted every
//! [`limits::EPOCH_TICK`], its memory is counted before it grows, its requests and connections are bounded, and
//! what it may connect to, and who may connect to it, follows the pod's rules, after the name was resolved. An http container holds no instance
//! [`limits::REUSE_IDLE`] after its last request, and a process without wasm containers has not even built the engine.
//!
//! ```text
//!   create ─► form: what do the bytes say? ─► code: memory ─► sealed file ─► compiler (one process per core)
//!                                               │ Prepared, shared by all containers of the digest
//!   start ──► command: one store, one call ─────┤
//!             http:    listener ─► request ─► one store, one call
//!                                               │ account (memory)  meter (CPU)  preopen (files)  figures (counts)
//!   wait ◄── ending: exit code, reason, backtrace
//! ```
mod account;
mod capability;
mod code;
mod command;
mod compiler;
mod container;
mod descriptors;
mod dial;
mod ending;
mod executor;
mod exports;
mod figures;
mod form;
mod gate;
mod guest;
mod host;
mod http_server;
mod idle;
mod instance;
mod lanes;
mod limited_body;
pub mod limits;
mod listener;
mod log_rate;
mod meter;
mod offers;
mod outbound;
mod preopen;
mod reach;

mod response_body;
mod room;
mod sealed;
mod settings;
mod sockets;
mod stdio;
mod terminal;
mod ticker;
mod traces;

pub use compiler::compile_main;

use async_trait::async_trait;
use shim::{Clock, Container, ContainerSpec, Error, ImageContent, ImageKind, Output, Shim};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use telemetry::Tracer;
use tokio_util::sync::CancellationToken;

/// What the shim needs to know of its machine.
#[derive(Clone)]
pub struct Config {
    /// Where compiled code is kept between runs. Made with mode 0700; only this shim writes there.
    pub cache_dir: PathBuf,
    /// Stamps the end of containers.
    pub now: Clock,
    /// The parts of 127.0.0.0/8 that guests may connect to: the pods' and services' addresses of a cluster that
    /// lives on one machine. All other loopback addresses belong to the node and are refused.
    pub reachable_loopback: Vec<(Ipv4Addr, u8)>,
    /// Those of Services. Once Services are known, connections to them are led to their endpoints, and no other of these
    /// addresses is reached.
    pub service_ranges: Vec<(Ipv4Addr, u8)>,
    /// The command that runs [`compile_main`], to which file, digest and place are added: in the product this very
    /// binary and `internal-wasm-compile`. Empty: programs are compiled in this process.
    pub compiler: Vec<OsString>,
    /// CPU time that compiling one program may take.
    pub compile_cpu_seconds: u64,
    /// Where the embedded `wasi:keyvalue` stores lie, a file for each namespace.
    pub keyvalue_dir: PathBuf,
    /// What those of one namespace may hold.
    pub keyvalue_bytes: u64,
    /// Instances alive at once on this node; the pooling allocator reserves addresses for that many.
    pub max_instances: u32,
    /// Begins a span for each request that a guest serves or sends; without it nobody traces.
    pub tracer: Option<Arc<Tracer>>,
}

impl Config {
    /// The usual configuration: key-value stores beside the compiled code, and the default pod and service ranges of a
    /// rootless cluster.
    pub fn new(cache_dir: PathBuf, now: Clock) -> Self {
        Self {
            compile_cpu_seconds: limits::COMPILE_CPU_SECONDS,
            keyvalue_dir: cache_dir.with_file_name("keyvalue"),
            keyvalue_bytes: limits::MAX_NAMESPACE_BYTES,
            cache_dir,
            now,
            reachable_loopback: vec![(Ipv4Addr::new(127, 42, 0, 0), 16), (Ipv4Addr::new(127, 96, 0, 0), 16)],
            service_ranges: vec![(Ipv4Addr::new(127, 96, 0, 0), 16)],
            compiler: Vec::new(),
            max_instances: limits::MAX_INSTANCES,
            tracer: None,
        }
    }
}

/// The shim. Cheap to make: the engine is built with the first container.
pub struct WasmtimeShim {
    config: Arc<Config>,
    host: tokio::sync::OnceCell<Arc<host::Host>>,
    shutdown: CancellationToken,
}

impl WasmtimeShim {
    /// `shutdown` ends all containers: http servers finish what they answer, commands stop at once.
    pub fn new(config: Config, shutdown: CancellationToken) -> Self {
        Self { config: Arc::new(config), host: tokio::sync::OnceCell::new(), shutdown }
    }

    async fn host(&self) -> Result<&Arc<host::Host>, Error> {
        self.host
            .get_or_try_init(|| async {
                let config = self.config.clone();
                tokio::task::spawn_blocking(move || host::Host::new(&config).map(Arc::new))
                    .await
                    .map_err(|e| Error::Unavailable(format!("building the wasm engine failed: {e}")))?
            })
            .await
    }
}

#[async_trait]
impl Shim for WasmtimeShim {
    fn handler(&self) -> &str {
        "wasmtime"
    }

    fn image_kind(&self) -> ImageKind {
        ImageKind::Wasm
    }

    fn offers(&self) -> Vec<String> {
        offers::offers(&self.config)
    }

    fn ready(&self) -> Result<(), Error> {
        sealed::ensure_private_dir(&self.config.cache_dir)
    }

    async fn prepare(&self, image: &ImageContent, tenant: &str) -> Result<(), Error> {
        let ImageContent::Wasm { path, digest } = image else { return Ok(()) };
        let host = self.host().await?;
        host.code.prepare(host, path, digest, tenant).await.map(|_| ())
    }

    async fn kept_namespaces(&self) -> Result<Vec<String>, Error> {
        let dir = self.config.keyvalue_dir.clone();
        let listed = tokio::task::spawn_blocking(move || capability::keyvalue::kept_namespaces(&dir)).await;
        listed.map_err(|e| Error::Unavailable(format!("the key-value stores cannot be listed: {e}")))?
    }

    async fn forget_namespace(&self, namespace: &str) -> Result<(), Error> {
        // Whoever has it open is asked, so that nothing is removed under it.
        let host = self.host().await?;
        host.capabilities.iter().try_for_each(|capability| capability.forget_namespace(namespace))
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, Error> {
        let ImageContent::Wasm { path, digest } = &spec.image else {
            return Err(Error::InvalidSpec(format!(
                "{}: the image is a Linux root filesystem, which the wasmtime runtime class cannot run; \
                 remove runtimeClassName or use an image that holds WebAssembly",
                spec.display_name
            )));
        };
        if spec.terminal {
            return Err(Error::InvalidSpec(format!(
                "{}: a WebAssembly container has no terminal; set tty to false",
                spec.display_name
            )));
        }
        let host = self.host().await?;
        let (tenant, _) = capability::names(&spec.display_name);
        let prepared =
            host.code.prepare(host, path, digest, tenant).await.map_err(|e| named(e, &spec.display_name))?;
        container::WasmContainer::create(host.clone(), self.config.clone(), prepared, spec, &self.shutdown)
            .await
            .map(|container| container as Arc<dyn Container>)
    }

    async fn adopt(
        &self,
        _: &str,
        _: PathBuf,
        _: Arc<dyn Output>,
    ) -> Result<Option<Arc<dyn Container>>, Error> {
        // A sandbox lives and dies with the process that holds it.
        Ok(None)
    }
}

/// Puts the container's name before what is wrong with its image.
fn named(error: Error, name: &str) -> Error {
    match error {
        Error::InvalidImage(text) => Error::InvalidImage(format!("{name}: {text}")),
        other => other,
    }
}
