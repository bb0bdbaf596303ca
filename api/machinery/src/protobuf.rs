//! Kubernetes' protobuf bodies to JSON. Decoding only: every client that sends protobuf also accepts JSON.
use serde_json::Value;

/// Why a protobuf body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the body does not start with the Kubernetes protobuf magic number")]
    Magic,
    #[error("no message is known for {api_version}, kind {kind}")]
    UnknownKind { api_version: String, kind: String },
    #[error("malformed protobuf at byte {offset}: {what}")]
    Malformed { offset: usize, what: &'static str },
}

/// Decodes `k8s\0` + runtime.Unknown into a JSON object with `apiVersion` and `kind` set. Fields that gogo encodes
/// although they are empty are left out, as Go's JSON encoder would.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let _ = body;
    todo!()
}
