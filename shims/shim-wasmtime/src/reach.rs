//! What a guest may connect to and be reached by, and where its connections lead.
//!
//! Invariant: the address decides, after the name was resolved, so that no name can be made to point at the node's own
//! services or at a cloud's metadata service. A Service is left for one of its endpoints here and not in the kernel:
//! who is reached so sees the caller's address, and its own rules hold.
//!
//! ```text
//!   name ─► host list ─► Service? ─► endpoints ─┐
//!             │            └─ no: DNS ──────────┤
//!   address ──┘ Service's address? endpoints ───┴─► special? pod's rules ─► connect from the pod's own address
//! ```
use crate::figures::Figures;
use crate::sockets::plan_destination;
use network_policy::{HostList, Protocol, Service, Services, Special, Target};
use parking_lot::Mutex;
use shim::Network;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Addresses remembered with the names they were resolved from, for guests with a list of hosts: as many as one
/// instance may hold sockets.
const MAX_LEARNED: usize = crate::limits::MAX_RESOURCES;

/// Destinations of datagrams remembered, so that their answers are let in; looked through for each datagram.
const MAX_ASKED: usize = 64;

/// Why a destination is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The host is not on the pod's list.
    Host,
    /// No address of it is permitted.
    Address,
    /// The Service has no endpoint that takes connections.
    NoEndpoint,
    /// The name means nothing.
    Unknown,
}

/// The networks of this node.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Parts of 127.0.0.0/8 that are pods' and Services'.
    pub(crate) reachable_loopback: Vec<(Ipv4Addr, u8)>,
    /// Of Services.
    pub(crate) services: Vec<(Ipv4Addr, u8)>,
}

fn contains(ranges: &[(Ipv4Addr, u8)], address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    ranges.iter().any(|(network, bits)| {
        let mask = u32::MAX.checked_shl(32 - u32::from((*bits).min(32))).unwrap_or(0);
        u32::from(*network) & mask == u32::from(address) & mask
    })
}

/// Whether an address is one of this machine's. Asked of the system each time, since addresses come and go; only for
/// destinations outside the cluster, where some ten microseconds do not matter.
fn is_own(address: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|own| {
        let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        v4.or(own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()))) == Some(address)
    })
}

/// Addresses and the names they came from, the oldest forgotten first.
#[derive(Default)]
struct Learned {
    names: HashMap<IpAddr, Vec<String>>,
    order: VecDeque<IpAddr>,
}

impl Learned {
    fn add(&mut self, address: IpAddr, name: &str) {
        let names = self.names.entry(address).or_insert_with(|| {
            self.order.push_back(address);
            Vec::new()
        });
        // A guest may give one address as many names as it likes.
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
            names.drain(..names.len().saturating_sub(8));
        }
        if self.order.len() > MAX_LEARNED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

/// Notes what datagrams were about lately.
fn remember<T: PartialEq>(lately: &mut VecDeque<T>, what: T) {
    if !lately.contains(&what) {
        lately.push_back(what);
        if lately.len() > MAX_ASKED {
            lately.pop_front();
        }
    }
}

/// One container's.
pub(crate) struct Reach {
    pub(crate) pod_ip: IpAddr,
    ranges: Ranges,
    network: Network,
    hosts: Option<HostList>,
    learned: Mutex<Learned>,
    /// Destinations of sockets that were translated and bound to the pod's address, and are about to be connected.
    cleared: Mutex<VecDeque<SocketAddr>>,
    /// Ports the guest's own sockets listen on.
    listening: Mutex<BTreeSet<(Protocol, u16)>>,
    /// Where datagrams were sent lately.
    asked: Mutex<VecDeque<SocketAddr>>,
    /// Services whose endpoints datagrams were led to lately, for guests with a list of hosts: the list has the Service.
    led: Mutex<VecDeque<(SocketAddr, SocketAddr)>>,
    /// Turns between endpoints.
    turn: AtomicUsize,
    figures: Arc<Figures>,
}

impl Reach {
    pub(crate) fn new(
        pod_ip: IpAddr,
        ranges: Ranges,
        network: Network,
        hosts: Option<HostList>,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            pod_ip,
            ranges,
            network,
            hosts,
            learned: Mutex::default(),
            cleared: Mutex::default(),
            listening: Mutex::default(),
            asked: Mutex::default(),
            led: Mutex::default(),
            turn: AtomicUsize::new(0),
            figures,
        }
    }

