//! Everything policies speak of, kept so that a change costs what it touches.
//!
//! Each selector of each policy remembers which pods it takes. A pod whose labels and addresses are what they were (the
//! usual status update) costs one comparison. A pod that did change is matched once against each selector: on a node
//! with 100 policies of two selectors each that is 200 matches of a few labels, some tens of microseconds. Only then,
//! and only for pods a touched policy is for, are rules made anew: as much work as the policies have members.
use crate::policy::{Peer, PodSelection, Policy, Ports, Rule};
use crate::{Allow, Direction, Peers, PortRange, Protocol, Rules};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use machinery::selector::LabelSelector;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Namespace and name.
type Key = (String, String);

/// What policies need to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    namespace: String,
    name: String,
    labels: Value,
    /// Empty for a pod that has none yet, has none of its own, or has ended.
    addresses: Vec<IpAddr>,
    named_ports: Vec<(String, Protocol, u16)>,
    host_network: bool,
}

impl PodFacts {
    pub fn of(pod: &core::Pod) -> Self {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
        let ended = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
        let addresses = status.filter(|_| !host_network && !ended).map(|status| {
            let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            let mut all: Vec<IpAddr> =
                all.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
            all.sort_unstable();
            all.dedup();
            all
        });
        let containers = spec.map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let ports = containers.into_iter().flatten().flat_map(|container| container.ports.iter().flatten());
        let named = |port: &core::ContainerPort| {
            let number = u16::try_from(port.container_port).ok()?;
            Some((port.name.clone()?, Protocol::parse(port.protocol.as_deref())?, number))
        };
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: json!(pod.metadata.labels.clone().unwrap_or_default()),
            addresses: addresses.unwrap_or_default(),
            named_ports: ports.filter_map(named).collect(),
            host_network,
        }
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn numbers<'a>(&'a self, protocol: Protocol, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.named_ports.iter().filter(move |own| own.0 == name && own.1 == protocol).map(|own| own.2)
    }
}

/// A selection of pods, and which it takes now.
struct Members {
    of: PodSelection,
    pods: BTreeSet<Key>,
}

/// A rule as it is kept: blocks as they are, selections with their members.
struct Kept {
    rule: Rule,
    /// One for each peer that selects pods, in their order.
    members: Vec<Members>,
}

struct KeptPolicy {
    policy: Policy,
    ingress: Vec<Kept>,
    egress: Vec<Kept>,
    subjects: BTreeSet<Arc<str>>,
}

struct Subject {
    facts: PodFacts,
    policies: BTreeSet<Key>,
}

/// Policies, pods and namespaces, and the pods whose rules somebody wants (the subjects: those of one node).
#[derive(Default)]
pub struct Index {
    policies: BTreeMap<Key, KeptPolicy>,
    pods: BTreeMap<Key, PodFacts>,
    /// Their labels.
    namespaces: BTreeMap<String, Value>,
    subjects: BTreeMap<Arc<str>, Subject>,
    dirty: BTreeSet<Arc<str>>,
}

fn in_namespaces(of: &PodSelection, own: &str, namespace: &str, labels: Option<&Value>) -> bool {
    match &of.namespaces {
        None => own == namespace,
        Some(selector) if selector.is_everything() => true,
        // Of a namespace not heard of yet nothing is known; that a label is absent is not known either.
        Some(selector) => labels.is_some_and(|labels| selector.matches(labels)),
    }
}

impl Kept {
    fn new(rule: &Rule, egress: bool) -> Self {
        let mut members: Vec<Members> = rule
            .peers
            .iter()
            .flatten()
            .filter_map(|peer| match peer {
                Peer::Pods(of) => Some(Members { of: of.clone(), pods: BTreeSet::new() }),
                Peer::Block(_) => None,
            })
            .collect();
        let named = rule.ports.iter().flatten().any(|ports| matches!(ports, Ports::Named(..)));
        if rule.peers.is_none() && named && egress {
            // A port named for everyone: only pods have names for their ports, so it is all pods.
            let everything = LabelSelector::default;
            let of = PodSelection { namespaces: Some(everything()), pods: everything() };
            members.push(Members { of, pods: BTreeSet::new() });
        }
        Self { rule: rule.clone(), members }
    }
}

impl KeptPolicy {
    fn members_mut(&mut self) -> impl Iterator<Item = &mut Members> {
        self.ingress.iter_mut().chain(&mut self.egress).flat_map(|kept| &mut kept.members)
    }

