//! The core/v1 Endpoints object of a Service, for readers older than EndpointSlices. Pure.
use super::plan::{host_name, publishes_not_ready, target_port, target_ref};
use crate::pod;
use crate::selector::equality_matches;
use client::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Marks what this controller made, so that nobody else's Endpoints are deleted with a Service.
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// More addresses than this are cut off and said to be (upstream's limit).
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Endpoints object of a Service as it shall be; `None` when it is none of ours.
pub(crate) fn compute_endpoints(service: &Service, pods: &[&Pod]) -> Option<Endpoints> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // By their ports: ready addresses, others.
    type Set = (Vec<EndpointPort>, Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut sets: BTreeMap<String, Set> = BTreeMap::new();
    let mut taken = 0;
    let mut over = false;
    let chosen = pods
        .iter()
        .filter(|p| !pod::is_terminal(p) && equality_matches(selector, p.metadata.labels.as_ref()));
    for p in chosen {
        let Some(ip) = p.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()) else {
            continue;
        };
        if pod::is_terminating(p) && !publishes_not_ready(service) {
            continue;
        }
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|sp| {
                Some(EndpointPort {
                    name: sp.name.clone(),
                    port: target_port(sp, p)?,
                    protocol: Some(sp.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: sp.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && spec.ports.iter().flatten().next().is_some() {
            continue;
        }
        if taken == MAX_ADDRESSES {
            over = true;
            break;
        }
        taken += 1;
        let address = EndpointAddress {
            ip,
            hostname: host_name(service, p),
            node_name: pod::node(p).map(str::to_owned),
            target_ref: Some(target_ref(p)),
        };
        let set = sets.entry(format!("{ports:?}")).or_insert_with(|| (ports, Vec::new(), Vec::new()));
        if pod::is_ready(p) || publishes_not_ready(service) {
            set.1.push(address)
        } else {
            set.2.push(address)
        }
    }
    let subsets: Vec<EndpointSubset> =
        sets.into_values().map(|(ports, ready, others)| subset(ports, ready, others)).collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    Some(Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: over.then(|| [(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into()),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    })
}

fn subset(
    ports: Vec<EndpointPort>,
    mut ready: Vec<EndpointAddress>,
    mut others: Vec<EndpointAddress>,
) -> EndpointSubset {
    ready.sort_by(|a, b| a.ip.cmp(&b.ip));
    others.sort_by(|a, b| a.ip.cmp(&b.ip));
    EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!others.is_empty()).then_some(others),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// Whether this controller made the object.
pub(crate) fn is_ours(e: &Endpoints) -> bool {
    e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER)
}

/// Whether two objects say the same.
pub(crate) fn same(a: &Endpoints, b: &Endpoints) -> bool {
    let notes = |e: &Endpoints| e.metadata.annotations.as_ref().and_then(|a| a.get(OVER_CAPACITY)).cloned();
    a.subsets.as_deref().unwrap_or_default() == b.subsets.as_deref().unwrap_or_default()
        && a.metadata.labels == b.metadata.labels
        && notes(a) == notes(b)
}
