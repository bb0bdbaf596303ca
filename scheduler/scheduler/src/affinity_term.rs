//! The terms of a pod's affinity and anti-affinity to other pods, ready to be held against them.
use crate::cache::NamespaceLabels;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeSet;

/// One term: which pods, and within which topology.
#[derive(Clone, Debug, PartialEq)]
pub struct AffinityTerm {
    pub topology_key: String,
    /// `None` takes no pod.
    selector: Option<LabelSelector>,
    namespaces: BTreeSet<String>,
    /// Takes namespaces by their labels, beside those that are named.
    namespace_selector: Option<LabelSelector>,
}

/// All terms of a pod. Empty for nearly every pod, and then takes no memory but its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AffinityTerms {
    pub required: Vec<AffinityTerm>,
    pub required_anti: Vec<AffinityTerm>,
    /// With weights.
    pub preferred: Vec<(i64, AffinityTerm)>,
    pub preferred_anti: Vec<(i64, AffinityTerm)>,
}

impl AffinityTerms {
    pub fn of(pod: &Pod) -> Self {
        let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else {
            return Self::default();
        };
        let to = affinity.pod_affinity.as_ref();
        let from = affinity.pod_anti_affinity.as_ref();
        Self {
            required: all(
                pod,
                to.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti: all(
                pod,
                from.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred: weighted(
                pod,
                to.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti: weighted(
                pod,
                from.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}

fn all(pod: &Pod, terms: Option<&Vec<PodAffinityTerm>>) -> Vec<AffinityTerm> {
    terms.into_iter().flatten().map(|t| AffinityTerm::new(pod, t)).collect()
}

fn weighted(pod: &Pod, terms: Option<&Vec<WeightedPodAffinityTerm>>) -> Vec<(i64, AffinityTerm)> {
    let one =
        |t: &WeightedPodAffinityTerm| (i64::from(t.weight), AffinityTerm::new(pod, &t.pod_affinity_term));
    terms.into_iter().flatten().map(one).collect()
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm) -> Self {
        let mut selector = term.label_selector.clone();
        if let Some(selector) = &mut selector {
            narrow(selector, pod, "In", term.match_label_keys.as_deref());
            narrow(selector, pod, "NotIn", term.mismatch_label_keys.as_deref());
        }
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(pod.metadata.namespace.clone().unwrap_or_default());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector,
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
        }
    }

    /// Whether the term is about `other`.
    pub fn takes(&self, other: &PodInfo, namespaces: &NamespaceLabels) -> bool {
        let namespace = &other.key.namespace;
        let by_labels = |s: &LabelSelector| client::selector::matches(s, namespaces.get(namespace));
        (self.namespaces.contains(namespace) || self.namespace_selector.as_ref().is_some_and(by_labels))
            && self.selector.as_ref().is_some_and(|s| client::selector::matches(s, other.labels()))
    }

    /// Whether labels of namespaces matter to it.
    pub fn asks_for_namespaces(&self) -> bool {
        self.namespace_selector.is_some()
    }
}

/// Narrows a selector by the values that the pod itself has for these labels (`matchLabelKeys`).
pub(crate) fn narrow(selector: &mut LabelSelector, pod: &Pod, operator: &str, keys: Option<&[String]>) {
    let labels = pod.metadata.labels.as_ref();
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.and_then(|l| l.get(key)) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
}
