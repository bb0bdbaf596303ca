//! The columns of `kubectl get`, cell by cell, as upstream's server-side printers compute them.
//!
//! One static list a kind; a cell is a pure function of the object and the time.
mod autoscaling;
mod core;
mod events;
mod network;
mod pods;
mod workloads;

pub(super) use self::core::{CONFIG_MAP, LEASE, NAMESPACE, NODE, RUNTIME_CLASS, SECRET, SERVICE_ACCOUNT};
pub(super) use autoscaling::{HORIZONTAL_POD_AUTOSCALER, HORIZONTAL_POD_AUTOSCALER_V1};
pub(super) use events::{CORE_EVENT, EVENT};
pub(super) use network::{ENDPOINT_SLICE, ENDPOINTS, NETWORK_POLICY, SERVICE};
pub(super) use pods::POD;
pub(super) use workloads::{DEPLOYMENT, FUNCTION, JOB, REPLICA_SET, REVISION};

use super::view::{list, text};
use crate::selector::LabelSelector;
use crate::table::{Column, human_duration};
use jiff::Timestamp;
use serde_json::{Value, json};

type Cell = fn(&Value, Timestamp) -> Value;

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
    cell: |o, _| json!(crate::meta::name(o)),
};
const AGE: Column = shown("Age", "string", "The time since the object was created.", |o, now| {
    json!(since(crate::meta::string(o, "creationTimestamp"), now))
});

/// A column that is always shown.
const fn shown(name: &'static str, kind: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { name, kind, format: "", description, priority: 0, cell }
}
/// A column shown with `-o wide`.
const fn wide(name: &'static str, kind: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { name, kind, format: "", description, priority: 1, cell }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// The age of a time as kubectl shows it; `<unknown>` for none.
fn since(time: &str, now: Timestamp) -> String {
    timestamp(time)
        .map_or_else(|| "<unknown>".to_owned(), |t| human_duration(now.as_second() - t.as_second()))
}

fn or_none(s: &str) -> &str {
    or(s, "<none>")
}
fn or<'a>(s: &'a str, otherwise: &'a str) -> &'a str {
    if s.is_empty() { otherwise } else { s }
}

/// A field of every container of the list at `pointer`, joined by commas.
fn of_containers(obj: &Value, pointer: &str, field: &str) -> Value {
    json!(list(obj, pointer).iter().map(|c| c[field].as_str().unwrap_or("")).collect::<Vec<_>>().join(","))
}
fn template_names(o: &Value, _: Timestamp) -> Value {
    of_containers(o, "/spec/template/spec/containers", "name")
}
fn template_images(o: &Value, _: Timestamp) -> Value {
    of_containers(o, "/spec/template/spec/containers", "image")
}

/// metav1.FormatLabelSelector.
fn label_selector(o: &Value, _: Timestamp) -> Value {
    shown_selector(&o["spec"]["selector"])
}
fn shown_selector(selector: &Value) -> Value {
    json!(match LabelSelector::from_object(selector) {
        Ok(s) => or_none(&s.to_string()).to_owned(),
        Err(_) => "<error>".to_owned(),
    })
}

/// Up to three of `items`, and how many more there are.
fn first_three(items: &[String], none: &str) -> String {
    const SHOWN: usize = 3;
    let text = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    match items.len() {
        0 => none.to_owned(),
        n if n > SHOWN => format!("{text} + {} more...", n - SHOWN),
        _ => or(&text, none).to_owned(),
    }
}

fn lower_case(o: &Value, pointer: &str) -> String {
    text(o, pointer).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of an object by column name, for the tests of each file.
    pub(super) fn cell(columns: &[Column], name: &str, obj: &Value, now: &str) -> Value {
        let column = columns.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no column {name}"));
        (column.cell)(obj, now.parse().unwrap())
    }

    #[test]
    fn three_items_are_shown_and_the_rest_counted() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(first_three(&items(0), "<none>"), "<none>");
        assert_eq!(first_three(&items(3), "<none>"), "0,1,2");
        assert_eq!(first_three(&items(5), "<none>"), "0,1,2 + 2 more...");
    }
}
