//! Services by name and by address, down to their endpoints.
use crate::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// For a Service that is another host's name.
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    /// Connections of one client go to one endpoint.
    pub client_affinity: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub port: u16,
    /// Those that take connections now.
    pub endpoints: Vec<SocketAddr>,
}

impl Service {
    /// What it goes by: in its own namespace, in others, and in full.
    pub fn names(&self, from_namespace: &str, domain: &str) -> Vec<String> {
        let short = format!("{}.{}", self.name, self.namespace);
        let mut names = vec![format!("{short}.svc.{domain}"), format!("{short}.svc"), short];
        if self.namespace == from_namespace {
            names.push(self.name.clone());
        }
        names
    }

    /// Where connections to one of its ports go. A headless Service has no port of its own: the number is the endpoints'.
    pub fn endpoints(&self, protocol: Protocol, port: u16) -> Vec<SocketAddr> {
        let of_protocol = || self.ports.iter().filter(|own| own.protocol == protocol);
        if self.cluster_ips.is_empty() {
            let mut all: Vec<SocketAddr> = of_protocol()
                .flat_map(|own| &own.endpoints)
                .map(|endpoint| SocketAddr::new(endpoint.ip(), port))
                .collect();
            all.sort_unstable();
            all.dedup();
            return all;
        }
        of_protocol().find(|own| own.port == port).map(|own| own.endpoints.clone()).unwrap_or_default()
    }

    /// The API server's own, whose endpoint is an address of the machine itself.
    pub fn is_api_server(&self) -> bool {
        self.namespace == "default" && self.name == "kubernetes"
    }
}

/// What a name means inside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service(Arc<Service>),
    /// It could only be a Service's name, and there is none.
    Nothing,
    /// Not a name of the cluster.
    Elsewhere,
}

/// All Services, as a node knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    by_name: BTreeMap<(String, String), Arc<Service>>,
    by_address: HashMap<IpAddr, Arc<Service>>,
    domain: String,
}

impl Services {
    /// None yet; `domain` is the cluster's, such as `cluster.local`.
    pub fn new(domain: &str) -> Self {
        Self { domain: domain.to_owned(), ..Self::default() }
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Puts a Service in the place of the one of that name.
    pub fn insert(&mut self, service: Service) {
        let key = (service.namespace.clone(), service.name.clone());
        self.remove(&key);
        let service = Arc::new(service);
        for address in &service.cluster_ips {
            self.by_address.insert(*address, service.clone());
        }
        self.by_name.insert(key, service);
    }

    /// Takes away the Service of a namespace and name.
    pub fn remove(&mut self, key: &(String, String)) {
        let Some(old) = self.by_name.remove(key) else { return };
        for address in &old.cluster_ips {
            // It may be another's already.
            if self.by_address.get(address).is_some_and(|held| Arc::ptr_eq(held, &old)) {
                self.by_address.remove(address);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The Service that has this address.
    pub fn of_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&address.to_canonical())
    }

    /// What a name means to a pod of a namespace: `web`, `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local`.
    pub fn resolve(&self, name: &str, from_namespace: &str) -> Target {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let inside = match name.strip_suffix(self.domain.as_str()) {
            Some(rest) if !self.domain.is_empty() => rest.strip_suffix(".svc.").map(str::to_owned),
            _ => None,
        };
        // Such a name is the cluster's own, whether it exists or not; nobody else is asked about it.
        let inside = inside.or_else(|| name.strip_suffix(".svc").map(str::to_owned));
        let labels = inside.as_deref().unwrap_or(&name);
        let key = match labels.split('.').collect::<Vec<_>>()[..] {
            [name] if inside.is_none() => Some((from_namespace.to_owned(), name.to_owned())),
            [name, namespace] => Some((namespace.to_owned(), name.to_owned())),
            _ => None,
        };
        match (key.and_then(|key| self.by_name.get(&key)), inside) {
            (Some(service), _) => Target::Service(service.clone()),
            (None, Some(_)) => Target::Nothing,
            (None, None) => Target::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, addresses: &[&str], endpoints: &[&str]) -> Service {
        Service {
            namespace: "shop".into(),
            name: name.into(),
            cluster_ips: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            external_name: None,
            ports: vec![ServicePort {
                protocol: Protocol::Tcp,
                port: 80,
                endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            }],
            client_affinity: false,
        }
    }

    fn known() -> Services {
        let mut services = Services::new("cluster.local");
        services.insert(service("web", &["127.96.0.9"], &["127.42.0.1:8080"]));
        services
    }

    #[test]
    fn a_name_is_looked_for_as_the_cluster_would() {
        let services = known();
        let found = |name: &str, from: &str| match services.resolve(name, from) {
            Target::Service(service) => service.name.clone(),
            other => format!("{other:?}"),
        };
        for name in
            ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."]
        {
            assert_eq!(found(name, "shop"), "web", "{name}");
        }
        assert_eq!(found("web.shop", "other"), "web");
        assert_eq!(found("web", "other"), "Elsewhere");
        assert_eq!(found("example.com", "shop"), "Elsewhere");
        for name in
            ["db.shop.svc", "db.shop.svc.cluster.local", "svc.cluster.local.svc", "a.b.c.svc.cluster.local"]
        {
            assert_eq!(found(name, "shop"), "Nothing", "{name}");
        }
        let service = services.of_address("127.96.0.9".parse().unwrap()).unwrap();
        assert_eq!(
            service.names("shop", services.domain()),
            ["web.shop.svc.cluster.local", "web.shop.svc", "web.shop", "web"]
        );
        assert_eq!(service.names("other", "x").len(), 3);
    }

    #[test]
    fn ports_lead_to_endpoints_and_headless_services_keep_the_number() {
        let web = service("web", &["127.96.0.9"], &["127.42.0.1:8080"]);
        assert_eq!(web.endpoints(Protocol::Tcp, 80), ["127.42.0.1:8080".parse().unwrap()]);
        assert!(web.endpoints(Protocol::Tcp, 8080).is_empty() && web.endpoints(Protocol::Udp, 80).is_empty());
        let headless = service("web", &[], &["127.42.0.2:8080", "127.42.0.1:8080"]);
        assert_eq!(
            headless.endpoints(Protocol::Tcp, 9000),
            ["127.42.0.1:9000".parse().unwrap(), "127.42.0.2:9000".parse().unwrap()]
        );
    }

    #[test]
    fn an_address_goes_with_its_service_unless_another_has_it() {
        let mut services = known();
        services.insert(service("web", &["127.96.0.10"], &[]));
        assert!(services.of_address("127.96.0.9".parse().unwrap()).is_none());
        services.insert(service("new", &["127.96.0.10"], &[]));
        services.remove(&("shop".into(), "web".into()));
        assert_eq!(services.of_address("127.96.0.10".parse().unwrap()).unwrap().name, "new");
        assert_eq!(services.len(), 1);
    }
}
