//! NodePorts: two pods cannot take one port of one node.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::PodRemoved { pod: gone } => {
                gone.ports.iter().any(|taken| pod.ports.iter().any(|wanted| wanted.conflicts_with(taken)))
            }
            ClusterEvent::Node { node, .. } => fits(pod, node),
            ClusterEvent::PodAdded { .. }
            | ClusterEvent::NodeRemoved
            | ClusterEvent::RuntimeClass
            | ClusterEvent::Namespace => false,
        }
    }
}

impl Filter for NodePorts {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        if fits(pod, node) {
            return Ok(());
        }
        Err(Rejection::resolvable(self.name(), "node(s) didn't have free ports for the requested pod ports"))
    }
}

fn fits(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.ports.iter().all(|wanted| !node.ports().any(|taken| taken.conflicts_with(wanted)))
}
