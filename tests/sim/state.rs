//! The cluster as the store's own commits tell it, kept apart from everything the components believe.
use crate::answers::Promises;
use cri::fake::FakeRuntime;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// An object as the store holds it.
pub struct Stored {
    pub value: Arc<Value>,
    pub revision: u64,
    pub created: u64,
    pub version: u64,
}

/// One change of one object.
pub struct Change {
    pub revision: u64,
    pub at: Duration,
    /// `apps/deployments`, `core/pods`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

impl Change {
    pub fn about(&self) -> String {
        format!("{} {}/{} at revision {}", self.resource, self.namespace, self.name, self.revision)
    }
}

/// One line of a resource's history: what a watch must show.
pub struct Entry {
    pub revision: u64,
    pub namespace: String,
    pub name: String,
    pub deleted: bool,
}

/// What is known of a pod, also after its end.
#[derive(Default)]
pub struct PodRecord {
    pub namespace: String,
    pub name: String,
    pub node: Option<String>,
    pub restart_policy: String,
    pub gone: bool,
}

/// A container that some node was asked to make.
pub struct ContainerRecord {
    pub node: String,
    pub pod_uid: String,
    pub name: String,
    pub started: bool,
}

#[derive(Default)]
pub struct State {
    pub now: Duration,
    pub head: u64,
    pub objects: BTreeMap<String, Stored>,
    pub log: BTreeMap<String, Vec<Entry>>,
    pub pods: BTreeMap<String, PodRecord>,
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Pods whose binding was answered with an error although it may have happened, `namespace/name`.
    pub ambiguous_bindings: BTreeSet<String>,
    /// How many creations of dependents of an owner (by uid) nobody knows the outcome of.
    pub ambiguous_creates: BTreeMap<String, u64>,
    pub promises: Promises,
    /// Pods (by uid) that were deleted without grace by somebody else than their kubelet.
    pub forced: BTreeSet<String>,
    /// The machines that are there, by node.
    pub machines: BTreeMap<String, FakeRuntime>,
}

/// What a store's key stands for: resource, namespace, name.
pub fn split_key(key: &str) -> Option<(String, String, String)> {
    let mut parts = key.strip_prefix("/registry/")?.split('/');
    let resource = format!("{}/{}", parts.next()?, parts.next()?);
    match (parts.next()?, parts.next()) {
        (namespace, Some(name)) => Some((resource, namespace.to_owned(), name.to_owned())),
        (name, None) => Some((resource, String::new(), name.to_owned())),
    }
}

impl State {
    /// Objects of a resource.
    pub fn of<'a>(&'a self, resource: &str) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let prefix = format!("/registry/{resource}/");
        self.objects
            .range(prefix.clone()..)
            .take_while(move |(k, _)| k.starts_with(&prefix))
            .map(|(_, s)| &s.value)
    }

    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<&Stored> {
        let key = match namespace {
            "" => format!("/registry/{resource}/{name}"),
            _ => format!("/registry/{resource}/{namespace}/{name}"),
        };
        self.objects.get(&key)
    }
}

/// A text of an object, or nothing.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Whether a pod has ended, well or badly.
pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// The uid of the controlling owner of that kind.
pub fn controller<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .find(|r| r["controller"] == true && r["kind"] == kind)
        .and_then(|r| r["uid"].as_str())
}

pub fn is_true(object: &Value, condition: &str) -> bool {
    list(object, "/status/conditions").iter().any(|c| c["type"] == condition && c["status"] == "True")
}

#[test]
fn keys_tell_what_they_stand_for() {
    let pod = split_key("/registry/core/pods/ns/a").unwrap();
    assert_eq!(pod, ("core/pods".into(), "ns".into(), "a".into()));
    let node = split_key("/registry/core/nodes/n1").unwrap();
    assert_eq!(node, ("core/nodes".into(), String::new(), "n1".into()));
}
