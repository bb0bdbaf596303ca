//! RuntimeSupport: a pod with a RuntimeClass runs only where the runtime has that class' handler. Upstream
//! leaves this to RuntimeClass.scheduling and to the kubelet's refusal; here nodes with and without Linux
//! containers live side by side, and nodes publish what they have in `status.runtimeHandlers`.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use std::collections::BTreeSet;

pub struct RuntimeSupport;

fn class(pod: &PodInfo) -> Option<&str> {
    pod.spec().runtime_class_name.as_deref().filter(|c| !c.is_empty())
}

impl Plugin for RuntimeSupport {
    fn name(&self) -> &'static str {
        "RuntimeSupport"
    }
    fn may_help(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::Node { change, .. } => change.runtime_handlers,
            ClusterEvent::RuntimeClass => true,
            ClusterEvent::PodAdded { .. }
            | ClusterEvent::PodRemoved { .. }
            | ClusterEvent::NodeRemoved
            | ClusterEvent::Namespace => false,
        }
    }
}

impl PreFilter for RuntimeSupport {
    fn pre_filter(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<Option<BTreeSet<String>>, Rejection> {
        match class(pod) {
            Some(class) if snapshot.runtime_handler(class).is_none() => Err(Rejection::unresolvable(
                self.name(),
                format!("runtimeclass.node.k8s.io {class:?} not found"),
            )),
            _ => Ok(None),
        }
    }
}

impl Filter for RuntimeSupport {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<(), Rejection> {
        let Some(handler) = class(pod).and_then(|c| snapshot.runtime_handler(c)) else { return Ok(()) };
        if node.has_runtime_handler(handler) {
            return Ok(());
        }
        Err(Rejection::unresolvable(
            self.name(),
            format!("node(s) didn't support runtime handler {handler:?}"),
        ))
    }
}
