//! The Container Runtime Interface, v1: the border between the kubelet and whatever runs containers.
//!
//! Purpose: the messages, the two services as traits, gRPC both ways, a fake that follows a script, and one suite
//! that every implementation passes.
//!
//! Invariant: nothing here knows how a container is run, and nothing here knows Kubernetes' API.
//!
//! ```text
//!   kubelet ──► RuntimeService + ImageService (traits)
//!                 ├── runtime::Runtime          in process
//!                 ├── client::connect(socket) ──gRPC──► server::serve ──► any of these
//!                 └── fake::FakeRuntime         tests
//! ```
mod error;
mod filter;
mod observed;
mod service;
mod types;

pub mod client;
pub mod fake;
pub mod server;
pub mod suite;

pub use error::Error;
pub use observed::{Observed, Observer};
pub use service::{ByteStream, EventStream, ImageService, RuntimeService};
pub use types::*;

/// The annotation of a container by which the kubelet passes its TCP ports on, in order (`8080,9090`): CRI has no
/// field for them.
pub const PORTS_ANNOTATION: &str = "dhow.dev/ports";

/// The annotation of a container by which the kubelet says which of its mounts are a subPath: their container paths, as
/// a JSON list. Containers that share the volume can put a link anywhere into such a path, so the
/// runtime mounts what lies there only if no link has to be followed to it. (The kubelet has followed those that were
/// there when it looked.)
pub const SUB_PATHS_ANNOTATION: &str = "dhow.dev/sub-paths";

/// The annotation of an image's spec in which our runtime tells what it holds: `wasm` or `linux`.
pub const IMAGE_KIND_ANNOTATION: &str = "dhow.dev/image-kind";
/// In the spec of an image to pull: it is compiled as well, so that its first container starts at once.
pub const PRECOMPILE_ANNOTATION: &str = "dhow.dev/precompile";

/// The largest message taken or sent: the kubelet's own limit (16 MiB), reached by ExecSync output and long lists.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The kubelet's limit for one direction of ExecSync output; what is beyond is dropped. Two of them and their
/// framing stay below [`MAX_MESSAGE_BYTES`].
pub const MAX_EXEC_OUTPUT_BYTES: usize = 7 * 1024 * 1024;