    /// Takes a pod as it is now; says whether that changes what the policy allows.
    fn place(&mut self, pod: &PodFacts, labels: Option<&Value>, changed: bool) -> bool {
        let (own, key) = (self.policy.namespace.clone(), pod.key());
        let mut touched = false;
        for members in self.members_mut() {
            let is = !pod.host_network
                && in_namespaces(&members.of, &own, &pod.namespace, labels)
                && members.of.pods.matches(&pod.labels);
            let was = if is { !members.pods.insert(key.clone()) } else { members.pods.remove(&key) };
            touched |= is != was || (is && changed);
        }
        touched
    }

    fn is_for(&self, pod: &PodFacts) -> bool {
        !pod.host_network
            && self.policy.namespace == pod.namespace
            && self.policy.subjects.matches(&pod.labels)
    }
}

impl Index {
    /// A policy was made or changed.
    pub fn apply_policy(&mut self, policy: &NetworkPolicy) {
        let meta = &policy.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        self.remove_policy(&key.0, &key.1);
        let policy = Policy::read(policy);
        let keep = |rules: &Option<Vec<Rule>>, egress| {
            rules.iter().flatten().map(|rule| Kept::new(rule, egress)).collect::<Vec<_>>()
        };
        let mut kept = KeptPolicy {
            ingress: keep(&policy.ingress, false),
            egress: keep(&policy.egress, true),
            policy,
            subjects: BTreeSet::new(),
        };
        for pod in self.pods.values() {
            kept.place(pod, self.namespaces.get(&pod.namespace), false);
        }
        for (id, subject) in &mut self.subjects {
            if kept.is_for(&subject.facts) {
                subject.policies.insert(key.clone());
                kept.subjects.insert(id.clone());
                self.dirty.insert(id.clone());
            }
        }
        self.policies.insert(key, kept);
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(old) = self.policies.remove(&key) else { return };
        for id in old.subjects {
            if let Some(subject) = self.subjects.get_mut(&id) {
                subject.policies.remove(&key);
            }
            self.dirty.insert(id);
        }
    }

    /// Namespaces and names of all policies.
    pub fn policies(&self) -> impl Iterator<Item = &(String, String)> {
        self.policies.keys()
    }

    /// Namespaces and names of all pods.
    pub fn pods(&self) -> impl Iterator<Item = &(String, String)> {
        self.pods.keys()
    }

    /// Names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    /// A namespace was made or changed.
    pub fn apply_namespace(&mut self, namespace: &core::Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = json!(namespace.metadata.labels.clone().unwrap_or_default());
        if self.namespaces.insert(name.clone(), labels.clone()).as_ref() != Some(&labels) {
            self.replace(&name);
        }
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some() {
            self.replace(name);
        }
    }

    /// Matches the pods of a namespace anew.
    fn replace(&mut self, namespace: &str) {
        let labels = self.namespaces.get(namespace);
        let of_it = || self.pods.range((namespace.to_owned(), String::new())..).map(|(_, pod)| pod);
        for kept in self.policies.values_mut() {
            let mut touched = false;
            for pod in of_it().take_while(|pod| pod.namespace == namespace) {
                touched |= kept.place(pod, labels, false);
            }
            if touched {
                self.dirty.extend(kept.subjects.iter().cloned());
            }
        }
    }

    /// A pod was made or changed.
    pub fn apply_pod(&mut self, pod: &core::Pod) {
        let facts = PodFacts::of(pod);
        let key = facts.key();
        let old = self.pods.get(&key);
        if old == Some(&facts) {
            return;
        }
        let changed =
            old.is_none_or(|old| old.addresses != facts.addresses || old.named_ports != facts.named_ports);
        let labels = self.namespaces.get(&facts.namespace);
        for kept in self.policies.values_mut() {
            if kept.place(&facts, labels, changed) {
                self.dirty.extend(kept.subjects.iter().cloned());
            }
        }
        self.pods.insert(key, facts);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if self.pods.remove(&key).is_none() {
            return;
        }
        for kept in self.policies.values_mut() {
            let mut touched = false;
            for members in kept.members_mut() {
                touched |= members.pods.remove(&key);
            }
            if touched {
                self.dirty.extend(kept.subjects.iter().cloned());
            }
        }
    }

    /// Somebody wants the rules of this pod, by an id of theirs; or it changed.
    pub fn apply_subject(&mut self, id: &str, facts: PodFacts) {
        if self.subjects.get(id).is_some_and(|subject| subject.facts == facts) {
            return;
        }
        self.remove_subject(id);
        let id: Arc<str> = id.into();
        let mut policies = BTreeSet::new();
        for (key, kept) in &mut self.policies {
            if kept.is_for(&facts) {
                policies.insert(key.clone());
                kept.subjects.insert(id.clone());
            }
        }
        self.subjects.insert(id.clone(), Subject { facts, policies });
        self.dirty.insert(id);
    }

