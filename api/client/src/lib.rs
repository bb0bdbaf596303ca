//! How every component talks to the API server.
//!
//! Purpose: kube-rs with our policies: clients over a socket or in process, informers, work queues, leader
//! election, events.
//!
//! Invariant: whoever uses this crate sees the API server only through Kubernetes' API; it cannot tell whether
//! a socket lies between.
//!
//! ```text
//!   controllers · scheduler · kubelet · kube-proxy · gateway
//!        │ Informer (a store kept fresh by a watch)   WorkQueue (dedup, backoff)   Recorder (events)
//!        └──────────────► kube::Client ──► socket │ tower Service in this process
//! ```
pub use k8s_openapi;
pub use kube;
pub use kube::Client;
