//! ImportSupport: a pod whose components import an interface runs only where it is offered. The pod says what its
//! components import in an annotation, nodes publish what they offer in another. A pod that says nothing passes: its
//! node reads the imports from the image's configuration, and refuses it before it pulls the rest.
use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use machinery::interface::{IMPORTS_ANNOTATION, list, missing};

pub struct ImportSupport;

fn imports(pod: &PodInfo) -> Option<&str> {
    pod.annotation(IMPORTS_ANNOTATION)
}

impl Plugin for ImportSupport {
    fn name(&self) -> &'static str {
        "ImportSupport"
    }
    fn may_help(&self, _: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::Node { change, .. } => change.offers,
            ClusterEvent::RuntimeClass
            | ClusterEvent::PodAdded { .. }
            | ClusterEvent::PodRemoved { .. }
            | ClusterEvent::NodeRemoved
            | ClusterEvent::Namespace => false,
        }
    }
}

impl Filter for ImportSupport {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let Some(imports) = imports(pod) else { return Ok(()) };
        let offers: Vec<&str> = list(node.offers()).collect();
        match missing(list(imports), &offers) {
            None => Ok(()),
            Some(import) => {
                Err(Rejection::unresolvable(self.name(), format!("node(s) didn't offer the import {import}")))
            }
        }
    }
}
