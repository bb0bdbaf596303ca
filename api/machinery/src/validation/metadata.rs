//! `metadata`, on create and on update.
use super::{dns_label, label_value, qualified_name};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource::Resource;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// All keys and values of an object's annotations together (upstream `TotalAnnotationSizeLimitB`).
pub const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;

pub(crate) const IMMUTABLE: &str = "field is immutable";

/// Validates `metadata` on create (upstream `ValidateObjectMeta`): name or generateName, namespace, labels,
/// annotations (256 KiB in all), ownerReferences, finalizers.
pub fn object_meta(resource: &Resource, obj: &Value) -> Vec<Error> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let generate_name = meta::string(obj, "generateName");
    if !generate_name.is_empty()
        && let Err(e) = resource.strategy.validate_name(&mask_trailing_dash(generate_name))
    {
        errors.push(Error::invalid(path.child("generateName"), generate_name, &e));
    }
    match meta::name(obj) {
        "" => errors.push(Error::required(path.child("name"), "name or generateName is required")),
        name => {
            if let Err(e) = path_segment(name).and_then(|()| resource.strategy.validate_name(name)) {
                errors.push(Error::invalid(path.child("name"), name, &e));
            }
        }
    }
    match (resource.namespaced(), meta::namespace(obj)) {
        (true, "") => errors.push(Error::required(path.child("namespace"), "")),
        (true, namespace) => {
            if let Err(e) = dns_label(namespace) {
                errors.push(Error::invalid(path.child("namespace"), namespace, &e));
            }
        }
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(path.child("namespace"), "not allowed on this type")),
    }
    errors.extend(changeable(obj, &path));
    errors
}

/// Validates a change of `metadata` (upstream `ValidateObjectMetaUpdate`): what may not change, and that no
/// finalizer is added to an object that is being deleted.
pub fn object_meta_update(_resource: &Resource, new: &Value, old: &Value) -> Vec<Error> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    if meta::is_terminating(old) {
        let had: BTreeSet<&str> = meta::finalizers(old).into_iter().collect();
        let has: BTreeSet<&str> = meta::finalizers(new).into_iter().collect();
        let added: Vec<String> = has.difference(&had).map(|f| format!("{f:?}")).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(Error::forbidden(path.child("finalizers"), &detail));
        }
    }
    if meta::resource_version(new).is_empty() {
        errors.push(Error::invalid(path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |o: &Value| o["metadata"]["generation"].as_i64().unwrap_or(0);
    if generation(new) < generation(old) {
        errors.push(Error::invalid(path.child("generation"), generation(new), "must not be decremented"));
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let of = |o: &Value| o["metadata"].get(field).filter(|v| !v.is_null() && **v != "").cloned();
        if of(new) != of(old) {
            errors.push(Error::invalid(path.child(field), of(new).unwrap_or(Value::Null), IMMUTABLE));
        }
    }
    errors.extend(changeable(new, &path));
    errors
}

/// What is checked on create and update alike.
fn changeable(obj: &Value, path: &Path) -> Vec<Error> {
    let m = &obj["metadata"];
    let mut errors = labels(m["labels"].as_object(), &path.child("labels"));
    errors.extend(annotations(m["annotations"].as_object(), &path.child("annotations")));
    errors.extend(owners(&m["ownerReferences"], &path.child("ownerReferences")));
    errors.extend(finalizers(&meta::finalizers(obj), &path.child("finalizers")));
    errors
}

/// A map of labels, as in metadata, a pod's nodeSelector and a service's selector.
pub(crate) fn labels(labels: Option<&Map<String, Value>>, path: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        for e in qualified_name(key).err().into_iter().flatten() {
            errors.push(Error::invalid(path.clone(), key.as_str(), &e));
        }
        let value = value.as_str().unwrap_or("");
        for e in label_value(value).err().into_iter().flatten() {
            errors.push(Error::invalid(path.clone(), value, &e));
        }
    }
    errors
}

fn annotations(annotations: Option<&Map<String, Value>>, path: &Path) -> Vec<Error> {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in annotations.into_iter().flatten() {
        // Upper case is allowed, in prefixes too.
        for e in qualified_name(&key.to_lowercase()).err().into_iter().flatten() {
            errors.push(Error::invalid(path.clone(), key.as_str(), &e));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(Error::too_long(path.clone(), MAX_ANNOTATIONS_BYTES));
    }
    errors
}

fn owners(references: &Value, path: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in references.as_array().into_iter().flatten() {
        let text = |field: &str| owner[field].as_str().unwrap_or("");
        let version = text("apiVersion").rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            let path = path.child("apiVersion");
            errors.push(Error::invalid(path, text("apiVersion"), "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(Error::invalid(path.child(field), "", "must not be empty"));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(path.clone(), owner.clone(), detail));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {first} and {this}"
                    );
                    errors.push(Error::invalid(path.clone(), references.clone(), &detail));
                }
                None => controller = Some(this),
            }
        }
    }
    errors
}

