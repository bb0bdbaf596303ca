//! NodeName: a pod that names its node runs there only. (Such pods skip the scheduler; this guards the rest.)
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, node_of};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        matches!(event, ClusterEvent::Node { node, .. } if node_of(&pod.pod) == Some(node.name.as_str()))
    }
}

impl Filter for NodeName {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        match node_of(&pod.pod) {
            Some(name) if name != node.name => {
                Err(Rejection::unresolvable(self.name(), "node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }
}
