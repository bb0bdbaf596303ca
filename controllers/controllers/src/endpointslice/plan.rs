//! Which slices a Service needs, given its pods and the slices there are. Pure.
//!
//! Invariant: every pod that may serve is in exactly one slice of each of its port sets and address families;
//! a change of one pod rewrites one slice.
use crate::pod;
use crate::selector::{Labels, equality_matches};
use client::SERVICE_NAME;
use client::k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints in one slice (`--max-endpoints-per-slice`).
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// What is to be done. Creations first: an endpoint that moves between slices is in both for a moment rather
/// than in none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<EndpointSlice>,
    pub(crate) why: Why,
}

/// The reason for what a plan does, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Why {
    #[default]
    AsWanted,
    Changed,
    /// Somebody else looks after the endpoints of a Service without a selector.
    NoSelector,
    /// An ExternalName has no endpoints.
    External,
    Terminating,
}

/// Slices hold endpoints of one address family and one set of ports.
type SetKey = (String, Vec<PortKey>);
type PortKey = (String, i32, String, String);

/// Decides the slices of `service`. `slices` are those this controller manages for it.
pub(crate) fn plan_slices(service: &Service, pods: &[&Pod], slices: &[&EndpointSlice]) -> Plan {
    let spec = service.spec.clone().unwrap_or_default();
    if service.metadata.deletion_timestamp.is_some() {
        return Plan { why: Why::Terminating, ..Plan::default() };
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Plan { delete: cloned(slices), why: Why::External, ..Plan::default() };
    }
    let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
        return Plan { why: Why::NoSelector, ..Plan::default() };
    };
    let mut wanted = wanted_endpoints(service, selector, pods);
    let mut plan = Plan::default();
    let mut by_set: BTreeMap<SetKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for &slice in slices {
        by_set
            .entry((slice.address_type.clone(), port_keys(slice.ports.as_deref().unwrap_or_default())))
            .or_default()
            .push(slice);
    }
    for (set, existing) in by_set {
        let Some((ports, endpoints)) = wanted.remove(&set) else {
            plan.delete.extend(existing.into_iter().cloned());
            continue;
        };
        fit(service, &set.0, &ports, endpoints, existing, &mut plan);
    }
    for (set, (ports, endpoints)) in wanted {
        fit(service, &set.0, &ports, endpoints, Vec::new(), &mut plan);
    }
    if !(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty()) {
        plan.why = Why::Changed;
    }
    plan
}

fn cloned(slices: &[&EndpointSlice]) -> Vec<EndpointSlice> {
    slices.iter().map(|s| (*s).clone()).collect()
}

type Wanted = BTreeMap<SetKey, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)>;

/// The endpoints of each set, by their pod's uid and address.
fn wanted_endpoints(service: &Service, selector: &Labels, pods: &[&Pod]) -> Wanted {
    let mut wanted = Wanted::new();
    let chosen = pods
        .iter()
        .filter(|p| !pod::is_terminal(p) && equality_matches(selector, p.metadata.labels.as_ref()));
    for p in chosen {
        let ports = ports_of(service, p);
        for address in addresses(p) {
            let family = if address.contains(':') { "IPv6" } else { "IPv4" };
            if !serves_family(service, family) {
                continue;
            }
            let key = format!("{}/{address}", p.metadata.uid.as_deref().unwrap_or(""));
            let slot = wanted.entry((family.to_owned(), port_keys(&ports))).or_default();
            slot.0.clone_from(&ports);
            slot.1.insert(key, endpoint(service, p, address));
        }
    }
    wanted
}

fn addresses(p: &Pod) -> Vec<String> {
    let Some(status) = p.status.as_ref() else { return Vec::new() };
    let all: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if all.is_empty() { status.pod_ip.clone().filter(|ip| !ip.is_empty()).into_iter().collect() } else { all }
}

fn serves_family(service: &Service, family: &str) -> bool {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    match families.filter(|f| !f.is_empty()) {
        Some(families) => families.iter().any(|f| f == family),
        None => {
            let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
            let own = if ip.contains(':') { "IPv6" } else { "IPv4" };
            own == family
        }
    }
}