    /// The network, to wait for its changes.
    pub(crate) fn network(&self) -> Network {
        self.network.clone()
    }

    fn services(&self) -> Option<Arc<Services>> {
        self.network.services.borrow().clone()
    }

    /// Whether this peer may have a connection with one of this pod's ports. The node itself always may (probes, the
    /// gateway, whatever comes through kube-proxy), over TCP: a guest's TCP connections to pods always come from its
    /// pod's address, while its datagrams may bear the node's.
    pub(crate) fn admits(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
        let peer = peer.to_canonical();
        let node = || {
            protocol == Protocol::Tcp
                && match peer.is_loopback() {
                    true => !contains(&self.ranges.reachable_loopback, peer),
                    false => is_own(peer),
                }
        };
        let admitted = self.network.rules.borrow().ingress.allows(peer, protocol, port);
        if admitted || peer == self.pod_ip || node() {
            return true;
        }
        self.figures.ingress_denied();
        tracing::debug!(pod = %self.pod_ip, %peer, port, "a network policy refuses a connection to this pod");
        false
    }

    /// Whether the pod's rules permit a destination, which is no Service's address any more.
    fn permits(&self, to: SocketAddr, protocol: Protocol) -> bool {
        let address = to.ip().to_canonical();
        if address == self.pod_ip {
            return true;
        }
        let rules = self.network.rules.borrow().clone();
        if address.is_loopback() && contains(&self.ranges.reachable_loopback, address) {
            // Of Services that are known none is left, and there might be one that is not known yet: the way through
            // kube-proxy would hide who is calling.
            let hidden = contains(&self.ranges.services, address) && self.network.services.borrow().is_some();
            return !hidden && rules.egress.allows(address, protocol, to.port());
        }
        let own = Special::of(address).is_none() && is_own(address);
        rules.permits_egress(address, protocol, to.port(), own)
    }

