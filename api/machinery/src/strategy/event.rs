//! Events, core/v1 and events.k8s.io/v1: one storage, in the core form.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{has, text};
use crate::field::{Error, Path};
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
    /// Events of old clients have no `eventTime` and are hardly checked.
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = about(obj, obj, "involvedObject");
        if has(obj, "/eventTime") {
            faults.extend(complete(obj, &["reportingComponent", "reportingInstance", "message"]));
        }
        faults
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

/// An event lives in the namespace of the object it is about; of objects without one, in `default`.
fn about(obj: &Value, core: &Value, field: &str) -> Faults {
    let (involved, own) = (text(core, "/involvedObject/namespace"), meta::namespace(obj));
    let fits = involved == own || (involved.is_empty() && ["default", "kube-system"].contains(&own));
    if fits {
        return Faults::new();
    }
    let path = Path::new(field).child("namespace");
    vec![Error::invalid(path, involved, "does not match event.namespace")]
}

/// What new events must say. `names` are the group's words for the reporter, its instance and the message.
fn complete(obj: &Value, names: &[&'static str; 3]) -> Faults {
    let (mut faults, root) = (Faults::new(), Path::root());
    let [controller, instance, note] = names;
    match text(obj, &format!("/{controller}")) {
        "" => faults.push(Error::required(Path::new(controller), "")),
        key => check::key(&mut faults, key, Path::new(controller)),
    }
    for name in [*instance, "action", "reason"] {
        check::required(&mut faults, obj, &root, name);
        if text(obj, &format!("/{name}")).len() > MAX_WORD_BYTES {
            let detail = format!("can have at most {MAX_WORD_BYTES} characters");
            faults.push(Error::invalid(Path::new(name), "", &detail));
        }
    }
    if text(obj, &format!("/{note}")).len() > MAX_NOTE_BYTES {
        let detail = format!("can have at most {MAX_NOTE_BYTES} characters");
        faults.push(Error::invalid(Path::new(note), "", &detail));
    }
    let kind = text(obj, "/type");
    if !["Normal", "Warning"].contains(&kind) {
        faults.push(Error::invalid(Path::new("type"), "", &format!("has invalid value: {kind}")));
    }
    faults
}

impl Strategy for Event {
    fn allow_create_on_update(&self) -> bool {
        true
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = about(obj, &core_form(obj), "regarding");
        if has(obj, "/eventTime") {
            faults.extend(complete(obj, &["reportingController", "reportingInstance", "note"]));
        } else if !has(obj, "/deprecatedFirstTimestamp") {
            faults.push(Error::required(Path::new("eventTime"), ""));
        }
        faults
    }
    fn converts(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::check::tests::shown;
    use super::*;

    #[test]
    fn both_groups_are_two_views_of_one_stored_event() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "regarding": {"kind": "Pod", "namespace": "n"}, "note": "m", "reportingController": "c.io/x",
            "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z", "deprecatedCount": 1});
        assert!(Event.validate(&new).is_empty(), "{:?}", shown(&Event.validate(&new)));
        let mut stored = new.clone();
        Event.to_storage(&mut stored);
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(
            (&stored["involvedObject"]["kind"], &stored["message"], &stored["count"]),
            (&json!("Pod"), &json!("m"), &json!(1))
        );
        assert!(CoreEvent.validate(&stored).is_empty());
        let row = crate::resource::lookup("", "v1", "events").expect("a row");
        let fields = CoreEvent.fields(row, &stored);
        assert_eq!(fields[0], "Pod");
        assert_eq!(fields[row.selectable_fields.iter().position(|f| *f == "source").unwrap()], "c.io/x");
        let mut back = stored;
        Event.from_storage(&mut back);
        assert_eq!(back, new);
    }

    #[test]
    fn an_event_stays_with_its_object_and_says_what_happened() {
        let old = json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "m"}});
        assert_eq!(
            shown(&CoreEvent.validate(&old)),
            ["involvedObject.namespace: Invalid value: \"m\": does not match event.namespace"]
        );
        let node = json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}});
        assert!(CoreEvent.validate(&node).is_empty());
        let got = shown(&Event.validate(&json!({"metadata": {"namespace": "default"}, "eventTime": "x"})));
        assert_eq!(got.len(), 5, "{got:?}");
    }
}
