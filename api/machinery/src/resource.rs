//! The resource table: one row for each kind the API server serves.
//!
//! Adding a kind is adding a row here and a [`Strategy`](crate::strategy::Strategy); nothing else in the server
//! knows kinds by name.
use crate::strategy::{Strategy, keep, keep_all_but_status};
use crate::table::Column;
use serde_json::Value;
use std::sync::LazyLock;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// What can be done with a resource; the strings of discovery's `verbs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// The verb as discovery and authorization spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// Every verb, in discovery's order.
pub const ALL_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// What a subresource does. The API server has one implementation of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubresourceKind {
    /// `status`: get, patch, update of the same object, where only `.status` may change.
    Status,
    /// `scale`: an autoscaling/v1 Scale view of `.spec.replicas`.
    Scale,
    /// `binding`: create of a core/v1 Binding sets `.spec.nodeName` of a pod, once.
    Binding,
    /// `log`: get, proxied to the kubelet of the pod's node.
    Log,
    /// `finalize`: update of a namespace's `.spec.finalizers`.
    Finalize,
    /// `eviction`: create of a policy/v1 Eviction deletes the pod gracefully.
    Eviction,
    /// `exec`: get and create upgrade the connection to the streams of a command, proxied to the pod's kubelet.
    Exec,
    /// `attach`: the same with the streams of the container's own program.
    Attach,
    /// `proxy`: any method, passed on to the kubelet of a node.
    Proxy,
}

/// One subresource of a resource, as discovery describes it.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// The path segment: `status`.
    pub name: &'static str,
    pub kind: SubresourceKind,
    /// Group, version and kind of its body: `("autoscaling", "v1", "Scale")`.
    pub gvk: (&'static str, &'static str, &'static str),
    pub verbs: &'static [Verb],
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Resource {
    /// API group; empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// The path segment: `pods`.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [Verb],
    pub subresources: &'static [Subresource],
    /// The OpenAPI definition that describes it: `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
    /// Group and resource under which objects are stored: `("", "events")` for both event APIs. A row whose own
    /// group or version differs converts through its strategy.
    pub storage: (&'static str, &'static str),
    /// Field selectors beyond `metadata.name` and `metadata.namespace`: `spec.nodeName`.
    pub selectable_fields: &'static [&'static str],
    /// The columns of `kubectl get`.
    pub columns: &'static [Column],
    pub strategy: &'static dyn Strategy,
    /// Seconds after which the store forgets an object by itself; events only (kube-apiserver `--event-ttl`).
    pub ttl_seconds: Option<u64>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
    /// `pods` or `deployments.apps`: how error messages name it (a GroupResource).
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Keeps from `old` what a client may not change through the main resource: `.status`, where it has a
    /// subresource of its own, and what the kind's strategy adds.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        if self.subresource("status").is_some() {
            keep(new, old, "status");
        }
        self.strategy.prepare_for_update(new, old);
    }

    /// Keeps from `old` what a client may not change through `/status`: everything but `.status`, and all of
    /// metadata except managedFields (upstream's `statusStrategy`), and what the kind's strategy adds.
    pub fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        self.strategy.prepare_for_status_update(new, old);
    }
}

/// Every row.
pub fn all() -> &'static [Resource] {
    crate::strategy::TABLE
}

/// What a server serves: every row, and with `metrics` those of `metrics.k8s.io`, which are computed.
pub fn served(metrics: bool) -> &'static [Resource] {
    static WITH_METRICS: LazyLock<Vec<Resource>> = LazyLock::new(|| [all(), crate::metrics::ROWS].concat());
    if metrics { &WITH_METRICS } else { all() }
}

/// The row for a path's group, version and plural.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The row for an object's `apiVersion` and `kind`.
pub fn lookup_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all().iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}
