//! Objects as the store holds them, and as clients see them.
//!
//! The store's value is the object's JSON without `resourceVersion`; the store's revision is the version. On the
//! way out the number is spliced into the bytes, so that a read neither parses nor serialises anything.
use bytes::Bytes;
use machinery::meta;
use machinery::resource::Resource;
use machinery::status::Status;
use serde_json::Value;
use store::{Kv, Revision};

/// `/registry/<group or "core">/<plural>/`: where a row's objects live.
pub(crate) fn prefix(row: &Resource) -> String {
    let (group, plural) = row.storage;
    format!("/registry/{}/{plural}/", if group.is_empty() { "core" } else { group })
}

/// The key of an object; of a namespace's objects with an empty name.
pub(crate) fn key(row: &Resource, namespace: &str, name: &str) -> String {
    let mut key = prefix(row);
    if row.namespaced() && !namespace.is_empty() {
        key.push_str(namespace);
        key.push('/');
    }
    key.push_str(name);
    key
}

/// Namespace and name in a key below `prefix`.
pub(crate) fn split_key<'a>(prefix: &str, key: &'a str) -> (&'a str, &'a str) {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    rest.split_once('/').unwrap_or(("", rest))
}

/// Whether objects of this row are stored in another row's form.
pub(crate) fn converts(row: &Resource) -> bool {
    row.strategy.converts()
}

/// A stored object as a value of `row`'s version, with its resourceVersion.
pub(crate) fn decode(row: &Resource, value: &[u8], revision: Revision) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(value).map_err(|e| {
        tracing::error!(resource = row.plural, error = %e, "a stored object cannot be read");
        Status::internal(format!("a stored object of {} cannot be read: {e}", row.group_resource()))
    })?;
    if converts(row) {
        row.strategy.from_storage(&mut object);
    }
    meta::set(&mut object, "resourceVersion", revision.to_string());
    Ok(object)
}

/// The bytes to store.
pub(crate) fn encode(row: &Resource, object: &Value) -> Result<Bytes, Status> {
    let written = if converts(row) {
        let mut stored = object.clone();
        row.strategy.to_storage(&mut stored);
        serde_json::to_vec(&stored)
    } else {
        serde_json::to_vec(object)
    };
    written.map(Bytes::from).map_err(Status::internal)
}

/// A stored object as JSON for clients of `row`.
pub(crate) fn encoded(row: &Resource, kv: &Kv) -> Result<Bytes, Status> {
    encoded_at(row, &kv.value, kv.mod_revision)
}

/// The same with another revision: that of a deletion, or of a commit that has just been answered.
pub(crate) fn encoded_at(row: &Resource, value: &[u8], revision: Revision) -> Result<Bytes, Status> {
    // `"resourceVersion":"",` and twenty digits.
    let mut out = Vec::with_capacity(value.len() + 41);
    write_encoded(row, value, revision, &mut out)?;
    Ok(out.into())
}

/// Appends a stored object as JSON for clients of `row`.
pub(crate) fn write_encoded(
    row: &Resource,
    value: &[u8],
    revision: Revision,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    if !converts(row)
        && let Some(at) = metadata_start(value)
    {
        out.extend_from_slice(&value[..at]);
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(revision.to_string().as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&value[at..]);
        return Ok(());
    }
    let object = decode(row, value, revision)?;
    serde_json::to_writer(out, &object).map_err(Status::internal)
}

/// The offset after `"metadata":{` at the top level of compact JSON, if metadata is not empty.
fn metadata_start(json: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"metadata\":{";
    let (mut depth, mut i) = (0_u32, 0);
    while i < json.len() {
        match json[i] {
            b'"' => {
                if depth == 1
                    && json[i..].starts_with(KEY)
                    && matches!(json.get(i.wrapping_sub(1)), Some(b'{' | b','))
                {
                    let start = i + KEY.len();
                    return (json.get(start) == Some(&b'"')).then_some(start);
                }
                i += 1;
                while i < json.len() && json[i] != b'"' {
                    i += if json[i] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_version_is_spliced_into_the_objects_own_metadata() {
        for object in [
            json!({"apiVersion": "v1", "data": {"metadata": "\"metadata\":{"}, "kind": "ConfigMap", "metadata": {"name": "a"}}),
            json!({"a": [{"metadata": {"name": "no"}}], "b": "}\\\"", "metadata": {"name": "a", "labels": {}}, "z": {"metadata": {"name": "no"}}}),
        ] {
            let stored = serde_json::to_vec(&object).unwrap();
            assert!(metadata_start(&stored).is_some());
            let row = machinery::resource::lookup("", "v1", "configmaps").unwrap();
            let seen: Value = serde_json::from_slice(&encoded_at(row, &stored, 42).unwrap()).unwrap();
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn what_has_no_metadata_is_left_to_the_parser() {
        assert_eq!(metadata_start(br#"{"metadata":{}}"#), None);
        assert_eq!(metadata_start(br#"{"spec":{"metadata":{"name":"a"}}}"#), None);
        assert_eq!(metadata_start(b""), None);
    }
}
