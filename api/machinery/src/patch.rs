//! Patches: JSON (RFC 6902), merge (RFC 7386), strategic merge (Kubernetes).
use crate::schema::Schema;
use serde_json::Value;

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

/// Applies a JSON patch.
pub fn json(obj: &mut Value, patch: &Value) -> Result<(), Error> {
    let _ = (obj, patch);
    todo!()
}
/// Applies a merge patch.
pub fn merge(obj: &mut Value, patch: &Value) {
    let _ = (obj, patch);
    todo!()
}
/// Applies a strategic merge patch along `schema`, with `$patch`, `$deleteFromPrimitiveList/`,
/// `$setElementOrder/` and `$retainKeys`.
pub fn strategic(obj: &mut Value, patch: &Value, schema: &Schema) -> Result<(), Error> {
    let _ = (obj, patch, schema);
    todo!()
}
