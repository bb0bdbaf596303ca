//! NodeUnschedulable: a cordoned node takes no new pods, except those that tolerate the taint it stands for.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::Taint;
use client::tolerates;
use std::sync::LazyLock;

pub struct NodeUnschedulable;

static CORDON: LazyLock<Taint> = LazyLock::new(|| Taint {
    key: "node.kubernetes.io/unschedulable".into(),
    effect: "NoSchedule".into(),
    ..Taint::default()
});

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::Node { node, change } => {
                (change.unschedulable || change.taints) && accepts(pod, node)
            }
            _ => false,
        }
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        if accepts(pod, node) {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) were unschedulable"))
    }
}

fn accepts(pod: &PodInfo, node: &NodeInfo) -> bool {
    !node.is_unschedulable() || pod.tolerations().iter().any(|t| tolerates(t, &CORDON))
}
