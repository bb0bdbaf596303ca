//! kube-scheduler: finds a node for every pod that has none.
//!
//! Purpose: keep a queue of pods and a picture of the nodes, decide one pod at a time, bind through the API
//! server, and say why when no node fits.
//!
//! Invariant: a decision is a pure function of a [`Snapshot`](cache::Snapshot), a pod and random numbers
//! ([`decide::schedule_one`]). One task owns queue and cache; requests to the API server run beside it and
//! only report back, so nothing changes while a decision is made.
//!
//! ```text
//!   informers (pods, nodes, runtime classes, namespaces)
//!        │ changes                          ┌── FitError ──► condition PodScheduled=False, event FailedScheduling
//!        ▼                                  │                back to the queue with who rejected it
//!   queue ──pop──► decide: PreFilter ► Filter, ClusterFilter ► PostFilter
//!   active                          └─► Score, ClusterScore ► Placement ──► cache.assume ──► Binder (pods/binding)
//!   backoff                                                       ▲                │ failed: forget, backoff
//!   unschedulable ◄── hints: may this event help that pod?        └────────────────┘
//! ```
pub mod affinity_term;
pub mod binder;
pub mod cache;
pub mod decide;
mod event_loop;
pub mod framework;
pub mod node_info;
pub mod plugins;
pub mod pod_info;
pub mod queue;
pub mod resources;
pub mod spread_constraint;
pub mod state;
pub mod throughput;

pub use event_loop::{Config, run};

/// A point in time: how long after the scheduler's start. The loop measures it; queue and cache are told.
pub type Moment = std::time::Duration;
