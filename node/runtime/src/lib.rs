//! The CRI runtime: sandboxes, containers, images, logs.
//!
//! Purpose: what the kubelet asks for over CRI, done with images, a pod network and shims. Which shim runs a container
//! is decided by what its image is; a sandbox's runtime handler forces one. One pod may hold containers of both kinds.
//!
//! Invariant: a sandbox or container exists exactly as long as its record on disk does, and every change is on disk
//! before anybody hears of it. Whoever opens the same directory after a crash finds the same sandboxes and containers;
//! containers that lived inside the process are found ended, those a shim can take up again are found running.
//!
//! ```text
//!   CRI call ──► verb (one file each) ──► plan (pure: which shim, what specification)
//!                  │                          │
//!                  ▼                          ▼
//!               records/ (JSON)           Shim::create ──► Container ──wait──► exit recorded ──► event
//!                                             └─ output ──► log in CRI's format, rotated
//! ```
mod attach;
mod config;
mod container;
mod create_container;
mod error;
mod events;
mod exec;
mod exec_sync;
mod images;
mod input;
mod log;
mod metrics;
mod namespaces;
mod networks;
mod open;
mod output;
mod pin;
mod plan;
mod record;
mod remove_container;
mod remove_pod_sandbox;
mod run_pod_sandbox;
mod service;
mod start_container;
mod state;
mod stats;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod streams;

pub use config::{Clock, Config, LogLimits, Random};
pub use error::OpenError;
pub use open::{Runtime, lock_path};
