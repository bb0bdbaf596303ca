//! NodeResourcesFit: a node has enough left of everything the pod requests; of those, the emptiest is best
//! (LeastAllocated).
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Rejection, Score};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::borrow::Cow;

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            // Every pod that leaves a node leaves room there, be it one of the node's places for pods.
            ClusterEvent::PodRemoved { .. } => true,
            ClusterEvent::Node { node, change } => change.allocatable && lacking(pod, node).is_empty(),
            ClusterEvent::PodAdded { .. }
            | ClusterEvent::NodeRemoved
            | ClusterEvent::RuntimeClass
            | ClusterEvent::Namespace => false,
        }
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let lacking = lacking(pod, node);
        if lacking.is_empty() {
            return Ok(());
        }
        // What even an empty node does not have, removing pods does not give.
        let resolvable = lacking.iter().all(|l| l.wanted <= l.whole);
        let reasons = lacking.into_iter().map(|l| l.reason).collect();
        Err(Rejection { plugin: self.name(), reasons, resolvable })
    }
}

struct Lacking {
    reason: Cow<'static, str>,
    wanted: i64,
    whole: i64,
}

/// What the node has too little of for the pod.
fn lacking(pod: &PodInfo, node: &NodeInfo) -> Vec<Lacking> {
    let mut found = Vec::new();
    if node.pod_count() + 1 > node.allowed_pods {
        // More places come free with pods; a node that allows none at all is beyond help.
        let whole = i64::try_from(node.allowed_pods).unwrap_or(i64::MAX);
        found.push(Lacking { reason: "Too many pods".into(), wanted: 1, whole });
    }
    let (want, all, used) = (&pod.requests, &node.allocatable, &node.requested);
    let named = [
        ("Insufficient cpu", want.milli_cpu, all.milli_cpu, used.milli_cpu),
        ("Insufficient memory", want.memory, all.memory, used.memory),
        (
            "Insufficient ephemeral-storage",
            want.ephemeral_storage,
            all.ephemeral_storage,
            used.ephemeral_storage,
        ),
    ];
    for (reason, wanted, whole, used) in named {
        if wanted > 0 && wanted > whole.saturating_sub(used) {
            found.push(Lacking { reason: reason.into(), wanted, whole });
        }
    }
    for (name, wanted) in &want.scalar {
        let whole = all.scalar.get(name).copied().unwrap_or(0);
        let used = used.scalar.get(name).copied().unwrap_or(0);
        if *wanted > 0 && *wanted > whole.saturating_sub(used) {
            found.push(Lacking { reason: format!("Insufficient {name}").into(), wanted: *wanted, whole });
        }
    }
    found
}

impl Score for NodeResourcesFit {
    /// The share of cpu and memory that stays free, in hundredths.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let free = |used: i64, whole: i64| {
            if whole <= 0 || used > whole {
                return 0;
            }
            // i128: bytes of memory times a hundred.
            let share = i128::from(whole - used) * i128::from(MAX_SCORE) / i128::from(whole);
            i64::try_from(share).unwrap_or(0)
        };
        let cpu =
            free(node.scored.milli_cpu.saturating_add(pod.scored.milli_cpu), node.allocatable.milli_cpu);
        let memory = free(node.scored.memory.saturating_add(pod.scored.memory), node.allocatable.memory);
        (cpu + memory) / 2
    }
}
