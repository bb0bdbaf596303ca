//! A node as the scheduler looks at it: the object and the sums over its pods.
use crate::pod_info::{HostPort, PodInfo};
use crate::resources::Resources;
use client::k8s_openapi::api::core::v1::{Node, Taint};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node, its pods and what they take together. Assumed pods are among them.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub name: String,
    pub allocatable: Resources,
    /// How many pods the node holds at most.
    pub allowed_pods: usize,
    pub requested: Resources,
    /// For scores.
    pub scored: Resources,
    pods: HashMap<String, Arc<PodInfo>>,
    /// Those of them that have terms about other pods.
    with_affinity: HashMap<String, Arc<PodInfo>>,
    /// Those of them that keep other pods away.
    with_anti_affinity: HashMap<String, Arc<PodInfo>>,
    /// Ports taken, with the number of pods that took them: two may, when one was bound by somebody else.
    ports: BTreeMap<HostPort, usize>,
}

/// What differs between two states of a node, as far as scheduling goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    pub allocatable: bool,
    pub labels: bool,
    pub taints: bool,
    pub unschedulable: bool,
    pub runtime_handlers: bool,
    /// The interfaces it offers to WebAssembly components.
    pub offers: bool,
}

impl NodeChange {
    /// Every aspect: the node is new.
    pub const ALL: Self = Self {
        allocatable: true,
        labels: true,
        taints: true,
        unschedulable: true,
        runtime_handlers: true,
        offers: true,
    };

    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let (allocatable, allowed_pods) = allocatable(&node);
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            node,
            allocatable,
            allowed_pods,
            requested: Resources::default(),
            scored: Resources::default(),
            pods: HashMap::new(),
            with_affinity: HashMap::new(),
            with_anti_affinity: HashMap::new(),
            ports: BTreeMap::new(),
        }
    }

    /// Takes a new state of the node and says what changed.
    pub fn update(&mut self, node: Arc<Node>) -> NodeChange {
        let (old_spec, new_spec) = (self.node.spec.as_ref(), node.spec.as_ref());
        let (allocatable, allowed_pods) = allocatable(&node);
        let change = NodeChange {
            allocatable: allocatable != self.allocatable || allowed_pods != self.allowed_pods,
            labels: node.metadata.labels != self.node.metadata.labels,
            taints: new_spec.and_then(|s| s.taints.as_ref()) != old_spec.and_then(|s| s.taints.as_ref()),
            unschedulable: is_unschedulable(&node) != is_unschedulable(&self.node),
            runtime_handlers: node.status.as_ref().and_then(|s| s.runtime_handlers.as_ref())
                != self.node.status.as_ref().and_then(|s| s.runtime_handlers.as_ref()),
            offers: offers(&node) != self.offers(),
        };
        self.node = node;
        self.allocatable = allocatable;
        self.allowed_pods = allowed_pods;
        change
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        // Adding a pod again replaces it.
        self.remove_pod(&pod.uid);
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        for port in &pod.ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
        if !pod.affinity.is_empty() {
            self.with_affinity.insert(pod.uid.clone(), pod.clone());
        }
        if !pod.affinity.required_anti.is_empty() {
            self.with_anti_affinity.insert(pod.uid.clone(), pod.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.with_affinity.remove(uid);
        self.with_anti_affinity.remove(uid);
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        for port in &pod.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
        Some(pod)
    }

    /// The pods, in no order: a decision must not depend on it.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.pods.values()
    }

    /// The pods that have terms about other pods, in no order.
    pub fn pods_with_affinity(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.with_affinity.values()
    }

    /// The pods that keep other pods away, in no order.
    pub fn pods_with_anti_affinity(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.with_anti_affinity.values()
    }

    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    pub fn ports(&self) -> impl Iterator<Item = &HostPort> {
        self.ports.keys()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        is_unschedulable(&self.node)
    }

    /// The interfaces it offers to components, separated by commas.
    pub fn offers(&self) -> &str {
        offers(&self.node)
    }

    /// Whether the node's runtime has the handler.
    pub fn has_runtime_handler(&self, handler: &str) -> bool {
        let handlers =
            self.node.status.as_ref().and_then(|s| s.runtime_handlers.as_deref()).unwrap_or_default();
        handlers.iter().any(|h| h.name.as_deref().unwrap_or_default() == handler)
    }
}

fn offers(node: &Node) -> &str {
    let annotations = node.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(machinery::interface::OFFERS_ANNOTATION)).map_or("", String::as_str)
}

fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

fn allocatable(node: &Node) -> (Resources, usize) {
    let quantities = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let pods = quantities
        .and_then(|q| q.get("pods"))
        .and_then(|q| machinery::quantity::Quantity::parse(&q.0).ok())
        .map_or(0, |q| usize::try_from(q.value()).unwrap_or(0));
    (Resources::of(quantities), pods)
}
