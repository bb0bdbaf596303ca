//! The scheduler's picture of nodes and bound pods, ahead of the API server by the pods it has just assumed.
//!
//! Invariant: every pod counts on exactly one node. An assumed pod becomes a known one when the watch shows it
//! bound, leaves when it is forgotten (binding failed), and expires when its binding was never seen.
//!
//! ```text
//!   (none) ──assume──► assumed ──add (seen bound)──► known ──remove──► (none)
//!                        │  └──binding_finished──► assumed until deadline ──expire──► (none)
//!                        └──forget──► (none)
//! ```
use crate::Moment;
use crate::node_info::{NodeChange, NodeInfo};
use crate::pod_info::PodInfo;
use client::k8s_openapi::api::core::v1::Node;
use client::selector::Labels;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How long after a successful binding the watch may take to show it. A watch on a dead connection is noticed
/// after 305 s and renewed within another 30 s; the API server answered "bound", so room is given away only
/// well after that.
const CONFIRMATION: Duration = Duration::from_secs(600);

/// The labels of namespaces, by name.
pub type NamespaceLabels = BTreeMap<String, Labels>;

/// The nodes as a decision sees them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// RuntimeClass to handler.
    runtime_handlers: BTreeMap<String, String>,
    namespaces: NamespaceLabels,
}

impl Snapshot {
    /// The nodes, in an order that only the history of nodes decides.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|i| &self.nodes[*i])
    }

    /// The handler a RuntimeClass names.
    pub fn runtime_handler(&self, class: &str) -> Option<&str> {
        self.runtime_handlers.get(class).map(String::as_str)
    }

    pub fn namespaces(&self) -> &NamespaceLabels {
        &self.namespaces
    }

    fn node_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.by_name.get(name).map(|i| &mut self.nodes[*i])
    }

    fn insert(&mut self, node: NodeInfo) {
        self.by_name.insert(node.name.clone(), self.nodes.len());
        self.nodes.push(node);
    }

    fn remove(&mut self, name: &str) -> Option<NodeInfo> {
        let index = self.by_name.remove(name)?;
        let node = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.by_name.insert(moved.name.clone(), index);
        }
        Some(node)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The watch showed it.
    Known,
    /// Its binding runs.
    Assumed,
    /// Its binding succeeded; until when the watch must show it.
    Bound(Moment),
}

#[derive(Clone, Debug)]
struct CachedPod {
    pod: Arc<PodInfo>,
    node: String,
    standing: Standing,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    pods: HashMap<String, CachedPod>,
    /// Pods on nodes that are not known (yet), by node: pods may be seen before their node is.
    nodeless: HashMap<String, BTreeSet<String>>,
    /// When which pod expires.
    deadlines: BTreeSet<(Moment, String)>,
}

impl Cache {
    /// What a decision sees.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A node was added or changed; what about it.
    pub fn set_node(&mut self, node: Arc<Node>) -> NodeChange {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(held) = self.snapshot.node_mut(&name) {
            return held.update(node);
        }
        let mut info = NodeInfo::new(node);
        for uid in self.nodeless.remove(&name).unwrap_or_default() {
            if let Some(held) = self.pods.get(&uid) {
                info.add_pod(held.pod.clone());
            }
        }
        self.snapshot.insert(info);
        NodeChange::ALL
    }

    /// A node is gone. Its pods stay in the cache until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(node) = self.snapshot.remove(name) else { return };
        let uids: BTreeSet<String> = node.pods().map(|p| p.uid.clone()).collect();
        if !uids.is_empty() {
            self.nodeless.insert(name.to_owned(), uids);
        }
    }

    /// A RuntimeClass names a handler, or is gone.
    pub fn set_runtime_class(&mut self, name: &str, handler: Option<&str>) {
        match handler {
            Some(handler) => self.snapshot.runtime_handlers.insert(name.to_owned(), handler.to_owned()),
            None => self.snapshot.runtime_handlers.remove(name),
        };
    }

    /// A namespace has these labels, or is gone; true if that is news.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let namespaces = &mut self.snapshot.namespaces;
        match labels {
            Some(labels) if namespaces.get(name) == Some(&labels) => false,
            Some(labels) => {
                namespaces.insert(name.to_owned(), labels);
                true
            }
            None => namespaces.remove(name).is_some(),
        }
    }

    /// The names of the RuntimeClasses there are.
    pub fn runtime_classes(&self) -> Vec<String> {
        self.snapshot.runtime_handlers.keys().cloned().collect()
    }

    /// The pod will be bound to the node: from now on it counts there.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, Standing::Assumed);
    }

    /// The binding of an assumed pod succeeded.
    pub fn binding_finished(&mut self, uid: &str, now: Moment) {
        if let Some(held) = self.pods.get_mut(uid)
            && held.standing == Standing::Assumed
        {
            held.standing = Standing::Bound(now + CONFIRMATION);
            self.deadlines.insert((now + CONFIRMATION, uid.to_owned()));
        }
    }

    /// The binding of an assumed pod failed; true if it counted until now. A pod the watch has shown bound
    /// stays.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.is_assumed(uid) && self.take(uid).is_some()
    }

    /// The watch shows the pod bound to the node. The API server is right, whatever was assumed.
    pub fn add(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, Standing::Known);
    }

    /// The pod ended or is gone.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.take(uid)
    }

    /// Drops pods whose binding was not seen in time, and returns them.
    pub fn expire(&mut self, now: Moment) -> Vec<Arc<PodInfo>> {
        let mut late = Vec::new();
        while let Some((deadline, uid)) =
            self.deadlines.first().filter(|(deadline, _)| *deadline <= now).cloned()
        {
            self.deadlines.remove(&(deadline, uid.clone()));
            late.extend(self.take(&uid));
        }
        late
    }

    /// When [`Cache::expire`] next has something to do.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A pod that counts on a node.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|held| &held.pod)
    }

    /// Whether the pod counts on a node without the watch having shown it.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|held| held.standing != Standing::Known)
    }

    /// Whether the pod counts on a node.
    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// The uids of all pods, sorted.
    pub fn uids(&self) -> Vec<String> {
        let mut uids: Vec<String> = self.pods.keys().cloned().collect();
        uids.sort_unstable();
        uids
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str, standing: Standing) {
        self.take(&pod.uid);
        match self.snapshot.node_mut(node) {
            Some(info) => info.add_pod(pod.clone()),
            None => {
                self.nodeless.entry(node.to_owned()).or_default().insert(pod.uid.clone());
            }
        }
        self.pods.insert(pod.uid.clone(), CachedPod { pod, node: node.to_owned(), standing });
    }

    fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let held = self.pods.remove(uid)?;
        if let Standing::Bound(deadline) = held.standing {
            self.deadlines.remove(&(deadline, uid.to_owned()));
        }
        if let Some(info) = self.snapshot.node_mut(&held.node) {
            info.remove_pod(uid);
        } else if let Some(uids) = self.nodeless.get_mut(&held.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.nodeless.remove(&held.node);
            }
        }
        Some(held.pod)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
