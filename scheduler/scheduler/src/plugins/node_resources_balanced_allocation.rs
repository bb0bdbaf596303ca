//! NodeResourcesBalancedAllocation: better a node whose cpu and memory would be used to like shares.
use crate::framework::{ClusterEvent, MAX_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn may_help(&self, _: &PodInfo, _: &ClusterEvent<'_>) -> bool {
        false
    }
}

impl Score for NodeResourcesBalancedAllocation {
    /// 100 less the standard deviation of the shares: for two of them, half their difference.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let share = |used: i64, whole: i64| {
            if whole <= 0 {
                return 0;
            }
            let share = i128::from(used) * 10_000 / i128::from(whole);
            i64::try_from(share).unwrap_or(10_000).min(10_000)
        };
        let cpu =
            share(node.scored.milli_cpu.saturating_add(pod.scored.milli_cpu), node.allocatable.milli_cpu);
        let memory = share(node.scored.memory.saturating_add(pod.scored.memory), node.allocatable.memory);
        MAX_SCORE - (cpu - memory).abs() / 2 / 100
    }
}
