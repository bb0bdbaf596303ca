//! wasi:sockets as a pod's guest sees them: its only address is the pod's.
//!
//! wasmtime asks before each use of an address ([`crate::reach`] answers), but uses the one the guest named. So the few
//! functions that take an address are replaced by ones that put another in its place and call wasmtime's own.
//!
//! | the guest names | what happens |
//! |---|---|
//! | bind to 0.0.0.0 or :: | the pod's address is bound |
//! | bind to 127.0.0.1 or ::1 | the pod's address is bound, and only what comes from it gets in |
//! | connect, send to 127.0.0.1 or ::1 | the pod's address: its containers share it |
//! | connect without a bind | the source is the pod's address, so that the other side can tell who calls |
//! | connect to a Service's address | one of its endpoints |
//! | send a datagram to a Service's address | one of its endpoints, the same for each datagram of a socket while it serves |
//! | receive a datagram of that endpoint | it comes from the Service's address |
//! | the name of a Service | its address |
//!
//! Invariant: no guest's socket is ever bound to an address of the node. A pod address of 127.0.0.0/8 cannot be the source
//! of what leaves the machine; there the kernel chooses, and a datagram socket, which is bound before it is known where it
//! will send to, reaches this machine's pods and services only.
//!
//! A socket of the other family has no pod address to be bound to, and is refused.
mod lookup;
mod p2;
mod p3;
mod ways;

use crate::guest::ComponentState;
use crate::reach::Refused;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use wasmtime::component::Linker;
use ways::Ways;

/// A socket's, which its streams know too.
type SharedWays = Arc<Mutex<Ways>>;

/// One store's sockets that differ from what the guest asked for. Keys are numbers of resources.
pub(crate) struct PodSockets {
    pod_ip: IpAddr,
    /// Bound to "loopback".
    inward: HashSet<u32>,
    /// The incoming streams of those that take datagrams.
    inward_streams: HashSet<u32>,
    /// Where the datagrams of each socket go.
    ways: HashMap<u32, SharedWays>,
    /// The same by the number of each stream for datagrams.
    stream_ways: HashMap<u32, SharedWays>,
    /// The name each open lookup is of.
    lookups: HashMap<u32, String>,
}

/// What to bind in place of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) address: SocketAddr,
    /// Only the pod's own containers get in.
    pub(crate) inward: bool,
}

/// The address a guest's bind means. One that is not the pod's stays as it is, to be refused.
pub(crate) fn plan_bind(pod_ip: IpAddr, asked: SocketAddr) -> Bind {
    let pods = SocketAddr::new(pod_ip, asked.port());
    if asked.ip() == pod_ip || asked.is_ipv4() != pod_ip.is_ipv4() {
        return Bind { address: asked, inward: false };
    }
    match asked.ip() {
        ip if ip.is_unspecified() => Bind { address: pods, inward: false },
        ip if is_localhost(ip) => Bind { address: pods, inward: true },
        _ => Bind { address: asked, inward: false },
    }
}

/// The address a guest means when it sends or connects.
pub(crate) fn plan_destination(pod_ip: IpAddr, asked: SocketAddr) -> SocketAddr {
    if is_localhost(asked.ip()) && asked.is_ipv4() == pod_ip.is_ipv4() {
        SocketAddr::new(pod_ip, asked.port())
    } else {
        asked
    }
}

/// Where a connection comes from; `None` lets the kernel choose.
pub(crate) fn plan_source(pod_ip: IpAddr, destination: IpAddr) -> Option<SocketAddr> {
    let possible =
        pod_ip.is_ipv4() == destination.is_ipv4() && pod_ip.is_loopback() == destination.is_loopback();
    possible.then_some(SocketAddr::new(pod_ip, 0))
}

