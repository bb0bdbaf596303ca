//! Runs Linux containers through an OCI runtime's command line: runc, or crun, youki, runsc.
//!
//! Purpose: the second tenant of the border between the runtime and whoever runs a container. It assembles a root
//! filesystem from layers, writes the OCI configuration, and has the OCI runtime do the rest.
//!
//! Invariant: a container's life does not hang on this process. Each has a supervisor of its own, the *monitor*,
//! which is the parent of the container's first process, holds its pipes, and writes how it ended into a file
//! before anything else may know. Whatever this process does can be done again after it was killed anywhere.
//!
//! ```text
//!   OciShim ─create─► overlay mount, config.json, fifos ─spawn─► monitor (setsid, subreaper)
//!      │                                                           └─ runc create ─► container
//!      │ runc start / kill / exec                                           stdout, stderr │ fifos
//!      │◄── fifos: output, read straight into the log ◄────────────────────────────────────┘
//!      │◄── status fifo: "created", "ended"; end of file: the monitor is gone
//!   state_dir: plan.json created.json ended.json  bundle/{config.json,rootfs}  upper work layers/  stdout stderr …
//! ```
mod cgroup;
mod config_json;
mod container;
mod exec;
mod host;
mod monitor;
mod oci_runtime;
mod pins;
mod pty;
mod record;
mod rootfs;
mod seccomp;
mod streams;
mod user;

pub use monitor::monitor_main;

use async_trait::async_trait;
use oci_runtime::OciRuntime;
use shim::{Container, ContainerSpec, Error, ImageContent, ImageKind, Output, Shim};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the shim needs to know of its machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The OCI runtime: a name on PATH or a path. Its file name is this shim's handler.
    pub runtime: String,
    /// Where the OCI runtime keeps its own state (its `--root`), on a filesystem that a reboot empties.
    pub state_root: PathBuf,
    /// The command that runs [`monitor_main`]; the container's state directory is added as its last argument.
    /// In the product: this very binary and `internal-shim-monitor`.
    pub monitor: Vec<OsString>,
}

/// The shim.
pub struct OciShim {
    config: Arc<Config>,
    runtime: OciRuntime,
    handler: String,
    shutdown: CancellationToken,
}

impl OciShim {
    /// `shutdown` ends what this process does for containers; the containers themselves run on.
    pub fn new(config: Config, shutdown: CancellationToken) -> Self {
        let runtime = OciRuntime::new(&config.runtime, &config.state_root);
        let handler = std::path::Path::new(&config.runtime)
            .file_name()
            .map_or_else(|| config.runtime.clone(), |name| name.to_string_lossy().into_owned());
        Self { config: Arc::new(config), runtime, handler, shutdown }
    }
}

#[async_trait]
impl Shim for OciShim {
    fn handler(&self) -> &str {
        &self.handler
    }

    fn image_kind(&self) -> ImageKind {
        ImageKind::Linux
    }

    fn ready(&self) -> Result<(), Error> {
        host::ensure_root()?;
        self.runtime.ensure_installed()
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, Error> {
        self.ready()?;
        if !matches!(spec.image, ImageContent::Linux { .. }) {
            return Err(Error::InvalidSpec(format!(
                "{}: the image holds WebAssembly, which the {} runtime class cannot run; remove runtimeClassName",
                spec.display_name, self.handler
            )));
        }
        if spec.terminal {
            return Err(Error::InvalidSpec(format!(
                "{}: terminals are not supported for Linux containers; set tty to false",
                spec.display_name
            )));
        }
        let container =
            container::create(spec, self.runtime.clone(), &self.config.monitor, &self.shutdown).await?;
        Ok(container)
    }

    async fn adopt(
        &self,
        id: &str,
        state_dir: PathBuf,
        output: Arc<dyn Output>,
    ) -> Result<Option<Arc<dyn Container>>, Error> {
        let container = container::adopt(id, state_dir, output, &self.shutdown).await?;
        Ok(container.map(|container| container as Arc<dyn Container>))
    }
}
