//! The binding subresource: a scheduler puts a pod on a node, once.
use super::view::{has, list, text};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource;
use crate::status::Status;
use serde_json::{Value, json};

/// Binds `pod` as `binding` says, or says why not: a pod that is bound, gated or being deleted is a 409.
/// The condition PodScheduled becomes true; whoever knows the time sets its `lastTransitionTime`.
pub fn binding_applies(pod: &mut Value, binding: &Value) -> Result<(), Status> {
    let name = meta::name(pod).to_owned();
    let node = text(binding, "/target/name");
    let kind = text(binding, "/target/kind");
    let path = Path::new("target");
    let mut errors = Vec::new();
    if !["", "Node"].contains(&kind) {
        errors.push(Error::not_supported(path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(Error::required(path.child("name"), ""));
    }
    if !errors.is_empty() {
        let row = resource::lookup("", "v1", "pods").ok_or_else(Status::no_such_path)?;
        let mut status = Status::invalid(row, &name, &errors);
        status.message = status.message.replacen("Pod ", "Binding ", 1);
        status.details["kind"] = json!("Binding");
        return Err(status);
    }
    let given = meta::name(binding);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let bound = text(pod, "/spec/nodeName");
    let why = match () {
        () if !meta::uid(binding).is_empty() && meta::uid(binding) != meta::uid(pod) => Some(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            meta::uid(binding),
            meta::uid(pod)
        )),
        () if meta::is_terminating(pod) => {
            Some(format!("pod {name} is being deleted, cannot be assigned to a host"))
        }
        () if !bound.is_empty() => Some(format!("pod {name} is already assigned to node {bound:?}")),
        () if !list(pod, "/spec/schedulingGates").is_empty() => {
            Some(format!("pod {name} has non-empty .spec.schedulingGates"))
        }
        () => None,
    };
    if let Some(why) = why {
        let message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        let mut status = Status::new(409, "Conflict", message);
        status.details = json!({ "name": name, "kind": "pods/binding" });
        return Err(status);
    }

    if !pod["spec"].is_object() {
        pod["spec"] = json!({});
    }
    pod["spec"]["nodeName"] = json!(node);
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            if !has(pod, &format!("/metadata/{field}")) {
                meta::set(pod, field, json!({}));
            }
            pod["metadata"][field][key.as_str()] = value.clone();
        }
    }
    scheduled(pod);
    Ok(())
}

fn scheduled(pod: &mut Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let condition = json!({ "type": "PodScheduled", "status": "True" });
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
            Some(c) => *c = condition,
            None => conditions.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}})
    }
    fn binding() -> Value {
        json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}})
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut p = pod();
        binding_applies(&mut p, &binding()).unwrap();
        assert_eq!(p["spec"]["nodeName"], "n");
        assert_eq!(p["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(p["status"]["conditions"], json!([{"type": "PodScheduled", "status": "True"}]));
        let e = binding_applies(&mut p, &binding()).unwrap_err();
        assert_eq!(e.code, 409);
        assert_eq!(
            e.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
        );
    }

    #[test]
    fn a_pod_that_goes_is_gated_or_is_another_is_not_bound() {
        for (pointer, value) in [
            ("metadata", json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"})),
            ("spec", json!({"schedulingGates": [{"name": "g"}]})),
        ] {
            let mut p = pod();
            p[pointer] = value;
            assert_eq!(binding_applies(&mut p, &binding()).unwrap_err().code, 409);
        }
        let mut b = binding();
        b["metadata"]["uid"] = json!("other");
        assert_eq!(binding_applies(&mut pod(), &b).unwrap_err().code, 409);
        let e = binding_applies(&mut pod(), &json!({"target": {"kind": "Pod"}})).unwrap_err();
        assert_eq!(e.code, 422);
        assert!(
            e.message.starts_with("Binding \"p\" is invalid: [target.kind: Unsupported value"),
            "{}",
            e.message
        );
    }
}
