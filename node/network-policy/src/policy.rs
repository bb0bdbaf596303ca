//! A NetworkPolicy, read once.
use crate::{Block, PortRange, Protocol};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use machinery::selector::LabelSelector;
use serde_json::Value;

/// Some ports of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Ports {
    Numbers(PortRange),
    /// By the name a container gave it.
    Named(Protocol, String),
}

/// Pods, by their labels and their namespace's; `None` is the policy's own namespace.
#[derive(Clone, Debug)]
pub(crate) struct PodSelection {
    pub(crate) namespaces: Option<LabelSelector>,
    pub(crate) pods: LabelSelector,
}

#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Block(Block),
    Pods(PodSelection),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `None`: everyone.
    pub(crate) peers: Option<Vec<Peer>>,
    /// `None`: every port. What could not be understood is left out, so an empty list is no port.
    pub(crate) ports: Option<Vec<Ports>>,
}

/// What a policy says; a direction it does not speak of is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) subjects: LabelSelector,
    pub(crate) ingress: Option<Vec<Rule>>,
    pub(crate) egress: Option<Vec<Rule>>,
}

/// A selector that cannot be read selects nothing: a policy then allows less, never more. (Who it is *for* is another
/// matter: see [`Policy::read`].)
fn selector(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    let value = match selector {
        Some(selector) => serde_json::to_value(selector).unwrap_or(Value::Null),
        None => return Some(LabelSelector::default()),
    };
    LabelSelector::from_object(&value).ok()
}

fn nothing() -> LabelSelector {
    LabelSelector { nothing: true, ..LabelSelector::default() }
}

fn read_ports(ports: &[networking::NetworkPolicyPort]) -> Option<Vec<Ports>> {
    if ports.is_empty() {
        return None;
    }
    let read = |port: &networking::NetworkPolicyPort| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let (first, last) = match &port.port {
            None => (1, u16::MAX),
            Some(IntOrString::Int(first)) => {
                (u16::try_from(*first).ok()?, u16::try_from(port.end_port.unwrap_or(*first)).ok()?)
            }
            Some(IntOrString::String(name)) => return Some(Ports::Named(protocol, name.clone())),
        };
        Some(Ports::Numbers(PortRange { protocol, first, last }))
    };
    Some(ports.iter().filter_map(read).collect())
}

fn read_peers(peers: &[networking::NetworkPolicyPeer]) -> Option<Vec<Peer>> {
    if peers.is_empty() {
        return None;
    }
    let read = |peer: &networking::NetworkPolicyPeer| {
        if let Some(block) = &peer.ip_block {
            let except = block.except.iter().flatten().map(|inner| inner.parse().ok());
            // A block whose exceptions cannot be read would allow more than was meant.
            return Some(Peer::Block(Block {
                cidr: block.cidr.parse().ok()?,
                except: except.collect::<Option<_>>()?,
            }));
        }
        Some(Peer::Pods(PodSelection {
            namespaces: match &peer.namespace_selector {
                Some(of) => Some(selector(Some(of))?),
                None => None,
            },
            pods: selector(peer.pod_selector.as_ref())?,
        }))
    };
    Some(peers.iter().filter_map(read).collect())
}

impl Policy {
    /// Reads a policy. One whose own pod selector cannot be read (the API refuses such) is for no pod.
    pub(crate) fn read(policy: &networking::NetworkPolicy) -> Self {
        let spec = policy.spec.clone().unwrap_or_default();
        let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
        let types = spec.policy_types.unwrap_or_default();
        let speaks_of = |kind: &str, otherwise: bool| match types.is_empty() {
            true => otherwise,
            false => types.iter().any(|own| own == kind),
        };
        let of_ingress = speaks_of("Ingress", true);
        let of_egress = speaks_of("Egress", !egress.is_empty());
        let ingress = ingress.iter().map(|rule| Rule {
            peers: read_peers(rule.from.as_deref().unwrap_or_default()),
            ports: read_ports(rule.ports.as_deref().unwrap_or_default()),
        });
        let egress = egress.iter().map(|rule| Rule {
            peers: read_peers(rule.to.as_deref().unwrap_or_default()),
            ports: read_ports(rule.ports.as_deref().unwrap_or_default()),
        });
        Self {
            namespace: policy.metadata.namespace.clone().unwrap_or_default(),
            subjects: selector(spec.pod_selector.as_ref()).unwrap_or_else(nothing),
            ingress: of_ingress.then(|| ingress.collect()),
            egress: of_egress.then(|| egress.collect()),
        }
    }
}