    /// Whether the host list has a host of these names.
    fn lists(&self, names: &[String], port: Option<u16>) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.permits(names, port))
    }

    /// Whether the host list has this address, or a name that it was resolved from.
    fn lists_address(&self, to: SocketAddr) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let address = to.ip().to_canonical();
        let of_service = || {
            let services = self.services()?;
            let service = services.of_address(address)?;
            Some(hosts.permits(&service.names(&self.network.namespace, services.domain()), Some(to.port())))
        };
        address == self.pod_ip
            || hosts.permits_address(address, to.port())
            || of_service().unwrap_or(false)
            || self
                .learned
                .lock()
                .names
                .get(&address)
                .is_some_and(|names| hosts.permits(names, Some(to.port())))
    }

    /// Whether the host list has this host; a refusal is counted.
    pub(crate) fn may_call(&self, host: &str, port: u16) -> bool {
        if self.hosts.is_none() {
            return true;
        }
        let refused = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => !self.lists_address(plan_destination(self.pod_ip, SocketAddr::new(address, port))),
            Err(_) if host.eq_ignore_ascii_case("localhost") => false,
            Err(_) => matches!(self.meaning(host, Some(port)), Err(Refused::Host)),
        };
        if refused {
            self.refuse(&format_args!("{host}:{port}"), Refused::Host);
        }
        !refused
    }

    /// Notes which name an address was resolved from.
    pub(crate) fn learn(&self, address: IpAddr, name: &str) {
        if self.hosts.is_some() {
            self.learned.lock().add(address.to_canonical(), name);
        }
    }

    /// Counts and tells what was refused.
    pub(crate) fn refuse(&self, to: &dyn std::fmt::Display, why: Refused) -> Refused {
        if matches!(why, Refused::Host | Refused::Address) {
            self.figures.egress_denied();
            tracing::debug!(pod = %self.pod_ip, %to, ?why, "a connection of this pod is refused");
        }
        why
    }

    /// A Service's endpoints that may be reached, in the order in which they are to be tried.
    fn endpoints(
        &self,
        service: &Service,
        protocol: Protocol,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Refused> {
        let all = service.endpoints(protocol, port);
        if all.is_empty() {
            return Err(Refused::NoEndpoint);
        }
        let permitted = |to: &SocketAddr| service.is_api_server() || self.permits(*to, protocol);
        let mut found: Vec<SocketAddr> = all.into_iter().filter(permitted).collect();
        if found.is_empty() {
            return Err(Refused::Address);
        }
        let first = match service.client_affinity {
            true => {
                let mut hasher = DefaultHasher::new();
                self.pod_ip.hash(&mut hasher);
                hasher.finish() as usize
            }
            false => self.turn.fetch_add(1, Relaxed),
        };
        let count = found.len();
        found.rotate_left(first % count);
        Ok(found)
    }

    /// Where a connection to an address leads: "loopback" to the pod itself, else there, or to the endpoints of the Service that has the address.
    pub(crate) fn translate(&self, to: SocketAddr, protocol: Protocol) -> Result<Vec<SocketAddr>, Refused> {
        let to = plan_destination(self.pod_ip, to);
        if !self.lists_address(to) {
            return Err(self.refuse(&to, Refused::Host));
        }
        self.lead(to, protocol).map_err(|why| self.refuse(&to, why))
    }

    fn lead(&self, to: SocketAddr, protocol: Protocol) -> Result<Vec<SocketAddr>, Refused> {
        let services = self.services();
        match services.as_ref().and_then(|services| services.of_address(to.ip())) {
            Some(service) => self.endpoints(service, protocol, to.port()),
            None if self.permits(to, protocol) => Ok(vec![to]),
            None => Err(Refused::Address),
        }
    }

    /// Notes that a socket bound to the pod's address is about to be connected to where it was led.
    pub(crate) fn clear(&self, to: SocketAddr) {
        let mut cleared = self.cleared.lock();
        cleared.push_back(to);
        if cleared.len() > MAX_LEARNED {
            cleared.pop_front();
        }
    }

    /// Whether a socket may be connected to exactly this address. One that was not led there must go out of the cluster:
    /// it is not bound to the pod's address, and a pod would take it for the node.
    pub(crate) fn may_connect(&self, to: SocketAddr) -> bool {
        let cleared = {
            let mut cleared = self.cleared.lock();
            cleared.iter().position(|own| *own == to).and_then(|at| cleared.remove(at)).is_some()
        };
        let may = match cleared {
            true => self.may_reach(to, Protocol::Tcp),
            false => {
                !to.ip().to_canonical().is_loopback()
                    && self.lists_address(to)
                    && self.permits(to, Protocol::Tcp)
            }
        };
        if !may {
            self.refuse(&to, Refused::Address);
        }
        may
    }

    /// Whether a datagram may be sent to exactly this address.
    pub(crate) fn may_send(&self, to: SocketAddr) -> bool {
        let listed = self.lists_address(to) || self.lists_service_of(to);
        let may = listed && self.permits(to, Protocol::Udp);
        if !may {
            self.refuse(&to, Refused::Address);
            return may;
        }
        remember(&mut self.asked.lock(), to);
        may
    }

    /// Where a datagram to an address goes: where the one `before` went, as long as that is an endpoint of the Service and
    /// permitted.
    pub(crate) fn lead_datagram(
        &self,
        to: SocketAddr,
        before: Option<SocketAddr>,
    ) -> Result<SocketAddr, Refused> {
        let ways = self.translate(to, Protocol::Udp)?;
        let way = before.filter(|before| ways.contains(before)).or(ways.first().copied());
        let way = way.ok_or(Refused::NoEndpoint)?;
        if way != to && self.hosts.is_some() {
            remember(&mut self.led.lock(), (to, way));
        }
        Ok(way)
    }

    /// Whether a datagram was led there for a Service that the host list has, and is an endpoint of still.
    fn lists_service_of(&self, to: SocketAddr) -> bool {
        let Some(services) = self.services() else { return false };
        self.led.lock().iter().any(|(service, endpoint)| {
            *endpoint == to
                && self.lists_address(*service)
                && services
                    .of_address(service.ip())
                    .is_some_and(|known| known.endpoints(Protocol::Udp, service.port()).contains(&to))
        })
    }

    /// Whether a socket may listen there: never on all addresses, for those are the node's.
    pub(crate) fn may_listen(&self, address: SocketAddr) -> bool {
        address.ip().to_canonical() == self.pod_ip && self.listens(Protocol::Tcp, address.port())
    }

    /// Notes that a guest's own socket listens there; false if it listens on too many already.
    pub(crate) fn listens(&self, protocol: Protocol, port: u16) -> bool {
        let mut listening = self.listening.lock();
        listening.contains(&(protocol, port))
            || (listening.len() < MAX_LEARNED && listening.insert((protocol, port)))
    }

    /// Whether this peer may have a connection with a socket of the guest's, of which only the protocol is known: it must
    /// be admitted on each port the guest listens on. What answers a datagram of the guest's is no connection.
    pub(crate) fn admits_socket(&self, peer: SocketAddr, protocol: Protocol) -> bool {
        if protocol == Protocol::Udp && self.asked.lock().contains(&peer) {
            return true;
        }
        let ports: Vec<u16> = {
            let listening = self.listening.lock();
            listening.iter().filter(|(own, _)| *own == protocol).map(|(_, port)| *port).collect()
        };
        ports.iter().all(|port| self.admits(peer.ip(), protocol, *port))
    }

    /// Whether a socket may be bound there: a guest listens on its pod's address only. Port 0 of no address is what the
    /// system is asked about before a socket that was never bound connects.
    pub(crate) fn may_bind(&self, address: SocketAddr) -> bool {
        address.ip().to_canonical() == self.pod_ip || (address.ip().is_unspecified() && address.port() == 0)
    }

    /// Whether a connection to an address that was translated may be.
    fn may_reach(&self, to: SocketAddr, protocol: Protocol) -> bool {
        let api_server = || {
            let services = self.services()?;
            let Target::Service(service) = services.resolve("kubernetes", "default") else { return None };
            Some(service.ports.iter().any(|port| port.endpoints.contains(&to)))
        };
        self.permits(to, protocol) || (to.ip().is_loopback() && api_server().unwrap_or(false))
    }

    /// Where connections of the guest to a host lead, in the order in which they are to be tried.
    pub(crate) async fn destinations(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.translate(SocketAddr::new(address, port), Protocol::Tcp);
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![SocketAddr::new(self.pod_ip, port)]);
        }
        let found = match self.meaning(host, Some(port)) {
            Ok(meaning) => self.resolve(meaning, port).await,
            Err(why) => Err(why),
        };
        found.map_err(|why| self.refuse(&format_args!("{host}:{port}"), why))
    }

    /// The same for what the host keeps for the guest, such as a bucket: whoever wrote the pod named it, and no list of
    /// hosts for the guest is about it. The pod's rules are.
    pub(crate) async fn backend(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
        let target = self.services().map(|services| services.resolve(host, &self.network.namespace));
        let meaning = match target {
            Some(Target::Service(service)) => Meaning::of(service),
            Some(Target::Nothing) => return Err(Refused::Unknown),
            Some(Target::Elsewhere) | None => Meaning::Name(host.to_owned()),
        };
        self.resolve(meaning, port).await.map_err(|why| self.refuse(&format_args!("{host}:{port}"), why))
    }

    async fn resolve(&self, meaning: Meaning, port: u16) -> Result<Vec<SocketAddr>, Refused> {
        let name = match meaning {
            Meaning::Service(service) => return self.endpoints(&service, Protocol::Tcp, port),
            Meaning::Name(name) => name,
        };
        let found = tokio::net::lookup_host((name.as_str(), port)).await;
        let found: Vec<SocketAddr> = found.map_err(|_| Refused::Unknown)?.collect();
        let mut permitted = Vec::with_capacity(found.len());
        let mut last = Refused::Unknown;
        for to in found {
            match self.lead(to, Protocol::Tcp) {
                Ok(ways) => permitted.extend(ways),
                Err(why) => last = why,
            }
        }
        if permitted.is_empty() { Err(last) } else { Ok(permitted) }
    }

    /// What a name means to this pod, if it may be called; without a port, whether at any.
    fn meaning(&self, host: &str, port: Option<u16>) -> Result<Meaning, Refused> {
        let own = || vec![host.to_owned()];
        let target = self.services().map(|services| {
            let target = services.resolve(host, &self.network.namespace);
            (target, services)
        });
        match target {
            Some((Target::Service(service), services)) => {
                let mut names = service.names(&self.network.namespace, services.domain());
                names.extend(own());
                match self.lists(&names, port) {
                    false => Err(Refused::Host),
                    true => Ok(Meaning::of(service)),
                }
            }
            Some((Target::Nothing, _)) if self.lists(&own(), port) => Err(Refused::Unknown),
            Some((Target::Elsewhere, _)) | None if self.lists(&own(), port) => {
                Ok(Meaning::Name(own().remove(0)))
            }
            _ => Err(Refused::Host),
        }
    }

    /// What to ask the system for when a guest looks a name up: a name, or the address that it stands for.
    pub(crate) fn lookup(&self, host: &str) -> Result<String, Refused> {
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Ok(host.to_owned());
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(self.pod_ip.to_string());
        }
        match self.meaning(host, None) {
            Ok(Meaning::Name(name)) => Ok(name),
            Ok(Meaning::Service(service)) => match service.cluster_ips.first() {
                Some(address) => Ok(address.to_string()),
                None => {
                    let all = service.ports.iter().flat_map(|port| &port.endpoints);
                    let mut all: Vec<IpAddr> = all.map(SocketAddr::ip).collect();
                    all.sort_unstable();
                    all.dedup();
                    let turn = self.turn.fetch_add(1, Relaxed) % all.len().max(1);
                    all.get(turn).map(IpAddr::to_string).ok_or(Refused::Unknown)
                }
            },
            Err(why) => Err(self.refuse(&host, why)),
        }
    }
}

