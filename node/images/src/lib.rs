//! Images: from a registry (or a file) onto this machine, addressed by what they contain.
//!
//! Purpose: parses references, pulls wasm artifacts and Linux images, keeps their blobs, unpacks layers, pushes wasm
//! artifacts, and removes what nothing refers to any more.
//!
//! Invariant: a file under `blobs/` holds exactly the bytes its name is the digest of, and a directory under
//! `layers/` is complete; both appear by rename. A record in `index.json` names only blobs and layers that are there.
//!
//! ```text
//!   reference ──► registry ──manifest──► plan ──┬─ wasm: one blob, checked to be wasm
//!                    │ (single flight           └─ linux: layers ─unpack─► layers/<chain id>
//!                    ▼  per digest)                                          │
//!                blobs/sha256/…  ◄────────────── index.json (records) ───────┘
//! ```
mod artifact;
mod blobs;
mod component;
mod credential;
mod error;
mod import;
mod index;
mod layer;
mod manifest;
mod pace;
mod pull;
mod push;
mod reference;
mod registry;
mod repository;
mod store;
mod wasm;

pub mod fake;

pub use artifact::{ComponentInfo, WASM_CONFIG_MEDIA_TYPE, WASM_LAYER_MEDIA_TYPE};
pub use component::component_of;
pub use credential::{Credential, CredentialFile};
pub use error::Error;
pub use index::{ImageRecord, Kind, LayerRecord, RunConfig};
pub use pull::{Prefer, PullOptions};
pub use push::{PushOptions, Pushed, push_wasm};
pub use reference::Reference;
pub use registry::{RegistryConfig, RootCertificate};
pub use store::{Config, Content, Images, Limits, Usage};
pub use wasm::Form;

use std::sync::Arc;

/// How far a transfer is. `total_bytes` is known from the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of all blobs together, those that were here already included.
    pub done_bytes: u64,
    pub total_bytes: u64,
    /// What is done now, for people: `pulling`, `unpacking`, `pushing`.
    pub phase: &'static str,
}

/// Told how far a transfer is; called often, from any thread.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;
