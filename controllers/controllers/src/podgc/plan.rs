//! Which pods nobody will ever finish or miss. Pure.
use crate::pod;
use client::ObjectKey;
use client::k8s_openapi::api::core::v1::Pod;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A node must be missing for so long before its pods go: an informer of pods may be ahead of one of nodes, and
/// a node may be deleted and registered again.
pub(crate) const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

/// What the planner sees.
pub(crate) struct World<'a> {
    pub(crate) pods: &'a [&'a Pod],
    pub(crate) nodes: &'a BTreeSet<String>,
    /// Nodes that pods name and that are missing, and since when.
    pub(crate) missing: &'a BTreeMap<String, Timestamp>,
    /// `--terminated-pod-gc-threshold`; 0 keeps all.
    pub(crate) threshold: usize,
    pub(crate) now: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) delete: Vec<(ObjectKey, Why)>,
    /// Missing nodes, as they are to be remembered.
    pub(crate) missing: BTreeMap<String, Timestamp>,
    pub(crate) look_again: Option<Duration>,
}

/// Why a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its node is gone; to be asked at the server once more.
    Orphaned { node: String },
    /// It was deleted before it got a node: no kubelet will finish that.
    NeverScheduled,
    /// Too many pods have ended; it is among the oldest.
    OverThreshold,
}

/// Decides about all pods.
pub(crate) fn plan_pod_gc(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut ended: Vec<&Pod> = Vec::new();
    for p in world.pods {
        let key = ObjectKey::of(*p);
        match pod::node(p) {
            Some(node) if !world.nodes.contains(node) => {
                let since = world.missing.get(node).copied().unwrap_or(world.now);
                plan.missing.insert(node.to_owned(), since);
                match pod::left(since, QUARANTINE, world.now) {
                    Some(wait) => {
                        plan.look_again = Some(plan.look_again.map_or(wait, |w: Duration| w.min(wait)));
                    }
                    None => plan.delete.push((key, Why::Orphaned { node: node.to_owned() })),
                }
            }
            None if pod::is_terminating(p) => plan.delete.push((key, Why::NeverScheduled)),
            _ if pod::is_terminal(p) && !pod::is_terminating(p) => ended.push(p),
            _ => {}
        }
    }
    if world.threshold > 0 && ended.len() > world.threshold {
        let age = |p: &&Pod| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), ObjectKey::of(*p));
        ended.sort_by_key(age);
        let excess = ended.len() - world.threshold;
        plan.delete.extend(ended.iter().take(excess).map(|p| (ObjectKey::of(*p), Why::OverThreshold)));
    }
    plan
}
