//! Nodes.
use super::Strategy;
use super::check::{self, Faults};
use super::pod::TAINT_EFFECTS;
use super::view::{fill, flag, has, list, map, section, text};
use crate::field::{Error, Path};
use crate::resource::Resource;
use crate::validation::label_value;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        // What is not said to be reserved can be given to pods.
        if let Some(capacity) = map(obj, "/status/capacity").cloned()
            && let Some(status) = section(obj, "status")
        {
            fill(status, "allocatable", capacity);
        }
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("spec"));
        let mut seen = BTreeSet::new();
        for (i, taint) in list(obj, "/spec/taints").iter().enumerate() {
            let path = path.child("taints").index(i);
            check::key(&mut faults, text(taint, "/key"), path.child("key"));
            if let Err(errors) = label_value(text(taint, "/value")) {
                faults.push(Error::invalid(path.child("value"), text(taint, "/value"), &errors.join(";")));
            }
            check::one_of(&mut faults, taint, &path, "effect", TAINT_EFFECTS);
            if !seen.insert((text(taint, "/key"), text(taint, "/effect"))) {
                let mut e = Error::duplicate(path, taint.clone());
                e.detail.push_str(": taints must be unique by key and effect pair");
                faults.push(e);
            }
        }
        for list in ["capacity", "allocatable"] {
            for (name, quantity) in obj["status"][list].as_object().into_iter().flatten() {
                check::quantity_not_negative(
                    &mut faults,
                    quantity,
                    Path::new("status").child(list).key(name),
                );
            }
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        for name in ["podCIDR", "providerID"] {
            let was = text(old, &format!("/spec/{name}"));
            if !was.is_empty() && new["spec"][name] != was {
                let detail = format!("node updates may not change {name} except from \"\" to valid");
                faults.push(Error::forbidden(Path::new("spec").child(name), &detail));
            }
        }
        faults
    }
    fn fields(&self, _resource: &Resource, obj: &Value) -> Vec<String> {
        vec![flag(obj, "/spec/unschedulable").to_string()]
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        let mut faults = Faults::new();
        let mut seen = BTreeSet::new();
        for (i, address) in list(new, "/status/addresses").iter().enumerate() {
            if has(address, "/address") && !seen.insert((text(address, "/type"), text(address, "/address"))) {
                let path = Path::new("status").child("addresses").index(i);
                faults.push(Error::duplicate(path, address.clone()));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn capacity_is_allocatable_and_taints_are_unique() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let mut n = json!({"spec": {"taints": [taint, taint, {"key": "b", "effect": "Sometimes"}]},
            "status": {"capacity": {"cpu": "2"}}});
        Node.default(&mut n);
        assert_eq!(n["status"]["allocatable"], json!({"cpu": "2"}));
        let got = shown(&Node.validate(&n));
        assert!(got[0].ends_with("taints must be unique by key and effect pair"), "{got:?}");
        assert!(got[1].starts_with("spec.taints[2].effect: Unsupported value: \"Sometimes\""), "{got:?}");
    }
}
