//! OpenAPI documents for kubectl and other clients.
use serde_json::Value;

/// `GET /openapi/v3`: the index, with a content hash for each group version.
pub fn v3_index() -> Value {
    todo!()
}
/// `GET /openapi/v3/<path>` where path is `api/v1` or `apis/apps/v1`: the document as JSON bytes, and its hash.
pub fn v3_document(path: &str) -> Option<(&'static [u8], &'static str)> {
    let _ = path;
    todo!()
}
/// `GET /openapi/v2` as JSON.
pub fn v2_document() -> &'static [u8] {
    todo!()
}
