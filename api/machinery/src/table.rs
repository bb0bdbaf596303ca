//! `kubectl get`'s columns: meta.k8s.io/v1 Table documents.
use crate::resource::Resource;
use jiff::Timestamp;
use serde_json::Value;

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
    let _ = (resource, objects, list_meta, include, version, with_columns, now);
    todo!()
}

/// A duration as kubectl prints ages: `5s`, `2m10s`, `3h5m`, `4d2h` (apimachinery `duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    let _ = seconds;
    todo!()
}
