//! Who owns whom, over all kinds. Pure.
//!
//! Invariant: the graph is only a hint about what to look at. Nothing is deleted because of it alone: an owner
//! that is missing here is asked for at the server first.
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeSet, HashMap};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// Group and kind: references name a version, but an object is the same in each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKind {
    pub(crate) group: String,
    pub(crate) kind: String,
}

impl GroupKind {
    pub(crate) fn of(api_version: &str, kind: &str) -> Self {
        Self { group: api_version.split_once('/').map_or("", |(g, _)| g).to_owned(), kind: kind.to_owned() }
    }
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: GroupKind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) deleting: bool,
    /// Holds the finalizer `foregroundDeletion`.
    pub(crate) foreground: bool,
    /// Holds the finalizer `orphan`.
    pub(crate) orphan: bool,
}

impl Node {
    pub(crate) fn new(kind: GroupKind, meta: &ObjectMeta) -> Self {
        let holds = |f: &str| meta.finalizers.iter().flatten().any(|own| own == f);
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: holds(FOREGROUND),
            orphan: holds(ORPHAN),
        }
    }

    /// Waits for its dependents to go first.
    pub(crate) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// All objects, by uid.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Node>,
    /// By the owner's uid, whether that owner is known or not.
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The known objects that name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&String, &Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|u| self.nodes.get(u).map(|n| (u, n)))
    }

    /// Uids of the known objects of a kind.
    pub(crate) fn of_kind(&self, kind: &GroupKind) -> Vec<String> {
        self.nodes.iter().filter(|(_, n)| n.kind == *kind).map(|(u, _)| u.clone()).collect()
    }

    /// An object is there. Returns the uids to look at.
    pub(crate) fn apply(&mut self, uid: &str, node: Node) -> Vec<String> {
        let mut look = Vec::new();
        let old = self.nodes.get(uid);
        let old_owners: Vec<String> =
            old.map(|n| n.owners.iter().map(|r| r.uid.clone()).collect()).unwrap_or_default();
        let began_waiting = node.waits_for_dependents() && !old.is_some_and(Node::waits_for_dependents);
        for gone in old_owners.iter().filter(|o| !node.owners.iter().any(|r| r.uid == **o)) {
            self.unlink(gone, uid);
            look.extend(self.waiting_owner(gone));
        }
        for r in &node.owners {
            self.dependents.entry(r.uid.clone()).or_default().insert(uid.to_owned());
            // One that stopped blocking lets its owner go.
            look.extend(self.waiting_owner(&r.uid));
        }
        let owner_matters =
            |r: &OwnerReference| self.nodes.get(&r.uid).is_none_or(Node::waits_for_dependents);
        if node.owners.iter().any(owner_matters) || (node.deleting && (node.foreground || node.orphan)) {
            look.push(uid.to_owned());
        }
        if began_waiting {
            look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        self.nodes.insert(uid.to_owned(), node);
        look
    }

    /// An object is gone. Returns the uids to look at.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut look: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for r in &node.owners {
            self.unlink(&r.uid, uid);
            look.extend(self.waiting_owner(&r.uid));
        }
        look
    }

    fn waiting_owner(&self, uid: &str) -> Option<String> {
        self.nodes.get(uid).filter(|n| n.waits_for_dependents()).map(|_| uid.to_owned())
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
