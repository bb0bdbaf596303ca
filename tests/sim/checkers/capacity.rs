//! No node gets more than it has.
use super::Checker;
use crate::state::{Change, State, has_ended, list, text};
use machinery::quantity::Quantity;
use serde_json::Value;

pub struct Capacity;

impl Checker for Capacity {
    fn invariant(&self) -> &'static str {
        "the pods bound to a node fit on it"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        if change.resource != "core/pods" {
            return Ok(());
        }
        let Some(new) = &change.new else { return Ok(()) };
        let node = text(new, "/spec/nodeName");
        let was = change.old.as_ref().map_or("", |old| text(old, "/spec/nodeName"));
        if node.is_empty() || node == was {
            return Ok(());
        }
        // A binding nobody knows the outcome of is not the scheduler's to count until its watch shows it.
        match overcommitted(state, node, |name| state.ambiguous_bindings.contains(name)) {
            Some(how) => Err(format!("{} was bound to {node}: {how}", change.about())),
            None => Ok(()),
        }
    }
}

fn amount(list: &Value, what: &str) -> i64 {
    let text = match list.get(what) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return 0,
    };
    Quantity::parse(&text).map_or(0, Quantity::milli_value)
}

/// How the pods of a node, but for those `left_out`, exceed what it has.
pub fn overcommitted(state: &State, node: &str, left_out: impl Fn(&str) -> bool) -> Option<String> {
    let allocatable = state.object("core/nodes", "", node)?.value.pointer("/status/allocatable")?.clone();
    let pods: Vec<_> = state
        .of("core/pods")
        .filter(|p| text(p, "/spec/nodeName") == node && !has_ended(p))
        .filter(|p| !left_out(&format!("{}/{}", text(p, "/metadata/namespace"), text(p, "/metadata/name"))))
        .collect();
    for what in ["cpu", "memory"] {
        let wanted: i64 = pods
            .iter()
            .flat_map(|p| list(p, "/spec/containers"))
            .map(|c| c.pointer("/resources/requests").map_or(0, |r| amount(r, what)))
            .sum();
        let has = amount(&allocatable, what);
        if wanted > has {
            return Some(format!("{} pods want {wanted} milli {what} of {has}", pods.len()));
        }
    }
    let most = amount(&allocatable, "pods") / 1000;
    (pods.len() as i64 > most).then(|| format!("{} pods on a node for {most}", pods.len()))
}