    /// Nobody wants them any more.
    pub fn remove_subject(&mut self, id: &str) {
        let Some(old) = self.subjects.remove(id) else { return };
        for key in old.policies {
            if let Some(kept) = self.policies.get_mut(&key) {
                kept.subjects.remove(id);
            }
        }
        self.dirty.remove(id);
    }

    /// Whether there are such subjects as [`Self::take_dirty`] gives.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Puts a subject back that was taken and could not be told.
    pub fn mark_dirty(&mut self, id: &str) {
        if let Some((id, _)) = self.subjects.get_key_value(id) {
            self.dirty.insert(id.clone());
        }
    }

    /// The subjects whose rules may have changed since this was last asked.
    pub fn take_dirty(&mut self) -> BTreeSet<Arc<str>> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|id| self.subjects.contains_key(id));
        dirty
    }

    /// The rules of a subject; all open for one that is not known.
    pub fn rules(&self, id: &str) -> Rules {
        let Some(subject) = self.subjects.get(id) else { return Rules::default() };
        let (mut ingress, mut egress): (Option<Vec<Allow>>, Option<Vec<Allow>>) = (None, None);
        for kept in subject.policies.iter().filter_map(|key| self.policies.get(key)) {
            if kept.policy.ingress.is_some() {
                let allowed = ingress.get_or_insert_default();
                allowed.extend(kept.ingress.iter().filter_map(|kept| self.ingress(kept, &subject.facts)));
            }
            if kept.policy.egress.is_some() {
                let allowed = egress.get_or_insert_default();
                allowed.extend(kept.egress.iter().flat_map(|kept| self.egress(kept)));
            }
        }
        let direction = |allowed: Option<Vec<Allow>>| match allowed {
            Some(allowed) => Direction::Isolated(allowed),
            None => Direction::Open,
        };
        Rules { ingress: direction(ingress), egress: direction(egress) }
    }

    fn selected<'a>(&'a self, kept: &'a Kept) -> impl Iterator<Item = &'a PodFacts> {
        kept.members.iter().flat_map(|members| &members.pods).filter_map(|key| self.pods.get(key))
    }

    /// The peers of a rule: its blocks, and the addresses of the pods it selects.
    fn peers(&self, kept: &Kept) -> Peers {
        let Some(peers) = &kept.rule.peers else { return Peers::Anyone };
        let blocks = peers.iter().filter_map(|peer| match peer {
            Peer::Block(block) => Some(block.clone()),
            Peer::Pods(_) => None,
        });
        let addresses = self.selected(kept).flat_map(|pod| pod.addresses.iter().copied());
        Peers::These { addresses: addresses.collect(), blocks: blocks.collect() }
    }

    /// Names mean the ports of the pod that is connected to: here the subject's.
    fn ingress(&self, kept: &Kept, subject: &PodFacts) -> Option<Allow> {
        let ports = kept.rule.ports.as_ref().map(|ports| {
            let mut numbers = Vec::new();
            for port in ports {
                match port {
                    Ports::Numbers(range) => numbers.push(*range),
                    Ports::Named(protocol, name) => {
                        let found = subject.numbers(*protocol, name);
                        numbers.extend(found.map(|n| PortRange { protocol: *protocol, first: n, last: n }));
                    }
                }
            }
            numbers
        });
        // Of names nothing may be left, which allows nothing.
        if ports.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Allow { peers: self.peers(kept), ports })
    }

    /// Names mean something else for each pod that is connected to, and nothing for a block of addresses.
    fn egress(&self, kept: &Kept) -> Vec<Allow> {
        let mut allowed = Vec::new();
        let Some(ports) = &kept.rule.ports else {
            return vec![Allow { peers: self.peers(kept), ports: None }];
        };
        let numbers: Vec<PortRange> = ports
            .iter()
            .filter_map(|port| match port {
                Ports::Numbers(range) => Some(*range),
                Ports::Named(..) => None,
            })
            .collect();
        if !numbers.is_empty() {
            allowed.push(Allow { peers: self.peers(kept), ports: Some(numbers) });
        }
        let mut by_port: BTreeMap<PortRange, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in ports {
            let Ports::Named(protocol, name) = port else { continue };
            for pod in self.selected(kept) {
                for n in pod.numbers(*protocol, name) {
                    let range = PortRange { protocol: *protocol, first: n, last: n };
                    by_port.entry(range).or_default().extend(&pod.addresses);
                }
            }
        }
        allowed.extend(by_port.into_iter().map(|(range, addresses)| Allow {
            peers: Peers::These { addresses, blocks: Vec::new() },
            ports: Some(vec![range]),
        }));
        allowed
    }
}
