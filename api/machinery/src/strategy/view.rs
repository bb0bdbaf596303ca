//! Reading an object by JSON pointer: absent, null and mistyped all read as empty, as a Go zero value would.
//! And the few ways in which strategies write to one.
use serde_json::{Map, Value};

pub(crate) fn text<'a>(obj: &'a Value, pointer: &str) -> &'a str {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
pub(crate) fn int(obj: &Value, pointer: &str) -> i64 {
    maybe_int(obj, pointer).unwrap_or(0)
}
pub(crate) fn maybe_int(obj: &Value, pointer: &str) -> Option<i64> {
    obj.pointer(pointer).and_then(Value::as_i64)
}
pub(crate) fn flag(obj: &Value, pointer: &str) -> bool {
    obj.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}
pub(crate) fn list<'a>(obj: &'a Value, pointer: &str) -> &'a [Value] {
    obj.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
pub(crate) fn map<'a>(obj: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    obj.pointer(pointer).and_then(Value::as_object)
}
/// Whether the field is there and not null.
pub(crate) fn has(obj: &Value, pointer: &str) -> bool {
    obj.pointer(pointer).is_some_and(|v| !v.is_null())
}
/// Whether the list at `pointer` has a condition of this type that is `True`.
pub(crate) fn condition_is_true(obj: &Value, kind: &str) -> bool {
    list(obj, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// The items of the list at `pointer`, to be changed.
pub(super) fn each<'a>(obj: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    obj.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The object in field `name`, made if it is absent. `None` only if something else stands there.
pub(super) fn section<'a>(obj: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let slot = obj.as_object_mut()?.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}

/// Sets a field that is absent or empty.
pub(super) fn fill(obj: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(o) = obj.as_object_mut()
        && o.get(name).is_none_or(|v| v.is_null() || *v == "")
    {
        o.insert(name.to_owned(), value.into());
    }
}

/// Sets a number that is absent or zero: where Go has no pointer, both mean "not given".
pub(super) fn fill_zero(obj: &mut Value, name: &str, value: i64) {
    if let Some(o) = obj.as_object_mut()
        && o.get(name).is_none_or(|v| v.is_null() || *v == 0)
    {
        o.insert(name.to_owned(), value.into());
    }
}

/// Puts the old object's field in place of the new one's.
pub(crate) fn keep(new: &mut Value, old: &Value, name: &str) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get(name) {
        Some(v) => new.insert(name.to_owned(), v.clone()),
        None => new.remove(name),
    };
}

/// Takes a field away.
pub(super) fn drop_field(obj: &mut Value, name: &str) {
    if let Some(o) = obj.as_object_mut() {
        o.remove(name);
    }
}

/// A status update: everything but `.status` stays as it was; of metadata only what the update protocol itself
/// needs comes from the new object.
pub(crate) fn keep_all_but_status(new: &mut Value, old: &Value) {
    let Some(new_object) = new.as_object_mut() else { return };
    let status = new_object.remove("status");
    let metadata = new_object.remove("metadata").unwrap_or_default();
    let mut out = old.clone();
    if let Some(o) = out.as_object_mut() {
        o.remove("status");
        o.extend(status.map(|s| ("status".to_owned(), s)));
    }
    for field in ["resourceVersion", "managedFields"] {
        if let Some(v) = metadata.get(field) {
            crate::meta::set(&mut out, field, v.clone());
        }
    }
    *new = out;
}

/// Numbers and flags that Go keeps without a pointer: their zero is the same as their absence.
const ZERO_IS_ABSENT: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.iter().all(|(k, v)| is_unset(k, v)),
        _ => false,
    }
}
fn is_unset(name: &str, v: &Value) -> bool {
    is_empty(v) || (ZERO_IS_ABSENT.contains(&name) && (*v == 0 || *v == false))
}

/// Upstream's semantic equality: absent and empty are the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let covered = |x: &Map<String, Value>, y: &Map<String, Value>| {
                x.iter().all(|(k, v)| match y.get(k) {
                    Some(w) => same(v, w) || (is_unset(k, v) && is_unset(k, w)),
                    None => is_unset(k, v),
                })
            };
            covered(a, b) && covered(b, a)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_and_empty_are_the_same_and_zero_only_where_go_has_no_pointer() {
        assert!(same(&json!({"a": []}), &json!({})));
        assert!(same(&json!({"a": {"b": ""}}), &json!({"a": null})));
        assert!(same(&json!({"tty": false, "x": [{"stdin": false}]}), &json!({"x": [{}]})));
        assert!(!same(&json!({"replicas": 0}), &json!({})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": [2]})));
        assert!(!same(&json!({"a": 1}), &json!({})));
    }

    #[test]
    fn a_status_update_changes_status_alone() {
        let old =
            json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"a": 1}, "status": {"b": 1}});
        let mut new =
            json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"a": 2}, "status": {"b": 2}});
        keep_all_but_status(&mut new, &old);
        let want = json!({"metadata": {"name": "a", "labels": {"x": "1"}, "resourceVersion": "7"},
            "spec": {"a": 1}, "status": {"b": 2}});
        assert_eq!(new, want);
    }
}
