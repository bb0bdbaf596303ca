//! Services as the table sees them: by name, with the addresses behind each port.
use super::{PathKind, RouteTable, World};
use crate::backends::{Backends, Memory, Owner, Protocol, Route};
use client::ServiceEndpoints;
use client::k8s_openapi::api::core::v1::{Service, ServicePort};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// `appProtocol` of a port that speaks HTTP/2 with prior knowledge (KEP-3726).
const H2C: &str = "kubernetes.io/h2c";

/// Which port of a Service is meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port<'a> {
    First,
    Name(&'a str),
    Number(i32),
}

pub(super) struct Services<'a> {
    /// By name: a look through all services for each function would take a second with ten thousand of both.
    by_name: BTreeMap<(&'a str, &'a str), &'a Service>,
    endpoints: ServiceEndpoints<'a>,
    previous: &'a RouteTable,
    memory: HashMap<String, Arc<Memory>>,
    made: HashMap<(String, String, String), Arc<Backends>>,
}

fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

impl<'a> Services<'a> {
    pub(super) fn new(world: &World<'a>, previous: &'a RouteTable) -> Self {
        let named = world.services.iter().filter_map(|service| {
            let meta = &service.metadata;
            Some(((meta.namespace.as_deref()?, meta.name.as_deref()?), &**service))
        });
        Self {
            by_name: named.collect(),
            endpoints: ServiceEndpoints::of(world.slices),
            previous,
            memory: HashMap::new(),
            made: HashMap::new(),
        }
    }

    /// What is remembered under `key`, from the table before if it knew it.
    pub(super) fn memory(&mut self, key: String) -> Arc<Memory> {
        let kept = || self.previous.memory.get(&key).cloned().unwrap_or_default();
        match self.memory.get(&key) {
            Some(known) => known.clone(),
            None => {
                let memory = kept();
                self.memory.insert(key, memory.clone());
                memory
            }
        }
    }

    pub(super) fn into_memory(self) -> HashMap<String, Arc<Memory>> {
        self.memory
    }

    /// What stands behind a port of a Service; `None` when there is no such Service or port.
    pub(super) fn backends(&mut self, namespace: &str, name: &str, port: Port<'_>) -> Option<Arc<Backends>> {
        let service = self.by_name.get(&(namespace, name))?;
        let mut ports = service.spec.as_ref()?.ports.iter().flatten().filter(|p| is_tcp(p));
        let port = match port {
            Port::First => ports.next(),
            Port::Name(name) => ports.find(|p| p.name.as_deref() == Some(name)),
            Port::Number(number) => ports.find(|p| p.port == number),
        }?;
        let port_name = port.name.clone().unwrap_or_default();
        let protocol =
            if port.app_protocol.as_deref() == Some(H2C) { Protocol::H2c } else { Protocol::Http1 };
        let key = (namespace.to_owned(), name.to_owned(), port_name);
        if let Some(made) = self.made.get(&key) {
            return Some(made.clone());
        }
        let addresses = self.endpoints.addresses(namespace, name, &key.2);
        let memory = self.memory(format!("port {namespace}/{name}:{}", key.2));
        let backends = Arc::new(Backends { service: name.to_owned(), addresses, protocol, memory });
        self.made.insert(key, backends.clone());
        Some(backends)
    }

    /// A route to one Service port, owned by `owner`.
    pub(super) fn route(&mut self, owner: Owner, backends: Option<Arc<Backends>>) -> Arc<Route> {
        let memory = self.memory(owner.to_string());
        Arc::new(Route { owner, members: backends.into_iter().collect(), memory, ..Route::default() })
    }

    /// Every Service with a TCP port answers at `NAME.NAMESPACE.svc.localhost`.
    pub(super) fn add_own_hosts(&mut self, table: &mut RouteTable) {
        let names: Vec<_> = self.by_name.keys().copied().collect();
        for (namespace, name) in names {
            let Some(backends) = self.backends(namespace, name, Port::First) else { continue };
            let owner = Owner { kind: "service", namespace: namespace.to_owned(), name: name.to_owned() };
            let route = self.route(owner, Some(backends));
            table.add(&format!("{name}.{namespace}.svc.localhost"), "/", PathKind::Prefix, &route);
        }
    }
}
