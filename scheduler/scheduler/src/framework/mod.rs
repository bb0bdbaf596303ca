//! The extension points, one small trait each, and the profile that says which plugins stand at them.
//!
//! Invariant: a plugin decides from its arguments alone. It knows no clock, no randomness, no network and no
//! async; reserving is the cache's assume/forget, and binding is the [`Binder`](crate::binder::Binder).
mod fit_error;

use crate::cache::Snapshot;
use crate::node_info::{NodeChange, NodeInfo};
use crate::plugins;
use crate::pod_info::PodInfo;
pub use fit_error::FitError;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The greatest score of a node from one plugin, after normalising.
pub const MAX_SCORE: i64 = 100;

/// Why a plugin does not want a pod on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: &'static str,
    /// As people read them: `Insufficient cpu`.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing other pods from the node could help.
    pub resolvable: bool,
}

impl Rejection {
    /// Other pods are in the way.
    pub fn resolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable: true }
    }
    /// The node itself is not right.
    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable: false }
    }
}

/// What happened in the cluster that may help a pod no node was found for.
#[derive(Clone, Debug)]
pub enum ClusterEvent<'a> {
    /// A node was added, or changed as `change` says.
    Node { node: &'a NodeInfo, change: NodeChange },
    /// A node is gone.
    NodeRemoved,
    /// A pod was placed on a node, or its labels changed there.
    PodAdded { pod: &'a PodInfo },
    /// A pod left its node, takes less there, or had these labels there until now.
    PodRemoved { pod: &'a PodInfo },
    /// A RuntimeClass was added, changed or deleted.
    RuntimeClass,
    /// The labels of a namespace changed.
    Namespace,
}

/// A plugin has a name, and says which events may change its mind about a pod it rejected.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether, after `event`, a pod this plugin rejected may be accepted. True when in doubt: the cost is one
    /// more attempt.
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool;

    /// Whether a pod that comes to some node may change its mind at all: such events are many, and hardly any pod
    /// waits for one.
    fn waits_for_pods(&self) -> bool {
        false
    }
}

/// Looks at the pod once, before nodes are looked at.
pub trait PreFilter: Plugin {
    /// The only nodes to look at, by name, or None for all. A rejection holds for every node.
    fn pre_filter(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<Option<BTreeSet<String>>, Rejection>;
}

/// Decides whether a node can run the pod.
pub trait Filter: Plugin {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<(), Rejection>;
}

/// What a [`ClusterFilter`] says of a node.
pub type NodeVerdict<'s> = Box<dyn Fn(&NodeInfo) -> Result<(), Rejection> + 's>;
/// How good a [`ClusterScore`] finds a node.
pub type NodeScore<'s> = Box<dyn Fn(&NodeInfo) -> i64 + 's>;

/// Decides whether a node can run the pod by what is on all nodes: counts once, then judges each.
pub trait ClusterFilter: Plugin {
    /// The judge of nodes, or None when every node will do.
    fn begin<'s>(&self, pod: &'s PodInfo, snapshot: &'s Snapshot) -> Option<NodeVerdict<'s>>;
}

/// Says how good a node is by what is on all nodes.
pub trait ClusterScore: Plugin {
    /// The scores of the `feasible` nodes, or None when all are alike.
    fn begin<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        feasible: &[&'s NodeInfo],
    ) -> Option<NodeScore<'s>>;

    /// Brings the scores of all nodes between 0 and [`MAX_SCORE`].
    fn normalise(&self, scores: &mut [i64]);
}

/// Looks for a way out after no node passed.
pub trait PostFilter: Plugin {
    /// A sentence for the FitError, or None if there is nothing to say. `rejections` has one for each node
    /// that was looked at.
    fn post_filter(
        &self,
        pod: &PodInfo,
        snapshot: &Snapshot,
        rejections: &[(&NodeInfo, Rejection)],
    ) -> Option<String>;
}

/// Says how good a node is.
pub trait Score: Plugin {
    /// Any number; greater is better unless [`Score::normalise`] says otherwise.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64;

    /// Brings the scores of all nodes between 0 and [`MAX_SCORE`].
    fn normalise(&self, _scores: &mut [i64]) {}
}

/// Scales scores so that the best is [`MAX_SCORE`]; `reverse` when less is better.
pub fn normalise_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// Which plugins stand at which extension points, in order.
pub struct Framework {
    pub pre_filters: Vec<&'static dyn PreFilter>,
    pub filters: Vec<&'static dyn Filter>,
    /// After the filters, on what these left.
    pub cluster_filters: Vec<&'static dyn ClusterFilter>,
    pub post_filters: Vec<&'static dyn PostFilter>,
    /// With weights.
    pub scores: Vec<(&'static dyn Score, i64)>,
    /// With weights.
    pub cluster_scores: Vec<(&'static dyn ClusterScore, i64)>,
}

impl Default for Framework {
    /// Upstream's default profile, as far as its plugins are here, in its order and with its weights. The
    /// cheap filters that say no most often come first.
    fn default() -> Self {
        Self {
            pre_filters: vec![&plugins::NodeAffinity, &plugins::RuntimeSupport],
            filters: vec![
                &plugins::NodeUnschedulable,
                &plugins::NodeName,
                &plugins::TaintToleration,
                &plugins::NodeAffinity,
                &plugins::NodePorts,
                &plugins::RuntimeSupport,
                &plugins::ImportSupport,
                &plugins::NodeResourcesFit,
            ],
            cluster_filters: vec![&plugins::PodTopologySpread, &plugins::InterPodAffinity],
            post_filters: vec![&plugins::Preemption],
            scores: vec![
                (&plugins::TaintToleration, 3),
                (&plugins::NodeAffinity, 2),
                (&plugins::NodeResourcesFit, 1),
                (&plugins::NodeResourcesBalancedAllocation, 1),
            ],
            cluster_scores: vec![(&plugins::PodTopologySpread, 2), (&plugins::InterPodAffinity, 2)],
        }
    }
}

impl Framework {
    /// Whether `event` may help a pod that the plugins in `rejected_by` rejected. A pod nobody rejected (there
    /// was no node at all, or a request failed) is helped by every event.
    pub fn may_help(
        &self,
        pod: &PodInfo,
        rejected_by: &BTreeSet<&'static str>,
        event: &ClusterEvent<'_>,
    ) -> bool {
        let asked = |name: &'static str| rejected_by.contains(name);
        rejected_by.is_empty()
            || self.filters.iter().any(|p| asked(p.name()) && p.may_help(pod, event))
            || self.cluster_filters.iter().any(|p| asked(p.name()) && p.may_help(pod, event))
            || self.pre_filters.iter().any(|p| asked(p.name()) && p.may_help(pod, event))
    }

    /// Whether a pod that these plugins rejected may be helped by [`ClusterEvent::PodAdded`]. A pod that nobody
    /// rejected waits for nodes, not for pods.
    pub fn waits_for_pods(&self, rejected_by: &BTreeSet<&'static str>) -> bool {
        self.cluster_filters.iter().any(|p| rejected_by.contains(p.name()) && p.waits_for_pods())
    }
}
