//! Strategic merge patch: a merge patch that knows, from the schema, which lists are maps by some key.
//!
//! ```text
//!   maps      merged field by field; null removes; `$patch: replace|delete` for the whole map;
//!             `$retainKeys: [a, b]` drops all other fields
//!   lists     replaced, unless the schema says merge: then items meet by the merge key;
//!             `{$patch: delete, <key>: x}` removes an item, `{$patch: replace}` replaces the list,
//!             `$setElementOrder/<list>` orders it, `$deleteFromPrimitiveList/<list>` removes primitive items
//! ```
use super::Error;
use crate::schema::{ListPatch, Schema};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

const BAD_PRIMITIVES: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_ORDER: &str = "invalid patch format of setElementOrder list";

/// Applies a strategic merge patch along `schema`, with `$patch`, `$deleteFromPrimitiveList/`,
/// `$setElementOrder/` and `$retainKeys`.
pub fn strategic(obj: &mut Value, patch: &Value, schema: &Schema) -> Result<(), Error> {
    let (Value::Object(old), Value::Object(patch)) = (&*obj, patch) else {
        return Err(Error::Malformed("a strategic merge patch must be an object".to_owned()));
    };
    let mut out = old.clone();
    merge_map(&mut out, patch, Some(schema))?;
    *obj = Value::Object(out);
    Ok(())
}

fn bad_type(directive: &Value, map: &Map<String, Value>) -> Error {
    let shown = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    Error::Unprocessable(format!(
        "unknown patch type found in merge patch: {shown} in {}",
        Value::Object(map.clone())
    ))
}

fn merge_map(
    old: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<(), Error> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(s)) if s == "merge" => {}
        Some(Value::String(s)) if s == "delete" => {
            old.clear();
            return Ok(());
        }
        Some(Value::String(s)) if s == "replace" => {
            *old = without_directives(patch);
            return Ok(());
        }
        Some(other) => return Err(bad_type(other, patch)),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain(old, patch, keys)?;
    }
    for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
        merge_field(old, key, value, schema)?;
    }
    // After the items themselves: what is removed or ordered is the merged list.
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let Value::Array(gone) = value else { return Err(Error::Malformed(BAD_PRIMITIVES.to_owned())) };
            let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
            if let Some(Value::Array(list)) = old.get_mut(field) {
                list.retain(|v| !gone.contains(&v.to_string()));
            }
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(SET_ORDER) {
            let order = value.as_array().ok_or_else(|| Error::Malformed(BAD_ORDER.to_owned()))?;
            set_order(old, patch, field, order, schema)?;
        }
    }
    Ok(())
}

