//! Reading and writing `metadata` of a JSON object.
use serde_json::Value;

/// `metadata.name`, or `""`.
pub fn name(obj: &Value) -> &str {
    string(obj, "name")
}
/// `metadata.namespace`, or `""`.
pub fn namespace(obj: &Value) -> &str {
    string(obj, "namespace")
}
/// `metadata.uid`, or `""`.
pub fn uid(obj: &Value) -> &str {
    string(obj, "uid")
}
/// `metadata.resourceVersion`, or `""`.
pub fn resource_version(obj: &Value) -> &str {
    string(obj, "resourceVersion")
}
/// A string field of metadata, or `""`.
pub fn string<'a>(obj: &'a Value, field: &str) -> &'a str {
    obj.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}
/// Sets a field of metadata, making `metadata` if it is missing.
pub fn set(obj: &mut Value, field: &str, value: impl Into<Value>) {
    if !obj.get("metadata").is_some_and(Value::is_object) {
        obj["metadata"] = Value::Object(Default::default());
    }
    obj["metadata"][field] = value.into();
}
/// Removes a field of metadata.
pub fn remove(obj: &mut Value, field: &str) {
    if let Some(m) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove(field);
    }
}
/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> Vec<&str> {
    obj.get("metadata")
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}
/// Whether `metadata.deletionTimestamp` is set.
pub fn is_terminating(obj: &Value) -> bool {
    !string(obj, "deletionTimestamp").is_empty()
}
/// A time as metav1.Time prints it: RFC 3339, whole seconds, `Z`.
pub fn time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
/// A time as metav1.MicroTime prints it: RFC 3339, microseconds, `Z`.
pub fn micro_time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
