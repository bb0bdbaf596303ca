//! InterPodAffinity: pods that want to be, or not to be, in one topology (a node, a zone) with others; those that are
//! placed already have their say too.
use crate::affinity_term::AffinityTerm;
use crate::cache::Snapshot;
use crate::framework::{
    ClusterEvent, ClusterFilter, ClusterScore, MAX_SCORE, NodeScore, NodeVerdict, Plugin, Rejection,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::collections::HashMap;

pub struct InterPodAffinity;

/// What a placed pod's required affinity to the new one is worth (`hardPodAffinityWeight`).
const HARD_AFFINITY_WEIGHT: i64 = 1;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        let terms = &pod.affinity;
        match event {
            // Whether the other's namespace is meant is not known here; when in doubt, it helps.
            ClusterEvent::PodAdded { .. } => !terms.required.is_empty(),
            ClusterEvent::PodRemoved { pod: other } => {
                !terms.required_anti.is_empty() || !other.affinity.required_anti.is_empty()
            }
            ClusterEvent::Node { change, .. } => change.labels,
            ClusterEvent::Namespace => {
                terms.required.iter().chain(&terms.required_anti).any(AffinityTerm::asks_for_namespaces)
            }
            ClusterEvent::RuntimeClass | ClusterEvent::NodeRemoved => false,
        }
    }
    fn waits_for_pods(&self) -> bool {
        true
    }
}

/// A topology: the label of nodes and its value.
type Topology<'s> = (&'s str, &'s str);
/// Pods, or weights, by topology.
type Counts<'s> = HashMap<Topology<'s>, i64>;

fn add<'s>(counts: &mut Counts<'s>, term: &'s AffinityTerm, node: &'s NodeInfo, amount: i64) {
    if let Some(value) = node.label(&term.topology_key) {
        *counts.entry((&term.topology_key, value)).or_default() += amount;
    }
}

fn at(counts: &Counts<'_>, term: &AffinityTerm, node: &NodeInfo) -> i64 {
    let value = node.label(&term.topology_key);
    value.and_then(|v| counts.get(&(term.topology_key.as_str(), v))).copied().unwrap_or(0)
}

impl ClusterFilter for InterPodAffinity {
    fn begin<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Option<NodeVerdict<'s>> {
        let (name, namespaces) = (self.name(), snapshot.namespaces());
        let (wanted, unwanted) = (&pod.affinity.required, &pod.affinity.required_anti);
        let takes_all = |other: &PodInfo| wanted.iter().all(|t| t.takes(other, namespaces));
        let (mut liked, mut disliked, mut repelling) = (Counts::new(), Counts::new(), Counts::new());
        for node in snapshot.nodes() {
            for other in node.pods_with_anti_affinity() {
                for term in &other.affinity.required_anti {
                    if term.takes(pod, namespaces) {
                        add(&mut repelling, term, node, 1);
                    }
                }
            }
            if wanted.is_empty() && unwanted.is_empty() {
                continue;
            }
            for other in node.pods() {
                // Only a pod that all terms are about counts for any of them.
                if !wanted.is_empty() && takes_all(other) {
                    for term in wanted {
                        add(&mut liked, term, node, 1);
                    }
                }
                for term in unwanted.iter().filter(|t| t.takes(other, namespaces)) {
                    add(&mut disliked, term, node, 1);
                }
            }
        }
        if wanted.is_empty() && unwanted.is_empty() && repelling.is_empty() {
            return None;
        }
        // The first of pods that want to be together finds none of them anywhere.
        let is_first = liked.is_empty() && takes_all(pod);
        Some(Box::new(move |node| {
            let labelled = wanted.iter().all(|t| node.label(&t.topology_key).is_some());
            if !labelled || (!is_first && wanted.iter().any(|t| at(&liked, t, node) == 0)) {
                return Err(Rejection::unresolvable(name, "node(s) didn't match pod affinity rules"));
            }
            if unwanted.iter().any(|t| at(&disliked, t, node) > 0) {
                return Err(Rejection::resolvable(name, "node(s) didn't match pod anti-affinity rules"));
            }
            if repelling.keys().any(|(key, value)| node.label(key) == Some(*value)) {
                return Err(Rejection::resolvable(
                    name,
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                ));
            }
            Ok(())
        }))
    }
}

impl ClusterScore for InterPodAffinity {
    /// The weights of the preferences that the node's topologies meet, the pod's own and those of pods there.
    fn begin<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        _: &[&'s NodeInfo],
    ) -> Option<NodeScore<'s>> {
        let namespaces = snapshot.namespaces();
        let own = &pod.affinity;
        let has_preferences = !own.preferred.is_empty() || !own.preferred_anti.is_empty();
        let mut counts = Counts::new();
        for node in snapshot.nodes() {
            for other in node.pods_with_affinity() {
                let theirs = &other.affinity;
                let liked = theirs.required.iter().map(|t| (HARD_AFFINITY_WEIGHT, t));
                let liked = liked.chain(theirs.preferred.iter().map(|(w, t)| (*w, t)));
                let disliked = theirs.preferred_anti.iter().map(|(w, t)| (-*w, t));
                for (weight, term) in liked.chain(disliked).filter(|(_, t)| t.takes(pod, namespaces)) {
                    add(&mut counts, term, node, weight);
                }
            }
            if !has_preferences {
                continue;
            }
            for other in node.pods() {
                for (weight, term) in own.preferred.iter().filter(|(_, t)| t.takes(other, namespaces)) {
                    add(&mut counts, term, node, *weight);
                }
                for (weight, term) in own.preferred_anti.iter().filter(|(_, t)| t.takes(other, namespaces)) {
                    add(&mut counts, term, node, -*weight);
                }
            }
        }
        if counts.is_empty() {
            return None;
        }
        Some(Box::new(move |node| {
            counts.iter().filter(|((key, value), _)| node.label(key) == Some(*value)).map(|(_, n)| n).sum()
        }))
    }

    fn normalise(&self, scores: &mut [i64]) {
        let least = scores.iter().copied().min().unwrap_or(0).min(0);
        let most = scores.iter().copied().max().unwrap_or(0).max(0);
        for score in scores {
            *score = if most > least { MAX_SCORE * (*score - least) / (most - least) } else { 0 };
        }
    }
}
