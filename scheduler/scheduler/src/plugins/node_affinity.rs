//! NodeAffinity: the pod's nodeSelector and required node affinity say where it may run, its preferred node
//! affinity where it had rather.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection, Score, normalise_by_max};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::{
    NodeAffinity as Affinity, NodeSelectorRequirement, NodeSelectorTerm,
};
use std::collections::BTreeSet;

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::Node { node, change } => change.labels && allows(pod, node),
            _ => false,
        }
    }
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.spec().affinity.as_ref()?.node_affinity.as_ref()
}

fn required(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let required = affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

impl PreFilter for NodeAffinity {
    /// A pod whose every term names nodes (a daemon's pod names one) needs no look at the others.
    fn pre_filter(&self, pod: &PodInfo, _: &Snapshot) -> Result<Option<BTreeSet<String>>, Rejection> {
        let Some(terms) = required(pod).filter(|t| !t.is_empty()) else { return Ok(None) };
        let mut names = BTreeSet::new();
        for term in terms {
            let mut named: Option<BTreeSet<&String>> = None;
            for field in term.match_fields.iter().flatten() {
                if field.key == "metadata.name" && field.operator == "In" {
                    let values: BTreeSet<&String> = field.values.iter().flatten().collect();
                    named = Some(match named {
                        None => values,
                        Some(before) => before.intersection(&values).copied().collect(),
                    });
                }
            }
            match named {
                None => return Ok(None),
                Some(some) => names.extend(some.into_iter().cloned()),
            }
        }
        if names.is_empty() {
            return Err(Rejection::unresolvable(self.name(), "pod affinity terms conflict"));
        }
        Ok(Some(names))
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        if allows(pod, node) {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) didn't match Pod's node affinity/selector"))
    }
}

impl Score for NodeAffinity {
    /// The weights of the preferences that the node meets.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        affinity(pod)
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
            .iter()
            // A preference without terms is for every node, unlike a required term.
            .filter(|p| is_empty(&p.preference) || matches_term(&p.preference, node))
            .map(|p| i64::from(p.weight))
            .sum()
    }

    fn normalise(&self, scores: &mut [i64]) {
        normalise_by_max(scores, false);
    }
}

/// Whether the pod may run on the node.
pub(super) fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selected =
        pod.spec().node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value.as_str()));
    // Terms are alternatives; none at all is met by no node.
    selected && required(pod).is_none_or(|terms| terms.iter().any(|t| matches_term(t, node)))
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && term.match_fields.as_ref().is_none_or(Vec::is_empty)
}

/// An empty term matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    !is_empty(term)
        && term.match_expressions.iter().flatten().all(|r| holds(r, node.label(&r.key)))
        && term
            .match_fields
            .iter()
            .flatten()
            .all(|r| r.key == "metadata.name" && holds(r, Some(node.name.as_str())))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|x| x == v);
    let compare = |holds: fn(i64, i64) -> bool| {
        let (Some(value), [bound]) = (value, values) else { return false };
        matches!((value.parse(), bound.parse()), (Ok(v), Ok(b)) if holds(v, b))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, b| v > b),
        "Lt" => compare(|v, b| v < b),
        _ => false,
    }
}
