//! PodTopologySpread: pods that a constraint counts are spread over the values of a node label: none gets more than
//! `maxSkew` above the least (`DoNotSchedule`), or those with fewer are better (`ScheduleAnyway`).
use super::node_affinity::allows;
use super::taint_toleration::untolerated;
use crate::cache::Snapshot;
use crate::framework::{
    ClusterEvent, ClusterFilter, ClusterScore, MAX_SCORE, NodeScore, NodeVerdict, Plugin, Rejection,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::spread_constraint::SpreadConstraint;
use std::collections::HashMap;

pub struct PodTopologySpread;

const HOSTNAME: &str = "kubernetes.io/hostname";
/// The score of a node that lacks a label: the worst, whatever the others have.
const NOT_SCORED: i64 = -1;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::PodAdded { pod: other } | ClusterEvent::PodRemoved { pod: other } => {
                pod.spread.iter().any(|c| c.takes(other))
            }
            ClusterEvent::Node { node, change } => {
                (change.labels || change.taints || change.unschedulable) && has_all_labels(&pod.spread, node)
            }
            // The emptiest domain may have gone with it.
            ClusterEvent::NodeRemoved => true,
            ClusterEvent::RuntimeClass | ClusterEvent::Namespace => false,
        }
    }
    fn waits_for_pods(&self) -> bool {
        true
    }
}

fn has_all_labels<'c>(constraints: impl IntoIterator<Item = &'c SpreadConstraint>, node: &NodeInfo) -> bool {
    constraints.into_iter().all(|c| node.label(&c.topology_key).is_some())
}

/// Whether a node is among those over which the constraint spreads.
fn counts_node(c: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!c.honours_affinity || allows(pod, node)) && (!c.honours_taints || untolerated(pod, node).is_none())
}

/// The pods in each domain of a constraint.
struct Domains<'s> {
    constraint: &'s SpreadConstraint,
    counts: HashMap<&'s str, i64>,
}

/// The domains of all constraints, over the nodes that have all their labels.
fn domains<'s>(
    constraints: &[&'s SpreadConstraint],
    pod: &PodInfo,
    snapshot: &'s Snapshot,
    wanted: impl Fn(&SpreadConstraint, &str) -> bool,
) -> Vec<Domains<'s>> {
    let mut all: Vec<Domains<'s>> =
        constraints.iter().map(|c| Domains { constraint: c, counts: HashMap::new() }).collect();
    for node in snapshot.nodes().iter().filter(|n| has_all_labels(constraints.iter().copied(), n)) {
        for d in &mut all {
            let Some(value) = node.label(&d.constraint.topology_key) else { continue };
            if wanted(d.constraint, value) && counts_node(d.constraint, pod, node) {
                *d.counts.entry(value).or_default() += d.constraint.count(node);
            }
        }
    }
    all
}

impl ClusterFilter for PodTopologySpread {
    fn begin<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Option<NodeVerdict<'s>> {
        let required: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| c.required).collect();
        if required.is_empty() {
            return None;
        }
        let name = self.name();
        let counted: Vec<(Domains<'s>, i64)> = domains(&required, pod, snapshot, |_, _| true)
            .into_iter()
            .map(|d| {
                // Fewer domains than wanted: one that is not there yet counts as empty.
                let enough = d.counts.len() >= d.constraint.min_domains;
                let least = if enough { d.counts.values().min().copied().unwrap_or(0) } else { 0 };
                (d, least)
            })
            .collect();
        Some(Box::new(move |node| {
            for (d, least) in &counted {
                let c = d.constraint;
                let Some(value) = node.label(&c.topology_key) else {
                    return Err(Rejection::unresolvable(
                        name,
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    ));
                };
                let own = i64::from(c.takes(pod));
                let there = d.counts.get(value).copied().unwrap_or(0);
                if there + own - least > c.max_skew {
                    return Err(Rejection::resolvable(
                        name,
                        "node(s) didn't match pod topology spread constraints",
                    ));
                }
            }
            Ok(())
        }))
    }
}

impl ClusterScore for PodTopologySpread {
    /// Pods in the node's domains, those of large topologies weighing more.
    fn begin<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        feasible: &[&'s NodeInfo],
    ) -> Option<NodeScore<'s>> {
        let preferred: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| !c.required).collect();
        if preferred.is_empty() {
            return None;
        }
        let scored: Vec<&NodeInfo> =
            feasible.iter().copied().filter(|n| has_all_labels(preferred.iter().copied(), n)).collect();
        let values = |c: &SpreadConstraint| -> std::collections::HashSet<&str> {
            scored.iter().filter_map(|n| n.label(&c.topology_key)).collect()
        };
        let known: Vec<_> = preferred.iter().map(|c| values(c)).collect();
        // A node's own pods are counted when it is scored; other domains only as far as a feasible node is in them.
        let counted = domains(&preferred, pod, snapshot, |c, value| {
            c.topology_key != HOSTNAME
                && preferred.iter().zip(&known).any(|(p, known)| std::ptr::eq(*p, c) && known.contains(value))
        });
        let weighed: Vec<(Domains<'s>, f64)> = counted
            .into_iter()
            .zip(&known)
            .map(|(d, known)| {
                let size = if d.constraint.topology_key == HOSTNAME { scored.len() } else { known.len() };
                // Upstream's weight: the logarithm keeps few zones from drowning beside many nodes.
                (d, ((size + 2) as f64).ln())
            })
            .collect();
        Some(Box::new(move |node| {
            let mut score = 0.0;
            for (d, weight) in &weighed {
                let c = d.constraint;
                let Some(value) = node.label(&c.topology_key) else { return NOT_SCORED };
                let count = if c.topology_key == HOSTNAME {
                    c.count(node)
                } else {
                    d.counts.get(value).copied().unwrap_or(0)
                };
                score += count as f64 * weight + (c.max_skew - 1) as f64;
            }
            score.round() as i64
        }))
    }

    fn normalise(&self, scores: &mut [i64]) {
        let valid = || scores.iter().copied().filter(|s| *s != NOT_SCORED);
        let (least, most) = (valid().min().unwrap_or(0), valid().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                NOT_SCORED => 0,
                _ if most == 0 => MAX_SCORE,
                s => MAX_SCORE * (most + least - s) / most,
            };
        }
    }
}
