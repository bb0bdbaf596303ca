//! The patch that turns what is there into what a file says, without touching what others have set: a three-way
//! strategic merge, as `kubectl apply` makes it on the client's side.
use machinery::schema::{ListPatch, Schema};
use serde_json::{Map, Value, json};

/// A strategic merge patch. `last` is what the file said when it was applied last, `wanted` what it says now, `live`
/// what the server holds. `schema` says how lists merge; without one, lists replace each other.
pub(crate) fn three_way(
    last: &Value,
    wanted: &Value,
    live: &Value,
    schema: Option<&'static Schema>,
) -> Value {
    let mut patch = Map::new();
    let empty = Map::new();
    let fields = |v: &'_ Value| v.as_object().cloned().unwrap_or_default();
    let (last_fields, live_fields) = (fields(last), fields(live));
    for (name, value) in wanted.as_object().unwrap_or(&empty) {
        let (before, now) = (last_fields.get(name).unwrap_or(&Value::Null), live_fields.get(name));
        let below = schema.and_then(|s| s.field(name));
        match (value, now) {
            (_, None) => {
                patch.insert(name.clone(), value.clone());
            }
            (Value::Object(_), Some(now @ Value::Object(_))) => {
                let inner = three_way(before, value, now, below);
                if inner.as_object().is_some_and(|o| !o.is_empty()) {
                    patch.insert(name.clone(), inner);
                }
            }
            (Value::Array(items), Some(Value::Array(_))) => {
                if let Some(list) = list(before, items, now.unwrap_or(&Value::Null), below) {
                    patch.insert(name.clone(), list);
                }
            }
            (value, Some(now)) if value != now => {
                patch.insert(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    // What the file no longer says, and still is there, goes.
    for name in last_fields.keys() {
        if wanted.get(name).is_none() && live_fields.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

/// The patch of a list, or `None` if it is as wanted.
fn list(last: &Value, wanted: &[Value], live: &Value, schema: Option<&'static Schema>) -> Option<Value> {
    let live_items = live.as_array().map(Vec::as_slice).unwrap_or_default();
    let key = match schema.map(Schema::list_patch) {
        Some(ListPatch::MergeByKey(key)) => key,
        _ => return (wanted != live_items).then(|| json!(wanted)),
    };
    let item_schema = schema.and_then(Schema::items);
    let find = |list: &[Value], value: &Value| list.iter().find(|i| i[&key] == *value).cloned();
    let last_items = last.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut patch = Vec::new();
    for item in wanted {
        match find(live_items, &item[&key]) {
            None => patch.push(item.clone()),
            Some(now) => {
                let before = find(last_items, &item[&key]).unwrap_or(Value::Null);
                let mut inner = three_way(&before, item, &now, item_schema);
                if inner.as_object().is_some_and(|o| !o.is_empty()) {
                    inner[&key] = item[&key].clone();
                    patch.push(inner);
                }
            }
        }
    }
    for gone in last_items {
        let (named, key_value) = (!gone[&key].is_null(), &gone[&key]);
        if named && find(wanted, key_value).is_none() && find(live_items, key_value).is_some() {
            let mut deletion = json!({ "$patch": "delete" });
            deletion[&key] = key_value.clone();
            patch.push(deletion);
        }
    }
    (!patch.is_empty()).then_some(Value::Array(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Option<&'static Schema> {
        machinery::schema::definition("io.k8s.api.core.v1.Pod")
    }

    #[test]
    fn only_what_the_file_said_and_no_longer_says_is_removed() {
        let last = json!({ "metadata": { "labels": { "a": "1", "b": "2" } } });
        let wanted = json!({ "metadata": { "labels": { "a": "1", "c": "3" } } });
        let live = json!({ "metadata": { "labels": { "a": "1", "b": "2", "theirs": "x" }, "uid": "u" } });
        assert_eq!(
            three_way(&last, &wanted, &live, pod()),
            json!({ "metadata": { "labels": { "b": null, "c": "3" } } })
        );
        assert_eq!(three_way(&wanted, &wanted, &wanted, pod()), json!({}));
    }

    #[test]
    fn items_of_keyed_lists_are_changed_added_and_deleted_one_by_one() {
        let containers = |items: Value| json!({ "spec": { "containers": items } });
        let last = containers(json!([{ "name": "a", "image": "1" }, { "name": "gone", "image": "1" }]));
        let wanted = containers(json!([{ "name": "a", "image": "2" }, { "name": "new", "image": "1" }]));
        let live = containers(json!([{ "name": "a", "image": "1", "imagePullPolicy": "Always" },
            { "name": "gone", "image": "1" }, { "name": "injected", "image": "9" }]));
        assert_eq!(
            three_way(&last, &wanted, &live, pod()),
            containers(json!([{ "name": "a", "image": "2" }, { "name": "new", "image": "1" },
                { "name": "gone", "$patch": "delete" }]))
        );
    }
}
