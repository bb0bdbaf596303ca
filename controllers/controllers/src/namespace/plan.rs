//! What is said of a namespace that is being deleted, and when it may go. Pure.
use crate::discovery::Served;
use client::k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The finalizer in `spec.finalizers` that keeps a namespace until its content is gone.
pub(crate) const FINALIZER: &str = "kubernetes";

/// What one pass of deletion left.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Remains {
    /// Objects left, by resource (`pods.`, `deployments.apps`).
    pub(crate) objects: BTreeMap<String, usize>,
    /// Objects held, by finalizer.
    pub(crate) finalizers: BTreeMap<String, usize>,
    pub(crate) discovery_failed: Option<String>,
    pub(crate) deletion_failed: Option<String>,
}

impl Remains {
    /// Whether nothing is left and everything was looked at.
    pub(crate) fn is_clean(&self) -> bool {
        self.objects.is_empty() && self.discovery_failed.is_none() && self.deletion_failed.is_none()
    }
}

/// The kinds to delete, in order: pods first. What confines and configures them (NetworkPolicies, Secrets) stays until
/// the last of them has ended.
pub(crate) fn deletion_order(kinds: &[Served]) -> Vec<&Served> {
    let deletable = |s: &&Served| s.namespaced && s.can("list") && s.can("delete");
    let mut all: Vec<&Served> = kinds.iter().filter(deletable).collect();
    all.sort_by_key(|s| !is_pods(s));
    all
}

pub(crate) fn is_pods(kind: &Served) -> bool {
    kind.resource.group.is_empty() && kind.resource.plural == "pods"
}

/// Whether the namespace waits for this controller.
pub(crate) fn is_ours_to_empty(ns: &Namespace) -> bool {
    ns.metadata.deletion_timestamp.is_some()
        && ns
            .spec
            .as_ref()
            .and_then(|s| s.finalizers.as_ref())
            .is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

/// The namespace as it goes to `/finalize`: without our finalizer.
pub(crate) fn finalized(ns: &Namespace) -> Namespace {
    let mut ns = ns.clone();
    if let Some(finalizers) = ns.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    ns
}

/// The status that fits what is left.
pub(crate) fn compute_status(ns: &Namespace, remains: &Remains, now: Timestamp) -> NamespaceStatus {
    let old = ns.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    let mut say = |kind: &str, failed: bool, reason: &str, message: String| {
        let status = if failed { "True" } else { "False" };
        let same = |c: &NamespaceCondition| {
            c.status == status
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(&message)
        };
        let known = conditions.iter().find(|c| c.type_ == kind);
        if known.is_some_and(same) {
            return;
        }
        let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        let new = NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.clone()),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(slot) => *slot = new,
            None => conditions.push(new),
        }
    };
    match &remains.discovery_failed {
        Some(text) => say("NamespaceDeletionDiscoveryFailure", true, "DiscoveryFailed", text.clone()),
        None => {
            let text = "All resources successfully discovered";
            say("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", text.into());
        }
    }
    let text = "All legacy kube types successfully parsed";
    say("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", text.into());
    match &remains.deletion_failed {
        Some(text) => say("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", text.clone()),
        None => {
            let text = "All content successfully deleted, may be waiting on finalization";
            say("NamespaceDeletionContentFailure", false, "ContentDeleted", text.into());
        }
    }
    if remains.objects.is_empty() {
        say("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed".into());
    } else {
        let list = remains.objects.iter().map(|(r, n)| format!("{r} has {n} resource instances"));
        let text = format!("Some resources are remaining: {}", list.collect::<Vec<_>>().join(", "));
        say("NamespaceContentRemaining", true, "SomeResourcesRemain", text);
    }
    if remains.finalizers.is_empty() {
        let text = "All content-preserving finalizers finished";
        say("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", text.into());
    } else {
        let list = remains.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances"));
        let all = list.collect::<Vec<_>>().join(", ");
        let text = format!("Some content in the namespace has finalizers remaining: {all}");
        say("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", text);
    }
    NamespaceStatus { phase: Some("Terminating".into()), conditions: Some(conditions) }
}
