//! TaintToleration: a node's NoSchedule and NoExecute taints keep away pods that do not tolerate them; its
//! PreferNoSchedule taints make it less good.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, Rejection, Score, normalise_by_max};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::Taint;
use client::tolerates;

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::Node { node, change } => change.taints && untolerated(pod, node).is_none(),
            _ => false,
        }
    }
}

impl Filter for TaintToleration {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        match untolerated(pod, node) {
            None => Ok(()),
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
                Err(Rejection::unresolvable(self.name(), reason))
            }
        }
    }
}

impl Score for TaintToleration {
    /// How many preferences against the pod the node has.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let against = node
            .taints()
            .iter()
            .filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerations().iter().any(|o| tolerates(o, t)))
            .count();
        i64::try_from(against).unwrap_or(i64::MAX)
    }

    fn normalise(&self, scores: &mut [i64]) {
        normalise_by_max(scores, true);
    }
}

/// The first taint that keeps the pod away.
pub(super) fn untolerated<'n>(pod: &PodInfo, node: &'n NodeInfo) -> Option<&'n Taint> {
    node.taints()
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .find(|t| !pod.tolerations().iter().any(|o| tolerates(o, t)))
}