fn is_localhost(ip: IpAddr) -> bool {
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

impl PodSockets {
    pub(crate) fn new(pod_ip: IpAddr) -> Self {
        Self {
            pod_ip,
            inward: HashSet::new(),
            inward_streams: HashSet::new(),
            ways: HashMap::new(),
            stream_ways: HashMap::new(),
            lookups: HashMap::new(),
        }
    }

    /// Remembers what `socket` was bound as. A number may have been another socket's before.
    fn bound(&mut self, socket: u32, bind: Bind) {
        note(&mut self.inward, socket, bind.inward);
        self.ways.remove(&socket);
    }

    /// Where the datagrams of a socket go. There are no more of these than the table of resources may hold.
    fn ways(&mut self, socket: u32) -> SharedWays {
        self.ways.entry(socket).or_default().clone()
    }

    /// Whether `peer` may reach `socket`.
    fn admits(&self, socket: u32, peer: IpAddr) -> bool {
        peer == self.pod_ip || !self.inward.contains(&socket)
    }

    fn streamed(&mut self, socket: u32, incoming: u32, outgoing: u32) {
        let inward = self.inward.contains(&socket);
        note(&mut self.inward_streams, incoming, inward);
        let ways = self.ways(socket);
        self.stream_ways.insert(incoming, ways.clone());
        self.stream_ways.insert(outgoing, ways);
    }

    fn admits_to_stream(&self, stream: u32, peer: IpAddr) -> bool {
        peer == self.pod_ip || !self.inward_streams.contains(&stream)
    }
}

/// Where a datagram of the guest's to an address goes.
fn lead(state: &ComponentState, ways: &Mutex<Ways>, named: SocketAddr) -> Result<SocketAddr, Refused> {
    // What is no destination at all is refused by wasmtime in its own words.
    if named.ip().is_unspecified() || named.port() == 0 {
        return Ok(named);
    }
    let before = ways.lock().of(named);
    let way = state.reach().lead_datagram(named, before)?;
    ways.lock().note(named, way);
    Ok(way)
}

fn note(set: &mut HashSet<u32>, key: u32, is: bool) {
    if is {
        set.insert(key);
    } else {
        set.remove(&key);
    }
}

/// Puts this pod's view over wasmtime's functions, which must be in the linker already.
pub(crate) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let replaced = p2::add_to_linker(linker)
        .and_then(|()| p3::add_to_linker(linker))
        .and_then(|()| lookup::add_to_linker(linker));
    linker.allow_shadowing(false);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_bind_means_the_pods_address_or_is_left_to_be_refused() {
        let pod_ip = "127.42.0.9".parse().unwrap();
        let bind = |text| {
            let bind = plan_bind(pod_ip, address(text));
            (bind.address.to_string(), bind.inward)
        };
        assert_eq!(bind("0.0.0.0:80"), ("127.42.0.9:80".into(), false));
        assert_eq!(bind("127.42.0.9:80"), ("127.42.0.9:80".into(), false));
        assert_eq!(bind("127.0.0.1:80"), ("127.42.0.9:80".into(), true));
        for other in ["127.0.0.2:80", "10.0.0.1:80", "[::]:80", "[::1]:80"] {
            assert_eq!(bind(other), (other.into(), false));
        }
        let six = plan_bind("fd00::9".parse().unwrap(), address("[::]:80"));
        assert_eq!(six, Bind { address: address("[fd00::9]:80"), inward: false });
    }

    #[test]
    fn loopback_is_the_pod_itself() {
        let destination = |pod: &str, to| plan_destination(pod.parse().unwrap(), address(to)).to_string();
        assert_eq!(destination("127.42.0.9", "127.0.0.1:80"), "127.42.0.9:80");
        assert_eq!(destination("fd00::9", "[::1]:80"), "[fd00::9]:80");
        assert_eq!(destination("127.42.0.9", "[::1]:80"), "[::1]:80");
        assert_eq!(destination("127.42.0.9", "127.42.0.8:80"), "127.42.0.8:80");
    }

    #[test]
    fn the_source_is_the_pods_address_wherever_it_can_be() {
        let source = |pod: &str, to: &str| plan_source(pod.parse().unwrap(), to.parse().unwrap());
        assert_eq!(source("127.42.0.9", "127.96.0.1"), Some(address("127.42.0.9:0")));
        assert_eq!(source("127.42.0.9", "93.184.216.34"), None);
        assert_eq!(source("10.244.0.9", "93.184.216.34"), Some(address("10.244.0.9:0")));
        assert_eq!(source("10.244.0.9", "2606:2800::1"), None);
    }

    #[test]
    fn what_is_bound_to_loopback_admits_the_pod_alone() {
        let (pod, other): (IpAddr, IpAddr) = ("127.42.0.9".parse().unwrap(), "127.42.0.8".parse().unwrap());
        let mut sockets = PodSockets::new(pod);
        sockets.bound(1, plan_bind(pod, address("127.0.0.1:80")));
        assert!(sockets.admits(1, pod) && !sockets.admits(1, other));
        sockets.streamed(1, 5, 6);
        assert!(sockets.admits_to_stream(5, pod) && !sockets.admits_to_stream(5, other));
        // The same numbers again, for others.
        sockets.bound(1, plan_bind(pod, address("0.0.0.0:80")));
        sockets.streamed(1, 5, 6);
        assert!(sockets.admits(1, other) && sockets.admits_to_stream(5, other));
    }
}
