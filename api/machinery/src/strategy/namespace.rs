//! Namespaces. One that is deleted stays until its finalizer `kubernetes` is gone: then it is empty.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{keep, list, section};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource::Resource;
use crate::validation::dns_label;
use serde_json::{Value, json};

pub(super) struct Namespace;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

impl Strategy for Namespace {
    fn default(&self, obj: &mut Value) {
        let name = meta::name(obj).to_owned();
        if name.is_empty() {
            return;
        }
        if let Some(labels) = section(obj, "metadata").and_then(|m| section(m, "labels")) {
            labels[NAME_LABEL] = json!(name);
        }
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        self.default(obj);
        obj["status"] = json!({ "phase": "Active" });
        let Some(spec) = section(obj, "spec") else { return };
        if !list(spec, "/finalizers").iter().any(|f| f == FINALIZER) {
            match spec["finalizers"].as_array_mut() {
                Some(list) => list.push(json!(FINALIZER)),
                None => spec["finalizers"] = json!([FINALIZER]),
            }
        }
    }
    /// `spec.finalizers` change through `/finalize` only, where the caller uses this strategy's
    /// [`validate`](Strategy::validate) alone.
    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("finalizers");
        for f in list(obj, "/spec/finalizers") {
            let f = f.as_str().unwrap_or("");
            check::key(&mut faults, f, path.clone());
            if f != FINALIZER && !f.contains('/') {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                faults.push(Error::invalid(path.clone(), f, detail));
            }
        }
        faults
    }
    fn validate_name(&self, name: &str) -> Result<(), String> {
        dns_label(name)
    }
    fn fields(&self, _resource: &Resource, obj: &Value) -> Vec<String> {
        vec![super::view::text(obj, "/status/phase").to_owned(), meta::name(obj).to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held_by_its_finalizer() {
        let mut ns = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        Namespace.prepare_for_create(&mut ns);
        assert_eq!(
            ns,
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut new = ns.clone();
        new["spec"]["finalizers"] = json!([]);
        Namespace.prepare_for_update(&mut new, &ns);
        assert_eq!(new, ns);
        new["spec"]["finalizers"] = json!(["mine"]);
        assert_eq!(Namespace.validate(&new).len(), 1);
    }
}
