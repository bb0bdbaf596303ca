//! Kubernetes' protobuf bodies to JSON. Decoding only: every client that sends protobuf also accepts JSON.
//!
//! ```text
//!   k8s\0 · Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: raw } ── table of messages ──► Value
//! ```
//!
//! Invariant: whatever the bytes are, decoding ends with a value or an error, never reads outside them, nests no
//! deeper than [`MAX_DEPTH`] and makes no more than [`MAX_VALUES`] values.
//!
//! Go's protobuf encoder (gogo) writes every field that is not a pointer, also an empty one; its JSON encoder
//! leaves those out. The table knows which scalar fields are pointers or required: only their zeroes are values.
use serde_json::{Map, Value};

mod reader;
mod table;
mod transcode;

/// Deepest nesting of messages. The deepest recursive type that is served (JSONSchemaProps aside) nests 20 levels;
/// JSON bodies end at 128.
pub const MAX_DEPTH: usize = 100;

/// Most values in one body. The smallest useful value takes 4 bytes, so an object of 1.5 MiB, the largest that is
/// stored, has fewer; and this many small ones take about 50 MB while they are decoded.
pub const MAX_VALUES: usize = 400_000;

/// The four bytes before every body.
pub const MAGIC: &[u8] = b"k8s\0";

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
    let object = transcode::Transcoder::new(body).unknown(0)?;
    Ok(Value::Object(object))
}

type Object = Map<String, Value>;

#[cfg(test)]
mod tests;
