//! The scale subresource: an autoscaling/v1 Scale as another view of `.spec.replicas`.
use super::view::{has, int, text};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource::Resource;
use crate::selector::LabelSelector;
use crate::status::Status;
use serde_json::{Map, Value, json};

/// The Scale of an object. `status.selector` is the object's label selector as a query; a kind that has none of
/// its own may publish one as `status.selector`.
pub fn scale_of(_resource: &Resource, obj: &Value) -> Value {
    let selector = match &obj["spec"]["selector"] {
        Value::Null => text(obj, "/status/selector").to_owned(),
        s => LabelSelector::from_object(s).map(|s| s.to_string()).unwrap_or_default(),
    };
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if has(obj, &format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), obj["metadata"][field].clone());
        }
    }
    let mut spec = Map::new();
    // Go leaves a zero out; readers take its absence for zero.
    if int(obj, "/spec/replicas") != 0 {
        spec.insert("replicas".to_owned(), json!(int(obj, "/spec/replicas")));
    }
    let mut status = json!({ "replicas": int(obj, "/status/replicas") });
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status })
}

/// Puts a Scale's wish into the object. The Scale's resourceVersion and uid, if given, become the object's, so
/// that the update that follows is refused if they are not the current ones.
pub fn apply_scale(resource: &Resource, obj: &mut Value, scale: &Value) -> Result<(), Status> {
    let name = meta::name(obj).to_owned();
    let replicas = int(scale, "/spec/replicas");
    let given = meta::name(scale);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = Error::invalid(path, replicas, "must be greater than or equal to 0");
        let mut status = Status::invalid(resource, &name, std::slice::from_ref(&error));
        status.message = format!("Scale.autoscaling {name:?} is invalid: {error}");
        status.details["kind"] = json!("Scale");
        status.details["group"] = json!("autoscaling");
        return Err(status);
    }
    if !obj["spec"].is_object() {
        obj["spec"] = json!({});
    }
    obj["spec"]["replicas"] = json!(replicas);
    for field in ["resourceVersion", "uid"] {
        match meta::string(scale, field) {
            "" => {}
            value => meta::set(obj, field, value.to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::lookup;

    fn deployment() -> Value {
        json!({"metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2}})
    }

    #[test]
    fn a_scale_is_read_and_written_back() {
        let row = lookup("apps", "v1", "deployments").expect("a row");
        let mut d = deployment();
        let mut scale = scale_of(row, &d);
        assert_eq!(
            scale,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "7"},
            "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=web"}})
        );
        scale["spec"]["replicas"] = json!(5);
        scale["metadata"]["resourceVersion"] = json!("6");
        apply_scale(row, &mut d, &scale).unwrap();
        assert_eq!(d["spec"]["replicas"], 5);
        assert_eq!(meta::resource_version(&d), "6");
        apply_scale(row, &mut d, &json!({"metadata": {"name": "d"}, "spec": {}})).unwrap();
        assert_eq!(d["spec"]["replicas"], 0);
        assert_eq!(scale_of(row, &d)["spec"], json!({}));
    }

    #[test]
    fn less_than_nothing_is_refused() {
        let row = lookup("apps", "v1", "deployments").expect("a row");
        let e = apply_scale(row, &mut deployment(), &json!({"spec": {"replicas": -1}})).unwrap_err();
        assert_eq!(e.code, 422);
        assert_eq!(
            e.message,
            "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
