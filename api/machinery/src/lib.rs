//! What the Kubernetes API *is*, with nothing that runs it.
//!
//! Purpose: everything the API server must decide about an object (is it of a served kind, does it fit the
//! schema, what are its defaults, is it valid, what does this patch make of it, how is it shown) as pure
//! functions over [`serde_json::Value`].
//!
//! Invariant: no tokio, no clock, no randomness, no I/O. The same input gives the same output, for ever;
//! time and random suffixes come in as arguments.
//!
//! ```text
//!   bytes ── protobuf / JSON ──► Value ── schema (types, strict, prune) ──► strategy (default, prepare,
//!                                  ▲                                          validate) ──► Value ──► store
//!   patch ─────────────────────────┘        resource table: one row a kind; discovery, openapi, table read it
//! ```
pub mod ambient;
pub mod cron;
pub mod discovery;
mod embedded;
pub mod field;
pub mod meta;
pub mod metrics;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validation;
