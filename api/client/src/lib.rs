//! How every component talks to the API server.
//!
//! Purpose: kube-rs with our policies: clients in process, informers, work queues, leader election, events, and the
//! types of our own API group.
//!
//! Invariant: whoever uses this crate sees the API server only through Kubernetes' API; it cannot tell whether
//! a socket lies between. Nothing here holds an unbounded queue, and nothing reads a clock or a random source
//! that was not handed in: timers are tokio's, the time of day is an [`Ambient`](machinery::ambient::Ambient).
//!
//! ```text
//!   controllers · scheduler · kubelet · kube-proxy · gateway
//!        │ Informer (a store kept fresh by a watch)   WorkQueue (dedup, backoff)   Recorder (events)
//!        │ LeaderElector (a Lease held)
//!        └──────────────► kube::Client ──► socket │ tower Service in this process
//! ```
//!
//! The usual loop of a controller:
//!
//! ```no_run
//! # async fn example(client: client::Client, shutdown: tokio_util::sync::CancellationToken) {
//! use client::{Change, Informers, WorkQueue, ObjectKey};
//! use client::k8s_openapi::api::core::v1::Pod;
//! let informers = Informers::new(client.clone(), shutdown.clone());
//! let pods = informers.get::<Pod>();
//! let queue = WorkQueue::<ObjectKey>::new(shutdown.clone());
//! let mut changes = pods.subscribe();
//! pods.synced().await;
//! loop {
//!     tokio::select! {
//!         change = changes.next() => match change {
//!             Some(Change::Applied(pod) | Change::Deleted(pod)) => queue.add(ObjectKey::of(&*pod)),
//!             Some(Change::Resync) => {} // an Applied for everything that is there follows
//!             None => break,
//!         },
//!         Some(key) = queue.next() => {
//!             // sync_pod(&key).await; then queue.forget(&key) or queue.add_rate_limited((*key).clone())
//!             queue.forget(&key);
//!         }
//!     }
//! }
//! # }
//! ```
mod backoff;
mod connect;
pub mod dhow;
pub mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake_api;
pub mod informer;
mod leader_election;
mod object_key;
pub mod selector;
mod service_endpoints;
mod toleration;
mod work_queue;

pub use connect::in_process;
pub use events::{EventType, Recorder};
pub use informer::{Change, Informer, Informers, Object, Selection, Subscription};
pub use k8s_openapi;
pub use kube;
pub use kube::Client;
pub use leader_election::{LeaderElector, LeaseTiming};
pub use object_key::ObjectKey;
pub use service_endpoints::{SERVICE_NAME, ServiceEndpoints};
pub use toleration::tolerates;
pub use work_queue::{Claim, WorkQueue};

/// Whether an API call failed because the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    has_code(error, 404)
}

/// Whether an API call failed because the object exists already.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(s) if s.code == 409 && s.reason == "AlreadyExists")
}

/// Whether an API call failed because somebody else wrote the object first.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(s) if s.code == 409 && s.reason != "AlreadyExists")
}

/// Whether an API call failed because the resource version or continue token is too old.
pub fn is_expired(error: &kube::Error) -> bool {
    has_code(error, 410)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(s) if s.code == code)
}

/// An error and its causes in one line, for logs and events. Causes that an error has said itself are left out.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
