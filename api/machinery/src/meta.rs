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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_is_read_leniently_and_made_when_written() {
        let mut o = json!({});
        assert_eq!((name(&o), namespace(&o), uid(&o), resource_version(&o)), ("", "", "", ""));
        assert!(finalizers(&o).is_empty() && !is_terminating(&o));
        set(&mut o, "name", "a");
        set(&mut o, "finalizers", vec!["x"]);
        set(&mut o, "deletionTimestamp", "2026-01-01T00:00:00Z");
        assert_eq!((name(&o), finalizers(&o), is_terminating(&o)), ("a", vec!["x"], true));
        remove(&mut o, "name");
        assert_eq!(name(&o), "");
    }

    #[test]
    fn times_are_printed_as_metav1_prints_them() {
        let t: jiff::Timestamp = "2026-01-02T03:04:05.678901234Z".parse().expect("a time");
        assert_eq!(time(t), "2026-01-02T03:04:05Z");
        assert_eq!(micro_time(t), "2026-01-02T03:04:05.678901Z");
    }
}
