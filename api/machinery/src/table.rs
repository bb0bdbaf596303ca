//! `kubectl get`'s columns: meta.k8s.io/v1 Table documents.
use crate::resource::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

/// One column: its definition, and how a cell is made from an object.
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the object's name.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u32,
    pub cell: fn(obj: &Value, now: Timestamp) -> Value,
}

/// What of each object is put into a row (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

/// A Table (`meta.k8s.io/<version>`, version `v1` or `v1beta1`) of `objects`. `list_meta` is the list's metadata
/// (resourceVersion, continue). `with_columns` is false for all but the first event of a watch.
pub fn to_table(
    resource: &Resource,
    objects: &[&Value],
    list_meta: Value,
    include: IncludeObject,
    version: &str,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = if with_columns {
        resource
            .columns
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.kind, "format": c.format, "description": c.description,
                    "priority": c.priority,
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|obj| {
            let cells: Vec<Value> = resource.columns.iter().map(|c| (c.cell)(obj, now)).collect();
            let mut row = json!({ "cells": cells });
            match include {
                // Upstream sends the key with a null here, too.
                IncludeObject::None => row["object"] = Value::Null,
                IncludeObject::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata",
                        "apiVersion": format!("meta.k8s.io/{version}"),
                        "metadata": obj.get("metadata").cloned().unwrap_or_else(|| json!({})),
                    });
                }
                IncludeObject::Object => {
                    let mut object = (*obj).clone();
                    // Items of a list may lack them; a row stands by itself.
                    if let Some(map) = object.as_object_mut() {
                        map.entry("kind").or_insert_with(|| json!(resource.kind));
                        map.entry("apiVersion").or_insert_with(|| json!(resource.api_version()));
                    }
                    row["object"] = object;
                }
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": if list_meta.is_null() { json!({}) } else { list_meta },
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// A duration as kubectl prints ages: `5s`, `2m10s`, `3h5m`, `4d2h` (apimachinery `duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    // The larger unit, and the smaller one where it is not zero.
    let two = |large: i64, large_unit: char, rest: i64, rest_unit: char| {
        if rest == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{rest}{rest_unit}")
        }
    };
    match seconds {
        // Clocks of two machines differ: a second in the future is now, more is a mistake.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, 'h', s % HOUR / MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, 'd', s % DAY / HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, 'y', s % YEAR / DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests;
