//! Who may talk to whom: NetworkPolicies compiled for one pod, host names that may be called, Services by name.
//!
//! Purpose: two sides that never see each other agree here. The kubelet knows Kubernetes' objects and makes [`Rules`]
//! and [`Services`] of them (feature `kubernetes`); a shim knows one connection at a time and asks them.
//!
//! Invariant: pure. The same objects give the same rules in whatever order they came, and nothing here connects,
//! resolves names or knows the time.
//!
//! ```text
//!   NetworkPolicies ─┐
//!   Namespaces ──────┼─► Index ─► Rules of one pod ──┐
//!   Pods ────────────┘                               ├─► a connection: may it be?  where does it lead?
//!   Services, EndpointSlices ─► Services ────────────┤
//!   annotation dhow.dev/egress ─► HostList ──────────┘
//! ```
mod hosts;
#[cfg(feature = "kubernetes")]
mod index;
#[cfg(feature = "kubernetes")]
mod policy;
mod rules;
mod services;
mod special;

pub use hosts::{EGRESS_ANNOTATION, HostList, HostListError};
#[cfg(feature = "kubernetes")]
pub use index::{Index, PodFacts};
pub use rules::{Allow, Block, Direction, Peers, PortRange, Protocol, Rules};
pub use services::{Service, ServicePort, Services, Target};
pub use special::Special;

#[cfg(all(test, feature = "kubernetes"))]
mod tests;