fn finalizers(finalizers: &[&str], path: &Path) -> Vec<Error> {
    let mut errors = Vec::new();
    for f in finalizers {
        for e in qualified_name(f).err().into_iter().flatten() {
            errors.push(Error::invalid(path.clone(), *f, &e));
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(path.clone(), finalizers.to_vec(), detail));
    }
    errors
}

/// What may stand in a URL's path.
fn path_segment(name: &str) -> Result<(), String> {
    match name {
        "." | ".." => Err(format!("may not be '{name}'")),
        n if n.contains('/') => Err("may not contain '/'".to_owned()),
        n if n.contains('%') => Err("may not contain '%'".to_owned()),
        _ => Ok(()),
    }
}

/// A prefix of a name may end in a dash: the random suffix comes after it.
fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(p) if !p.is_empty() => format!("{p}a"),
        _ => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::lookup;
    use serde_json::json;

    fn pods() -> &'static Resource {
        lookup("", "v1", "pods").expect("a row")
    }
    fn create(metadata: Value) -> Vec<String> {
        object_meta(pods(), &json!({"metadata": metadata})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_object_passes() {
        assert!(create(json!({
            "name": "a.b-1", "namespace": "ns", "generateName": "a-",
            "labels": {"app.kubernetes.io/name": "x", "empty": ""},
            "annotations": {"Example.COM/Any": "any\ntext"},
            "finalizers": ["example.com/x"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]
        }))
        .is_empty());
    }

    #[test]
    fn each_fault_of_metadata_is_named_with_its_path() {
        for (metadata, want) in [
            (json!({"namespace": "ns"}), "metadata.name: Required value: name or generateName is required"),
            (json!({"name": "a"}), "metadata.namespace: Required value"),
            (
                json!({"name": "A", "namespace": "n"}),
                "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must",
            ),
            (
                json!({"name": "a/b", "namespace": "n"}),
                "metadata.name: Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                json!({"name": "a", "namespace": "n.m"}),
                "metadata.namespace: Invalid value: \"n.m\": must not contain dots",
            ),
            (
                json!({"name": "a", "namespace": "n", "labels": {"a b": ""}}),
                "metadata.labels: Invalid value: \"a b\": name part must consist",
            ),
            (
                json!({"name": "a", "namespace": "n", "labels": {"a": "-"}}),
                "metadata.labels: Invalid value: \"-\": a valid label must be",
            ),
            (
                json!({"name": "a", "namespace": "n", "annotations": {"a/b/c": ""}}),
                "metadata.annotations: Invalid value: \"a/b/c\": a qualified name must",
            ),
            (
                json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(MAX_ANNOTATIONS_BYTES)}}),
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
            (
                json!({"name": "a", "namespace": "n", "finalizers": ["a b"]}),
                "metadata.finalizers: Invalid value: \"a b\": name part must",
            ),
            (
                json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            ),
        ] {
            let got = create(metadata.clone());
            assert!(got.len() == 1 && got[0].starts_with(want), "{metadata}: {got:?}");
        }
        let two = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let got = create(json!({"name": "a", "namespace": "n", "ownerReferences": [two, two]}));
        assert!(got[0].contains("Only one reference can have Controller set to true"), "{got:?}");
    }

    #[test]
    fn identity_may_not_change_and_a_dying_object_takes_no_finalizer() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "1",
            "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["x.io/a"]}});
        assert!(object_meta_update(pods(), &old, &old).is_empty());
        let mut new = old.clone();
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["finalizers"] = json!(["x.io/a", "x.io/b"]);
        new["metadata"]["generation"] = json!(1);
        meta::remove(&mut new, "resourceVersion");
        let got: Vec<String> =
            object_meta_update(pods(), &new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
             found new finalizers []string{\"x.io/b\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
        new["metadata"]["finalizers"] = json!([]);
        assert!(!object_meta_update(pods(), &new, &old).iter().any(|e| e.to_string().contains("finalizers")));
    }
}