enum Meaning {
    Service(Arc<Service>),
    Name(String),
}

impl Meaning {
    fn of(service: Arc<Service>) -> Self {
        match &service.external_name {
            Some(name) => Self::Name(name.clone()),
            None => Self::Service(service),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use network_policy::{Allow, Direction, Peers, Rules, ServicePort};
    use tokio::sync::watch;

    fn ranges() -> Ranges {
        Ranges {
            reachable_loopback: vec![(Ipv4Addr::new(127, 42, 0, 0), 16), (Ipv4Addr::new(127, 96, 0, 0), 16)],
            services: vec![(Ipv4Addr::new(127, 96, 0, 0), 16)],
        }
    }

    struct World {
        reach: Reach,
        rules: watch::Sender<Arc<Rules>>,
        services: watch::Sender<Option<Arc<Services>>>,
    }

    fn world(hosts: Option<&str>) -> World {
        let (rules, seen) = watch::channel(Arc::default());
        let (services, known) = watch::channel(None);
        let network = Network { namespace: "shop".into(), rules: seen, services: known };
        let hosts = hosts.map(|list| list.parse().unwrap());
        World {
            reach: Reach::new("127.42.0.9".parse().unwrap(), ranges(), network, hosts, Arc::default()),
            rules,
            services,
        }
    }

    fn service(namespace: &str, name: &str, address: &str, port: u16, endpoints: &[&str]) -> Service {
        Service {
            namespace: namespace.into(),
            name: name.into(),
            cluster_ips: vec![address.parse().unwrap()],
            external_name: None,
            ports: vec![ServicePort {
                protocol: Protocol::Tcp,
                port,
                endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            }],
            client_affinity: false,
        }
    }

    fn known() -> Option<Arc<Services>> {
        let mut services = Services::new("cluster.local");
        services.insert(service("shop", "web", "127.96.0.9", 80, &["127.42.0.1:8080", "127.42.0.2:8080"]));
        services.insert(service("default", "kubernetes", "127.96.0.1", 443, &["127.0.0.1:6443"]));
        services.insert(service("shop", "sly", "127.96.0.66", 80, &["127.0.0.1:10250"]));
        services.insert(service("shop", "empty", "127.96.0.7", 80, &[]));
        Some(Arc::new(services))
    }

    fn only(addresses: &[&str]) -> Direction {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Direction::Isolated(vec![Allow { peers: Peers::These { addresses, blocks: vec![] }, ports: None }])
    }

    async fn to(world: &World, host: &str, port: u16) -> Result<Vec<String>, Refused> {
        world.reach.destinations(host, port).await.map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn pods_services_and_the_world_are_reachable_the_node_and_metadata_are_not() {
        let world = world(None);
        for address in ["127.42.3.4", "127.96.0.1", "198.51.100.7", "[2001:db8::1]", "[::ffff:198.51.100.7]"]
        {
            assert!(to(&world, address, 80).await.is_ok(), "{address}");
        }
        assert_eq!(to(&world, "127.0.0.1", 80).await.unwrap(), ["127.42.0.9:80"], "the pod itself");
        let bad = [
            "127.43.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
            "127.255.0.1",
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "100.100.100.200",
            "224.0.0.1",
        ];
        for address in bad {
            assert_eq!(to(&world, address, 80).await, Err(Refused::Address), "{address}");
        }
        assert_eq!(world.reach.figures.stats().egress_denials, bad.len() as u64);
        assert_eq!(to(&world, "name.invalid", 80).await, Err(Refused::Unknown));
    }

    #[tokio::test]
    async fn a_service_is_left_for_its_endpoints_which_take_turns() {
        let world = world(None);
        world.services.send_replace(known());
        for host in ["web", "web.shop.svc.cluster.local", "127.96.0.9", "web"] {
            assert_eq!(to(&world, host, 80).await.unwrap().len(), 2, "{host}");
        }
        assert_ne!(to(&world, "web", 80).await, to(&world, "web", 80).await);
        assert_eq!(to(&world, "web", 81).await, Err(Refused::NoEndpoint));
        assert_eq!(to(&world, "empty", 80).await, Err(Refused::NoEndpoint));
        assert_eq!(to(&world, "nobody.shop.svc", 80).await, Err(Refused::Unknown));
        assert_eq!(to(&world, "127.96.0.200", 80).await, Err(Refused::Address), "not by way of kube-proxy");
        assert_eq!(to(&world, "sly", 80).await, Err(Refused::Address), "no endpoint opens the node");
        assert_eq!(to(&world, "kubernetes.default", 443).await.unwrap(), ["127.0.0.1:6443"]);
        let connects = |to: &str| world.reach.may_connect(to.parse().unwrap());
        assert!(!connects("127.42.0.1:8080"), "nobody led it there");
        for (address, may) in
            [("127.42.0.1:8080", true), ("127.0.0.1:6443", true), ("127.0.0.1:10250", false)]
        {
            world.reach.clear(address.parse().unwrap());
            assert_eq!(connects(address), may, "{address}");
            assert!(!connects(address), "once");
        }
        assert!(connects("198.51.100.7:80") && !connects("169.254.169.254:80"));
    }

    #[tokio::test]
    async fn rules_decide_about_endpoints_and_change_at_any_time() {
        let world = world(None);
        world.services.send_replace(known());
        world.rules.send_replace(Arc::new(Rules { egress: only(&["127.42.0.2"]), ..Rules::default() }));
        assert_eq!(to(&world, "web", 80).await.unwrap(), ["127.42.0.2:8080"]);
        assert_eq!(to(&world, "127.42.0.1", 8080).await, Err(Refused::Address));
        assert_eq!(to(&world, "198.51.100.7", 80).await, Err(Refused::Address));
        assert!(to(&world, "127.42.0.9", 80).await.is_ok(), "the pod itself");
        world.rules.send_replace(Arc::new(Rules { egress: only(&[]), ..Rules::default() }));
        assert_eq!(to(&world, "web", 80).await, Err(Refused::Address));
        world.rules.send_replace(Arc::default());
        assert_eq!(to(&world, "127.42.0.1", 8080).await.unwrap().len(), 1);
    }

    #[test]
    fn the_node_and_the_pod_itself_are_admitted_others_as_the_rules_say() {
        let world = world(None);
        let admits = |peer: &str, protocol| world.reach.admits(peer.parse().unwrap(), protocol, 80);
        assert!(admits("127.42.0.1", Protocol::Tcp));
        world.rules.send_replace(Arc::new(Rules { ingress: only(&["127.42.0.2"]), ..Rules::default() }));
        for peer in ["127.42.0.2", "127.0.0.1", "127.42.0.9", "::ffff:127.42.0.2", "::1"] {
            assert!(admits(peer, Protocol::Tcp), "{peer}");
        }
        assert!(!admits("127.42.0.1", Protocol::Tcp) && !admits("198.51.100.7", Protocol::Tcp));
        assert!(!admits("127.0.0.1", Protocol::Udp) && admits("127.42.0.2", Protocol::Udp));
        assert_eq!(world.reach.figures.stats().ingress_denials, 3);
    }

    #[tokio::test]
    async fn a_host_list_is_for_names_services_and_addresses_and_opens_nothing() {
        let world = world(Some("web:80, 127.255.0.1, *.example, 198.51.100.7"));
        world.services.send_replace(known());
        assert_eq!(to(&world, "web.shop.svc", 80).await.unwrap().len(), 2);
        assert_eq!(to(&world, "127.96.0.9", 80).await.unwrap().len(), 2, "the address is that Service's");
        assert_eq!(to(&world, "kubernetes.default", 443).await, Err(Refused::Host));
        assert_eq!(to(&world, "127.42.0.1", 8080).await, Err(Refused::Host));
        assert_eq!(
            to(&world, "127.255.0.1", 80).await,
            Err(Refused::Address),
            "a list opens nothing that is closed to all"
        );
        assert_eq!(to(&world, "other.test", 80).await, Err(Refused::Host));
        assert!(to(&world, "198.51.100.7", 80).await.is_ok());
        assert_eq!(to(&world, "198.51.100.8", 80).await, Err(Refused::Host));
        // A guest with sockets: it looks a name up, and connects to what it was told.
        assert_eq!(world.reach.lookup("other.test"), Err(Refused::Host));
        assert_eq!(world.reach.lookup("a.example"), Ok("a.example".to_owned()));
        assert_eq!(world.reach.lookup("web"), Ok("127.96.0.9".to_owned()));
        world.reach.learn("198.51.100.9".parse().unwrap(), "a.example");
        let there = |port| {
            world.reach.translate(SocketAddr::new("198.51.100.9".parse().unwrap(), port), Protocol::Tcp)
        };
        assert!(there(80).is_ok());
        for n in 0..MAX_LEARNED {
            world.reach.learn(IpAddr::V4(Ipv4Addr::from(n as u32)), "a.example");
        }
        assert_eq!(there(80), Err(Refused::Host), "forgotten");
    }

    fn with_dns(endpoints: &[&str]) -> Option<Arc<Services>> {
        let mut services = Services::clone(&known().unwrap());
        let mut dns = service("shop", "dns", "127.96.0.53", 53, endpoints);
        dns.ports[0].protocol = Protocol::Udp;
        services.insert(dns);
        Some(Arc::new(services))
    }

    #[test]
    fn datagrams_to_a_service_go_to_one_endpoint_while_it_serves_and_policy_permits() {
        let world = world(None);
        let (a, b) = ("127.42.0.1:5353", "127.42.0.2:5353");
        world.services.send_replace(with_dns(&[a, b]));
        let dns: SocketAddr = "127.96.0.53:53".parse().unwrap();
        let lead = |before: Option<&str>| {
            let led = world.reach.lead_datagram(dns, before.map(|before| before.parse().unwrap()));
            led.map(|way| way.to_string())
        };
        for before in [a, b, a] {
            assert_eq!(lead(Some(before)).unwrap(), before);
        }
        assert_ne!(lead(None), lead(None), "sockets take turns");
        world.rules.send_replace(Arc::new(Rules { egress: only(&["127.42.0.2"]), ..Rules::default() }));
        assert_eq!(lead(Some(a)).unwrap(), b);
        assert!(!world.reach.may_send(a.parse().unwrap()) && world.reach.may_send(b.parse().unwrap()));
        world.services.send_replace(with_dns(&[a]));
        assert_eq!(lead(Some(b)), Err(Refused::Address));
        world.services.send_replace(with_dns(&[]));
        assert_eq!(lead(Some(b)), Err(Refused::NoEndpoint));
        assert_eq!(
            world.reach.lead_datagram("127.96.0.9:80".parse().unwrap(), None),
            Err(Refused::NoEndpoint)
        );
    }

    #[test]
    fn a_host_list_that_has_a_service_permits_datagrams_to_its_endpoints_of_now_alone() {
        let world = world(Some("dns:53"));
        let (a, b) = ("127.42.0.1:5353", "127.42.0.2:5353");
        world.services.send_replace(with_dns(&[a]));
        let may_send = |to: &str| world.reach.may_send(to.parse().unwrap());
        assert!(!may_send(a), "nobody led it there");
        assert_eq!(
            world.reach.lead_datagram("127.96.0.53:53".parse().unwrap(), None),
            Ok(a.parse().unwrap())
        );
        assert!(may_send(a) && !may_send(b));
        world.services.send_replace(with_dns(&[b]));
        assert!(!may_send(a), "it is somebody else's address by now");
        assert_eq!(world.reach.lead_datagram("127.96.0.9:80".parse().unwrap(), None), Err(Refused::Host));
    }
}
