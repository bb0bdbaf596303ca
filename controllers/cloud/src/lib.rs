//! What a cluster asks of the cloud it runs in.
//!
//! Purpose: one trait with optional capabilities, as cloud-controller-manager has it, and a fake. The
//! controllers that use it and a bare-metal provider come with the cloud controllers.
//!
//! Invariant: every call says what shall be, not what to do, so it may be made twice; a capability that is
//! absent is `None`, never an error.
//!
//! ```text
//!   node, route, service controllers ──► trait CloudProvider ─┬─ instances()      does this node still exist?
//!                                            ▲                ├─ load_balancers() an address for a Service
//!                                            │                ├─ routes()         pods of one node from another
//!                                       FakeCloud             └─ zones()          where is this node?
//! ```
mod fake;
mod provider;

pub use fake::FakeCloud;
pub use provider::{
    Backend, CloudProvider, Error, Ingress, Instance, Instances, LoadBalancer, LoadBalancers, Route, Routes,
    Zone, Zones,
};
