//! Whole clusters in one process and one thread, under tokio's paused clock: simulated hours take milliseconds,
//! and the same test takes the same path each time.
mod autoscaling;
mod cluster;
mod deployments;
mod functions;
mod garbage;
mod jobs;
mod kubelet;
mod namespaces;
mod node_agent;
mod nodes;
mod services;
