//! Preemption: says when removing pods of lower priority could not help. Removing them is not done yet, so
//! when it could help this says nothing rather than something untrue.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, FitError, Plugin, PostFilter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::collections::BTreeMap;

pub struct Preemption;

impl Plugin for Preemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }
    fn may_help(&self, _: &PodInfo, _: &ClusterEvent<'_>) -> bool {
        false
    }
}

impl PostFilter for Preemption {
    fn post_filter(
        &self,
        pod: &PodInfo,
        snapshot: &Snapshot,
        rejections: &[(&NodeInfo, Rejection)],
    ) -> Option<String> {
        if pod.spec().preemption_policy.as_deref() == Some("Never") {
            return Some("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let all_nodes = snapshot.nodes().len();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut looked_at = 0;
        for (node, rejection) in rejections {
            looked_at += 1;
            let reason = if !rejection.resolvable {
                "Preemption is not helpful for scheduling"
            } else if node.pods().any(|p| p.priority < pod.priority) {
                return None;
            } else {
                "No preemption victims found for incoming pod"
            };
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
        // Nodes that were not looked at because the pod names others.
        if all_nodes > looked_at {
            *reasons.entry("Preemption is not helpful for scheduling".to_owned()).or_default() +=
                all_nodes - looked_at;
        }
        Some(format!("preemption: {}", FitError { all_nodes, reasons, ..FitError::default() }))
    }
}
