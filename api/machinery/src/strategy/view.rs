//! Reading an object by JSON pointer: absent, null and mistyped all read as empty, as a Go zero value would.
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
/// The field, or null.
pub(crate) fn get<'a>(obj: &'a Value, pointer: &str) -> &'a Value {
    obj.pointer(pointer).unwrap_or(&Value::Null)
}
/// Whether the list at `pointer` has a condition of this type that is `True`.
pub(crate) fn condition_is_true(obj: &Value, kind: &str) -> bool {
    list(obj, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}
