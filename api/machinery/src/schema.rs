//! The schema walk: what fields an object of a kind may have, of which types, and how lists merge.
//!
//! ```text
//!   data/schema.txt.gz ──first use──► table: an arena of small nodes ──► decode(): types, unknown fields, nulls
//!                                                                   └─► field()/items()/list_patch(): patches
//! ```
//!
//! Invariant: the walk never changes a value that the schema accepts, except to the form in which Kubernetes'
//! own encoder would print it (quantities, times, base64 without line breaks).
//!
//! The descriptions are not in this table: they are large, and only OpenAPI documents need them
//! ([`crate::openapi`]). Unpacking and indexing all definitions takes a few milliseconds.
use crate::field::Path;

mod table;
mod time;
mod walk;

pub use table::Schema;
pub use walk::decode;

/// A field that the schema does not know: `unknown field "spec.contaners"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField(pub Path);

impl std::fmt::Display for UnknownField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown field {:?}", self.0.to_string())
    }
}

/// A value of the wrong type, worded as Go's decoder words it, for example
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// The schema of an OpenAPI definition by name: `io.k8s.api.core.v1.Pod`.
pub fn definition(name: &str) -> Option<&'static Schema> {
    table::get().definition(name)
}

/// A strategic merge patch's way with a list (OpenAPI `x-kubernetes-patch-strategy`, `-merge-key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPatch {
    /// The patch's list replaces the old one.
    Replace,
    /// Items are merged by this key.
    MergeByKey(String),
    /// Primitive items are added to the set.
    MergeSet,
}

#[cfg(test)]
mod tests;
