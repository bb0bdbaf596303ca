//! Events, core/v1 and events.k8s.io/v1: one storage, in the core form.
use super::{Strategy, view::text};
use crate::field::{self, Path};
use crate::meta;
use crate::resource::Resource;
use serde_json::{Value, json};

/// core/v1 Event.
pub(super) struct CoreEvent;
/// events.k8s.io/v1 Event.
pub(super) struct Event;

/// Fields whose names differ: events.k8s.io/v1, then core/v1.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Longest note of an event (upstream `NoteLengthLimit`).
const MAX_NOTE_BYTES: usize = 1024;
/// Longest reason, action and reporting instance (upstream `ReasonLengthLimit`, `ActionLengthLimit`,
/// `ReportingInstanceLengthLimit`).
const MAX_WORD_BYTES: usize = 128;

/// The core form of an events.k8s.io/v1 Event.
pub(super) fn core_form(obj: &Value) -> Value {
    let mut out = obj.clone();
    if let Some(o) = out.as_object_mut() {
        for (theirs, core) in RENAMED {
            if let Some(v) = o.remove(*theirs) {
                o.insert((*core).to_owned(), v);
            }
        }
        o.insert("apiVersion".to_owned(), json!("v1"));
    }
    out
}

impl Strategy for CoreEvent {
    fn allow_create_on_update(&self) -> bool {
        true
    }
    /// An event names the object it is about; both live in the same namespace.
    fn validate(&self, obj: &Value) -> Vec<field::Error> {
        let mut errors = Vec::new();
        let involved = text(obj, "/involvedObject/namespace");
        if !involved.is_empty() && involved != meta::namespace(obj) {
            let path = Path::new("involvedObject").child("namespace");
            errors.push(field::Error::invalid(path, involved, "does not match event.namespace"));
        } else if involved.is_empty() && !matches!(meta::namespace(obj), "" | "default") {
            let path = Path::new("involvedObject").child("namespace");
            errors.push(field::Error::invalid(path, involved, "does not match event.namespace"));
        }
        errors
    }
    fn fields(&self, resource: &Resource, obj: &Value) -> Vec<String> {
        let value = |f: &&str| {
            let v = text(obj, &format!("/{}", f.replace('.', "/")));
            match *f {
                "source" => match text(obj, "/source/component") {
                    "" => text(obj, "/reportingComponent").to_owned(),
                    component => component.to_owned(),
                },
                _ => v.to_owned(),
            }
        };
        resource.selectable_fields.iter().map(value).collect()
    }
}

impl Strategy for Event {
    fn allow_create_on_update(&self) -> bool {
        true
    }
    fn to_storage(&self, obj: &mut Value) {
        *obj = core_form(obj);
    }
    fn from_storage(&self, obj: &mut Value) {
        if let Some(o) = obj.as_object_mut() {
            for (theirs, core) in RENAMED {
                if let Some(v) = o.remove(*core) {
                    o.insert((*theirs).to_owned(), v);
                }
            }
            o.insert("apiVersion".to_owned(), json!("events.k8s.io/v1"));
        }
    }
}
