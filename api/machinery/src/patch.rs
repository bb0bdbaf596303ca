//! Patches: JSON (RFC 6902), merge (RFC 7386), strategic merge (Kubernetes).
//!
//! Each is a pure function from a document and a patch to the patched document; on an error the document is as
//! it was.
mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// Why a patch was refused. `Malformed` is a 400, `Unprocessable` a 422.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Unprocessable(String),
}

/// Most operations in one JSON patch: kube-apiserver's `MaxJSONPatchOperations`.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// How much the `copy` operations of one JSON patch may add: kube-apiserver's `JSONPatchMaxCopyBytes`. Without it
/// a few operations that copy a field into itself fill the memory.
pub const MAX_JSON_PATCH_COPY_BYTES: usize = 3 << 20;
