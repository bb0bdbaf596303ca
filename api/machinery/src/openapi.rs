//! OpenAPI documents for kubectl and other clients.
//!
//! ```text
//!   data/definitions.json.gz ─┐
//!   resource table ──► routes ┴─► v3: one document a group version, and an index with their hashes
//!                               └► v2: one document, as JSON and as gnostic protobuf (kubectl ≤ 1.28)
//! ```
//!
//! Invariant: a document describes what the resource table says and nothing else; the same table gives the same
//! bytes and so the same hash, by which clients cache.
//!
//! Documents are made when first asked for and kept as bytes; the parsed definitions, several times larger, are
//! dropped again.
use crate::{metrics, resource};
use serde_json::{Map, Value};
use std::sync::OnceLock;

mod gnostic;
mod routes;
mod v2;
mod v3;

type Definitions = Map<String, Value>;

/// Every embedded definition as OpenAPI v2 words it, with descriptions.
fn definitions() -> Definitions {
    serde_json::from_str(&crate::embedded::text(include_bytes!("../data/definitions.json.gz")))
        .expect("the embedded definitions are a JSON object: they are part of the program")
}

fn v3_documents() -> &'static v3::Documents {
    static DOCUMENTS: OnceLock<v3::Documents> = OnceLock::new();
    DOCUMENTS.get_or_init(|| v3::documents(resource::all(), &definitions()))
}

/// The document of `metrics.k8s.io`, apart because not every server serves it.
fn v3_metrics_documents() -> &'static v3::Documents {
    static DOCUMENTS: OnceLock<v3::Documents> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let mut all = definitions();
        all.extend(metrics::definitions());
        v3::documents(metrics::ROWS, &all)
    })
}

/// `GET /openapi/v3`: the index, with a content hash for each group version; `metrics.k8s.io` among them if `metrics`.
pub fn v3_index(metrics: bool) -> Value {
    let mut index = v3_documents().index();
    if metrics
        && let (Some(paths), Value::Object(more)) =
            (index["paths"].as_object_mut(), v3_metrics_documents().index()["paths"].take())
    {
        paths.extend(more);
    }
    index
}
/// `GET /openapi/v3/<path>` where path is `api/v1` or `apis/apps/v1`: the document as JSON bytes, and its hash.
pub fn v3_document(path: &str) -> Option<(&'static [u8], &'static str)> {
    if path.contains(metrics::GROUP) { v3_metrics_documents().get(path) } else { v3_documents().get(path) }
}
/// `GET /openapi/v2` as JSON.
pub fn v2_document() -> &'static [u8] {
    static DOCUMENT: OnceLock<Vec<u8>> = OnceLock::new();
    DOCUMENT.get_or_init(|| v2::document(resource::all(), &definitions()).to_string().into_bytes())
}
/// The `Content-Type` of [`v2_protobuf`]. Clients ask for it under an older spelling as well, with `@` before `v1.0`
/// ([`V2_PROTOBUF_ACCEPT`]), but refuse an answer that is spelt so: `@` may not stand in a media type.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients put into `Accept` to get [`v2_protobuf`].
pub const V2_PROTOBUF_ACCEPT: [&str; 2] =
    [V2_PROTOBUF_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// `GET /openapi/v2` as [`V2_PROTOBUF_TYPE`]: the same document as gnostic's `openapi.v2.Document`. kubectl 1.27 and
/// 1.28 read nothing else before an apply.
pub fn v2_protobuf() -> &'static [u8] {
    static DOCUMENT: OnceLock<Vec<u8>> = OnceLock::new();
    DOCUMENT.get_or_init(|| gnostic::encode(&v2::document(resource::all(), &definitions())))
}

/// The names of `roots` and of every definition they lead to, sorted.
fn closure(
    definitions: &Definitions,
    roots: impl IntoIterator<Item = String>,
) -> std::collections::BTreeSet<String> {
    fn refs(v: &Value, queue: &mut Vec<String>) {
        match v {
            Value::Object(map) => {
                for (k, v) in map {
                    match v {
                        Value::String(s) if k == "$ref" => {
                            queue.extend(s.strip_prefix(REF).map(str::to_owned))
                        }
                        v => refs(v, queue),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| refs(v, queue)),
            _ => {}
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut queue: Vec<String> = roots.into_iter().collect();
    while let Some(name) = queue.pop() {
        if let Some(d) = definitions.get(&name)
            && seen.insert(name)
        {
            refs(d, &mut queue);
        }
    }
    seen
}

/// How definitions refer to each other in the embedded table (OpenAPI v2).
const REF: &str = "#/definitions/";

#[cfg(test)]
mod tests;