fn merge_field(
    old: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    schema: Option<&Schema>,
) -> Result<(), Error> {
    let inner = schema.and_then(|s| s.field(key));
    match (old.get_mut(key), value) {
        (_, Value::Null) => {
            old.remove(key);
        }
        (Some(Value::Object(o)), Value::Object(p)) => merge_map(o, p, inner)?,
        (Some(Value::Array(o)), Value::Array(p)) => merge_list(o, p, inner)?,
        (_, value) => {
            if let Some(value) = clean(value) {
                old.insert(key.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn retain(old: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Result<(), Error> {
    let malformed = || Error::Malformed(BAD_RETAIN_KEYS.to_owned());
    let keys = keys.as_array().ok_or_else(malformed)?;
    let listed = |k: &str| keys.iter().any(|x| x == k);
    if patch.iter().any(|(k, v)| !k.starts_with('$') && !v.is_null() && !listed(k)) {
        return Err(malformed());
    }
    old.retain(|k, _| listed(k));
    Ok(())
}

/// A patch's value where there is no old one to merge into: without directives and nulls. `None` if the patch
/// says to delete it.
fn clean(value: &Value) -> Option<Value> {
    match value {
        Value::Object(m) if m.get(PATCH).is_some_and(|p| p == "delete") => None,
        Value::Object(m) => Some(Value::Object(without_directives(m))),
        Value::Array(list) => {
            let is_directive =
                |v: &&Value| v.as_object().is_some_and(|m| m.contains_key(PATCH) && m.len() == 1);
            Some(list.iter().filter(|v| !is_directive(v)).filter_map(clean).collect())
        }
        other => Some(other.clone()),
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(k, v)| !k.starts_with('$') && !v.is_null())
        .filter_map(|(k, v)| Some((k.clone(), clean(v)?)))
        .collect()
}

fn merge_list(old: &mut Vec<Value>, patch: &[Value], schema: Option<&Schema>) -> Result<(), Error> {
    match schema.map_or(ListPatch::Replace, Schema::list_patch) {
        ListPatch::Replace => *old = patch.iter().filter_map(clean).collect(),
        ListPatch::MergeSet => {
            let server = Places::of(old, None);
            let added = patch.iter().filter(|item| server.get(item).is_none());
            let mut seen = HashSet::new();
            old.extend(added.filter(|item| seen.insert(item.to_string())).cloned());
            reorder(old, &Places::of(patch, None), &server);
        }
        ListPatch::MergeByKey(key) => merge_by_key(old, patch, &key, schema.and_then(Schema::items))?,
    }
    Ok(())
}

fn merge_by_key(
    old: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
    items: Option<&'static Schema>,
) -> Result<(), Error> {
    let server = Places::of(old, Some(key));
    let mut kept: Vec<&Value> = Vec::with_capacity(patch.len());
    let mut deleted = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = item else {
            return Err(Error::Unprocessable(format!(
                "expected an object with the merge key {key:?} in a merging list, got {item}"
            )));
        };
        match map.get(PATCH) {
            None => kept.push(item),
            Some(Value::String(s)) if s == "delete" => {
                deleted.insert(merge_key(map, key)?.to_string());
            }
            Some(Value::String(s)) if s == "replace" => {
                replace = true;
                // Beside the merge key this element may carry fields: then it is one of the new items.
                if map.len() > 1 {
                    kept.push(item);
                }
            }
            Some(Value::String(s)) if s == "merge" => {
                return Err(Error::Unprocessable(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            Some(other) => return Err(bad_type(other, map)),
        }
    }
    if replace {
        *old = kept.into_iter().filter_map(clean).collect();
        return Ok(());
    }
    if !deleted.is_empty() {
        old.retain(|o| o.get(key).is_none_or(|v| !deleted.contains(&v.to_string())));
    }
    let mut places = Places::of(old, Some(key));
    for item in &kept {
        let Value::Object(map) = item else { continue };
        merge_key(map, key)?;
        match places.get(item).and_then(|at| old.get_mut(at)) {
            Some(Value::Object(o)) => merge_map(o, map, items)?,
            _ => {
                places.insert(item, old.len());
                old.extend(clean(item));
            }
        }
    }
    let order: Vec<Value> = kept.into_iter().cloned().collect();
    reorder(old, &Places::of(&order, Some(key)), &server);
    Ok(())
}

fn merge_key<'a>(map: &'a Map<String, Value>, key: &str) -> Result<&'a Value, Error> {
    map.get(key).ok_or_else(|| {
        Error::Unprocessable(format!(
            "map: {} does not contain declared merge key: {key}",
            Value::Object(map.clone())
        ))
    })
}

/// Where each item of a list stands, by its merge key or by itself; of equal ones the first counts. A map, since
/// a list that a client sends may have as many items as a request has bytes.
struct Places<'a> {
    key: Option<&'a str>,
    places: HashMap<String, usize>,
}

impl<'a> Places<'a> {
    fn of(list: &[Value], key: Option<&'a str>) -> Self {
        let mut out = Self { key, places: HashMap::with_capacity(list.len()) };
        for (i, item) in list.iter().enumerate() {
            out.insert(item, i);
        }
        out
    }
    fn insert(&mut self, item: &Value, place: usize) {
        if let Some(id) = self.id(item) {
            self.places.entry(id).or_insert(place);
        }
    }
    fn get(&self, item: &Value) -> Option<usize> {
        self.places.get(&self.id(item)?).copied()
    }
    fn id(&self, item: &Value) -> Option<String> {
        match self.key {
            Some(key) => item.get(key).map(Value::to_string),
            None => Some(item.to_string()),
        }
    }
}

/// Puts the items named by `order` into that order, and merges them with all others, which keep the server's:
/// an item goes before another only if it stood before it on the server, so new items come last.
fn reorder(list: &mut Vec<Value>, order: &Places<'_>, server: &Places<'_>) {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        std::mem::take(list).into_iter().partition(|v| order.get(v).is_some());
    named.sort_by_cached_key(|v| order.get(v));
    others.sort_by_cached_key(|v| server.get(v).unwrap_or(usize::MAX));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(n), Some(o)) = (named.peek(), others.peek()) {
        let stood_before = match (server.get(n), server.get(o)) {
            (Some(n), Some(o)) => n < o,
            _ => false,
        };
        list.extend(if stood_before { named.next() } else { others.next() });
    }
    list.extend(named);
    list.extend(others);
}

fn set_order(
    old: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    field: &str,
    order: &[Value],
    schema: Option<&Schema>,
) -> Result<(), Error> {
    let key = match schema.and_then(|s| s.field(field)).map(Schema::list_patch) {
        Some(ListPatch::MergeByKey(key)) => Some(key),
        _ => None,
    };
    let key = key.as_deref();
    let places = Places::of(order, key);
    // The patch's own items must be in the order it asks for.
    let mut last = None;
    for item in patch.get(field).and_then(Value::as_array).into_iter().flatten() {
        if item.get(PATCH).is_some() {
            continue;
        }
        let at = places.get(item);
        if at.is_none() || at < last {
            return Err(Error::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                patch.get(field).unwrap_or(&Value::Null),
                Value::from(order.to_vec())
            )));
        }
        last = at;
    }
    if let Some(Value::Array(list)) = old.get_mut(field) {
        let server = Places::of(list, key);
        reorder(list, &places, &server);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