/// The Service's ports as this pod has them; a port that names none of its containers' ports is left out.
fn ports_of(service: &Service, p: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter_map(|sp| {
            Some(EndpointPort {
                name: Some(sp.name.clone().unwrap_or_default()),
                port: Some(target_port(sp, p)?),
                protocol: Some(protocol(sp).to_owned()),
                app_protocol: sp.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(sp: &ServicePort) -> &str {
    sp.protocol.as_deref().unwrap_or("TCP")
}

pub(crate) fn target_port(sp: &ServicePort, p: &Pod) -> Option<i32> {
    match &sp.target_port {
        None | Some(IntOrString::Int(0)) => Some(sp.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = p.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            containers
                .flat_map(|c| c.ports.iter().flatten())
                .find(|cp| {
                    cp.name.as_ref() == Some(name) && cp.protocol.as_deref().unwrap_or("TCP") == protocol(sp)
                })
                .map(|cp| cp.container_port)
        }
    }
}

fn port_keys(ports: &[EndpointPort]) -> Vec<PortKey> {
    let mut keys: Vec<PortKey> = ports
        .iter()
        .map(|p| {
            (
                p.name.clone().unwrap_or_default(),
                p.port.unwrap_or(0),
                p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                p.app_protocol.clone().unwrap_or_default(),
            )
        })
        .collect();
    keys.sort();
    keys
}

/// Whether endpoints are published before they are ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.publish_not_ready_addresses == Some(true))
}

/// A pod's own host name counts only under the Service that is its subdomain.
pub(crate) fn host_name(service: &Service, p: &Pod) -> Option<String> {
    let spec = p.spec.as_ref()?;
    let named = spec.subdomain.is_some()
        && spec.subdomain == service.metadata.name
        && service.metadata.namespace == p.metadata.namespace;
    spec.hostname.clone().filter(|h| named && !h.is_empty())
}

pub(crate) fn target_ref(p: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: p.metadata.namespace.clone(),
        name: p.metadata.name.clone(),
        uid: p.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn endpoint(service: &Service, p: &Pod, address: String) -> Endpoint {
    let serving = pod::is_ready(p);
    let terminating = pod::is_terminating(p);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host_name(service, p),
        node_name: pod::node(p).map(str::to_owned),
        target_ref: Some(target_ref(p)),
        ..Endpoint::default()
    }
}

fn endpoint_key(e: &Endpoint) -> String {
    let uid = e.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or("");
    format!("{uid}/{}", e.addresses.first().map_or("", String::as_str))
}

/// Labels of a Service's slices: the Service's own, and whose they are.
fn labels(service: &Service) -> Labels {
    let mut labels: Labels = service
        .metadata
        .labels
        .iter()
        .flatten()
        .filter(|(k, _)| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Fits the endpoints of one set into its slices: those that are there stay where they are, new ones fill what
/// room there is, and new slices take the rest. Empty slices go.
fn fit(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    mut wanted: BTreeMap<String, Endpoint>,
    existing: Vec<&EndpointSlice>,
    plan: &mut Plan,
) {
    let labels = labels(service);
    let mut kept: Vec<(&EndpointSlice, Vec<Endpoint>)> = Vec::new();
    for slice in existing {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let staying: Vec<Endpoint> = old.iter().filter_map(|e| wanted.remove(&endpoint_key(e))).collect();
        kept.push((slice, staying));
    }
    // Slices that change anyway take the newcomers first: fewer objects are written.
    kept.sort_by_key(|(slice, staying)| {
        (slice.endpoints.as_deref().unwrap_or_default() == staying, slice.metadata.name.clone())
    });
    let mut newcomers = wanted.into_values();
    for (_, endpoints) in &mut kept {
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len());
        endpoints.extend(newcomers.by_ref().take(room));
    }
    for (slice, endpoints) in kept {
        if endpoints.is_empty() {
            plan.delete.push(slice.clone());
            continue;
        }
        let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints
            && slice.metadata.labels.as_ref() == Some(&labels);
        if !same {
            let mut changed = slice.clone();
            changed.endpoints = Some(endpoints);
            changed.metadata.labels = Some(labels.clone());
            plan.update.push(changed);
        }
    }
    let rest: Vec<Endpoint> = newcomers.collect();
    for chunk in rest.chunks(MAX_ENDPOINTS) {
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or(""))),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels.clone()),
                owner_references: Some(vec![crate::owner::controller_ref(
                    "v1",
                    "Service",
                    &service.metadata,
                )]),
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            ports: (!ports.is_empty()).then(|| ports.to_vec()),
            endpoints: Some(chunk.to_vec()),
        });
    }
}
