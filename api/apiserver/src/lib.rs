//! The Kubernetes API over a store: one way for every kind, because a kind is a row of the resource table.
//!
//! Purpose: everything between a request and the store. Controllers, scheduler and kubelets come in by the same
//! door as kubectl; whether a socket lies between makes no difference.
//!
//! Invariant: nothing is stored that was not checked against its schema and validated; an object changes only from
//! the state that was looked at; a watcher sees every change after its revision once and in order; whatever goes
//! wrong is answered with a Status.
//!
//! ```text
//!   ApiServer::serve (HTTPS, h2 + http/1.1)      ApiServer::service(user) (tower, in process)
//!          └───────────────┬─────────────────────────────┘
//!   handler: authentication ─► impersonation ─► authorization ─► path, Accept
//!          ├─ documents   discovery, OpenAPI, health, version, metrics
//!          ├─ registry    get list create update patch delete
//!          │                decode (JSON, YAML, protobuf; schema) ─► admission ─► strategy ─► guaranteed update
//!          ├─ usage       metrics.k8s.io: computed from what its reader has scraped
//!          ├─ subresource status scale binding eviction finalize log exec attach proxy
//!          └─ watch       hub: one store watch per resource, its events encoded once for all
//!                          │
//!                     trait Store
//! ```
mod admission;
mod authentication;
mod authorization;
mod body;
mod bootstrap;
mod cidr;
mod compress;
mod decode;
mod documents;
mod error;
mod handler;
mod impersonation;
mod json;
mod kubelet;
mod limits;
mod metrics;
mod negotiate;
mod object;
mod path;
mod query;
mod registry;
mod respond;
mod review;
mod selection;
mod serve;
mod server;
mod subresource;
mod usage;
mod watch;

pub use authentication::{
    ANONYMOUS, AUTHENTICATED, Authenticator, MASTERS, StaticTokens, TokenFileError, UNAUTHENTICATED, UserInfo,
};
pub use authorization::{Attributes, authorize};
pub use body::{Body, BoxError};
pub use bootstrap::BootstrapError;
pub use cidr::{Cidr, CidrError};
pub use limits::Limits;
pub use server::{ApiServer, Config, Service};
