//! What one pod may be reached by and may reach.
use crate::Special;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// By Kubernetes' name of it, TCP for none; `None` for what this version does not know.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// Ports of a protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// A range of addresses without some ranges inside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "WrittenBlock", into = "WrittenBlock")]
pub struct Block {
    pub cidr: IpNet,
    pub except: Vec<IpNet>,
}

/// A block as it is carried.
#[derive(Clone, Serialize, Deserialize)]
struct WrittenBlock {
    cidr: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
}

impl From<Block> for WrittenBlock {
    fn from(block: Block) -> Self {
        Self { cidr: block.cidr.to_string(), except: block.except.iter().map(ToString::to_string).collect() }
    }
}

impl TryFrom<WrittenBlock> for Block {
    type Error = ipnet::AddrParseError;

    fn try_from(written: WrittenBlock) -> Result<Self, Self::Error> {
        let except = written.except.iter().map(|inner| inner.parse()).collect::<Result<_, _>>()?;
        Ok(Self { cidr: written.cidr.parse()?, except })
    }
}

impl Block {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|inner| inner.contains(&address))
    }

    /// Whether whoever wrote the block meant this very address, or link-local addresses: `0.0.0.0/0` does not.
    fn names(&self, address: IpAddr) -> bool {
        let link_local = ["169.254.0.0/16", "fe80::/10"]
            .iter()
            .filter_map(|range| range.parse::<IpNet>().ok())
            .any(|range| range.contains(&self.cidr));
        (link_local || self.cidr.prefix_len() == self.cidr.max_prefix_len()) && self.contains(address)
    }
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Peers {
    Anyone,
    These {
        /// Of the pods that were selected.
        addresses: BTreeSet<IpAddr>,
        blocks: Vec<Block>,
    },
}

/// One thing that is allowed: some peers on some ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Allow {
    pub peers: Peers,
    /// `None`: every port.
    pub ports: Option<Vec<PortRange>>,
}

impl Allow {
    fn has_port(&self, protocol: Protocol, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| {
            ports.iter().any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
        })
    }
}

/// What is allowed in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// No policy speaks of it.
    #[default]
    Open,
    /// Nothing but this.
    Isolated(Vec<Allow>),
}

impl Direction {
    /// Whether a connection with this peer, to this port of whoever is connected to, may be.
    pub fn allows(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
        let Self::Isolated(allowed) = self else { return true };
        let peer = peer.to_canonical();
        allowed.iter().any(|allow| {
            allow.has_port(protocol, port)
                && match &allow.peers {
                    Peers::Anyone => true,
                    Peers::These { addresses, blocks } => {
                        addresses.contains(&peer) || blocks.iter().any(|block| block.contains(peer))
                    }
                }
        })
    }

    /// Whether something here names this address outright, as [`Special`] ones must be.
    fn names(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
        let Self::Isolated(allowed) = self else { return false };
        let peer = peer.to_canonical();
        allowed.iter().any(|allow| {
            allow.has_port(protocol, port)
                && match &allow.peers {
                    Peers::Anyone => false,
                    Peers::These { blocks, .. } => blocks.iter().any(|block| block.names(peer)),
                }
        })
    }
}

/// The rules of one pod; all is open by default. A pod may always reach itself, and its node may always reach it:
/// that is for who follows the rules to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    pub ingress: Direction,
    pub egress: Direction,
}

impl Rules {
    /// Whether neither direction is isolated.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an address that is not this pod's may be connected to. `own` says that it is one of this machine's.
    pub fn permits_egress(&self, address: IpAddr, protocol: Protocol, port: u16, own: bool) -> bool {
        match Special::of(address) {
            Some(Special::Nobody | Special::Loopback) => false,
            Some(Special::Metadata) => self.egress.names(address, protocol, port),
            None if own => self.egress.names(address, protocol, port),
            None => self.egress.allows(address, protocol, port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> Allow {
        let block = Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        };
        Allow { peers: Peers::These { addresses: BTreeSet::new(), blocks: vec![block] }, ports: None }
    }

    fn reaches(allowed: Vec<Allow>, address: &str, own: bool) -> bool {
        let rules = Rules { egress: Direction::Isolated(allowed), ..Rules::default() };
        rules.permits_egress(address.parse().unwrap(), Protocol::Tcp, 80, own)
    }

    #[test]
    fn a_block_leaves_out_what_it_excepts_and_takes_mapped_addresses_for_what_they_are() {
        let allowed = || vec![block("10.0.0.0/8", &["10.1.0.0/16"])];
        assert!(reaches(allowed(), "10.2.0.1", false));
        assert!(reaches(allowed(), "::ffff:10.2.0.1", false));
        assert!(!reaches(allowed(), "10.1.0.1", false));
        assert!(!reaches(allowed(), "::ffff:10.1.0.1", false));
        assert!(!reaches(allowed(), "11.0.0.1", false));
    }

    #[test]
    fn metadata_and_the_nodes_own_addresses_must_be_named_and_loopback_cannot_be() {
        let open = Rules::default();
        let permits =
            |address: &str, own| open.permits_egress(address.parse().unwrap(), Protocol::Tcp, 80, own);
        assert!(permits("93.184.216.34", false));
        assert!(
            !permits("169.254.169.254", false) && !permits("10.0.0.5", true) && !permits("127.0.0.1", true)
        );
        let everything = || vec![block("0.0.0.0/0", &[]), block("::/0", &[])];
        assert!(reaches(everything(), "93.184.216.34", false));
        for (address, own) in [("169.254.169.254", false), ("10.0.0.5", true), ("fe80::1", false)] {
            assert!(!reaches(everything(), address, own), "{address}");
            let named = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
            assert!(reaches(vec![block(&named, &[])], address, own), "{address}");
        }
        assert!(reaches(vec![block("169.254.169.0/24", &[])], "169.254.169.254", false));
        assert!(!reaches(vec![block("10.0.0.0/24", &[])], "10.0.0.5", true));
        assert!(!reaches(vec![block("127.0.0.1/32", &[])], "127.0.0.1", true));
    }

    #[test]
    fn rules_survive_the_way_to_the_runtime() {
        let rules = Rules {
            egress: Direction::Isolated(vec![block("10.0.0.0/8", &["10.1.0.0/16"])]),
            ..Rules::default()
        };
        let text = serde_json::to_vec(&rules).unwrap();
        assert_eq!(serde_json::from_slice::<Rules>(&text).unwrap(), rules);
        assert!(!rules.is_open() && Rules::default().is_open());
    }
}
