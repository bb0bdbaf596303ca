//! Events, in both of their API groups: one set of columns over the core form.
use super::{Column, lower_case, shown, since, wide};
use crate::strategy::event;
use crate::strategy::view::{has, int, text};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Makes the columns of one group from the cells over the core form.
macro_rules! event_columns {
    ($core:expr) => {
        &[
            shown("Last Seen", "string", "When it happened last.", |o, now| json!(last_seen(&$core(o), now))),
            shown("Type", "string", "Normal or Warning.", |o, _| json!(text(o, "/type"))),
            shown("Reason", "string", "Why, in one word.", |o, _| json!(text(o, "/reason"))),
            shown("Object", "string", "What it happened to.", |o, _| json!(object(&$core(o)))),
            wide("Subobject", "string", "The part of the object it happened to.", |o, _| {
                json!(text(&$core(o), "/involvedObject/fieldPath"))
            }),
            wide("Source", "string", "Who reported it.", |o, _| json!(source(&$core(o)))),
            shown("Message", "string", "What happened.", |o, _| json!(text(&$core(o), "/message").trim())),
            wide("First Seen", "string", "When it happened first.", |o, now| {
                json!(first_seen(&$core(o), now))
            }),
            wide("Count", "string", "How often it happened.", |o, _| json!(count(&$core(o)))),
            Column {
                name: "Name",
                kind: "string",
                format: "name",
                description: "The event's own name.",
                priority: 1,
                cell: |o, _| json!(crate::meta::name(o)),
            },
        ]
    };
}

pub(in crate::strategy) static CORE_EVENT: &[Column] = event_columns!(Clone::clone);
pub(in crate::strategy) static EVENT: &[Column] = event_columns!(event::core_form);

fn first_seen(e: &Value, now: Timestamp) -> String {
    match text(e, "/firstTimestamp") {
        "" => since(text(e, "/eventTime"), now),
        t => since(t, now),
    }
}

fn last_seen(e: &Value, now: Timestamp) -> String {
    if has(e, "/series") {
        return since(text(e, "/series/lastObservedTime"), now);
    }
    match text(e, "/lastTimestamp") {
        "" => first_seen(e, now),
        t => since(t, now),
    }
}

fn count(e: &Value) -> i64 {
    if has(e, "/series") { int(e, "/series/count") } else { int(e, "/count").max(1) }
}

fn object(e: &Value) -> String {
    let kind = lower_case(e, "/involvedObject/kind");
    match text(e, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(e: &Value) -> String {
    let component = super::or(text(e, "/source/component"), text(e, "/reportingComponent"));
    match super::or(text(e, "/source/host"), text(e, "/reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn both_groups_show_the_same_event_alike() {
        let core = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " ok \n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
            "source": {"component": "kubelet", "host": "n"}, "count": 4,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:00Z"});
        let other = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "note": " ok \n",
            "regarding": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
            "deprecatedSource": {"component": "kubelet", "host": "n"}, "deprecatedCount": 4,
            "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z", "deprecatedLastTimestamp": "2026-01-01T00:59:00Z"});
        for (column, want) in [
            ("Object", json!("pod/p")),
            ("Source", json!("kubelet, n")),
            ("Message", json!("ok")),
            ("Count", json!(4)),
            ("Subobject", json!("spec.containers{a}")),
            ("Name", json!("e")),
        ] {
            assert_eq!(cell(CORE_EVENT, column, &core, NOW), want, "{column}");
            assert_eq!(cell(EVENT, column, &other, NOW), want, "{column}");
        }
    }
}
