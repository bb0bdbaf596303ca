//! ReplicaSets.
use super::Strategy;
use super::check::{self, Faults};
use super::deployment::managed_template;
use super::pod::default_template;
use super::view::{fill, int, same, section};
use crate::field::Path;
use crate::resource::Resource;
use serde_json::{Value, json};

pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        default_template(spec);
        fill(spec, "replicas", 1);
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({ "replicas": 0 });
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        for name in ["replicas", "minReadySeconds"] {
            check::not_negative(&mut faults, spec, &path, name);
        }
        check::selector_of_template(&mut faults, spec, &path);
        managed_template(&mut faults, spec, &path);
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("selector");
        check::immutable(&mut faults, &new["spec"]["selector"], &old["spec"]["selector"], path);
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        check::replica_status(&new["status"], &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"])
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
    }
    fn fields(&self, _resource: &Resource, obj: &Value) -> Vec<String> {
        vec![int(obj, "/status/replicas").to_string()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::super::deployment::tests::minimal;
    use super::*;

    #[test]
    fn defaults_and_status_counts_hold() {
        let mut rs = minimal();
        ReplicaSet.default(&mut rs);
        ReplicaSet.prepare_for_create(&mut rs);
        assert_eq!(rs["spec"]["replicas"], 1);
        assert!(ReplicaSet.validate(&rs).is_empty());
        let mut new = rs.clone();
        new["status"] = json!({"replicas": 1, "readyReplicas": 2});
        let got = shown(&ReplicaSet.validate_status_update(&new, &rs));
        assert_eq!(got, ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]);
    }
}
