//! Addresses of pods.
//!
//! Purpose: gives every sandbox an address (and, where there is one, a network namespace) and takes it back.
//!
//! Invariant: no two sandboxes hold one address at the same time, however often a call is repeated and whatever was
//! taken up from an earlier process. What is held is told by the runtime's records; nothing is kept on disk here.
//!
//! ```text
//!   RunPodSandbox ──allocate──► Attachment { ip } ──► the sandbox's record
//!   runtime starts again ──adopt──► the same addresses are taken
//!   StopPodSandbox ──release──► the address rests until all others were used
//! ```
mod host;
mod loopback;
pub mod suite;

pub use host::HostNetwork;
pub use loopback::LoopbackNetwork;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// How a sandbox is attached to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub ip: IpAddr,
    /// The pod's network namespace; `None` shares the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<PathBuf>,
}

/// Why the network could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("all {limit} pod addresses of {range} are in use")]
    Exhausted { range: String, limit: usize },
    #[error("address {ip} of sandbox {sandbox} is not one of {range}")]
    OutOfRange { ip: IpAddr, sandbox: String, range: String },
    #[error("address {ip} of sandbox {sandbox} is held by sandbox {holder}")]
    Taken { ip: IpAddr, sandbox: String, holder: String },
    #[error("{range:?} is no range of pod addresses: {reason}")]
    InvalidRange { range: String, reason: &'static str },
}

/// Attaches sandboxes. Every call may be made twice.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Attaches a sandbox; gives what it holds already if it holds something.
    async fn allocate(&self, sandbox: &str) -> Result<Attachment, Error>;
    /// Takes up what an earlier process gave to a sandbox.
    async fn adopt(&self, sandbox: &str, attachment: &Attachment) -> Result<(), Error>;
    /// Detaches a sandbox; does nothing if it holds nothing.
    async fn release(&self, sandbox: &str) -> Result<(), Error>;
    /// Who holds what, by sandbox.
    async fn list(&self) -> Vec<(String, Attachment)>;
    /// Whether it can attach sandboxes now; the error says what is missing.
    fn ready(&self) -> Result<(), Error> {
        Ok(())
    }
}
