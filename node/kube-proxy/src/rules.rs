//! Which address leads to which endpoints: the decision, without the doing.
use client::ServiceEndpoints;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything a node must answer for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub frontends: BTreeMap<SocketAddr, Frontend>,
}

/// One TCP address of a Service and where its connections go. A frontend without backends refuses connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub namespace: String,
    pub service: String,
    pub port_name: String,
    pub backends: Vec<SocketAddr>,
    /// Connections of one client go to one backend (`sessionAffinity: ClientIP`).
    pub client_affinity: bool,
}

/// The rules for all Services, from all slices. UDP and SCTP ports have no rule: the userspace applier carries TCP.
///
/// Backends are what [`ServiceEndpoints::addresses`] says.
pub fn rules(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node_addresses: &[IpAddr]) -> Ruleset {
    let endpoints = ServiceEndpoints::of(slices);
    let mut ruleset = Ruleset::default();
    for service in services {
        let (Some(namespace), Some(name), Some(spec)) =
            (service.metadata.namespace.as_deref(), service.metadata.name.as_deref(), service.spec.as_ref())
        else {
            continue;
        };
        let cluster_ips: Vec<IpAddr> = match &spec.cluster_ips {
            Some(ips) => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            None => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
        };
        for port in spec.ports.iter().flatten() {
            if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
                continue;
            }
            let frontend = Frontend {
                namespace: namespace.to_owned(),
                service: name.to_owned(),
                port_name: port.name.clone().unwrap_or_default(),
                backends: endpoints.addresses(namespace, name, port.name.as_deref().unwrap_or_default()),
                client_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            };
            let mut listen = |ip: &IpAddr, port: i32| {
                if let Ok(port) = u16::try_from(port) {
                    ruleset.frontends.entry(SocketAddr::new(*ip, port)).or_insert_with(|| frontend.clone());
                }
            };
            for ip in &cluster_ips {
                listen(ip, port.port);
            }
            if let Some(node_port) = port.node_port.filter(|p| *p > 0) {
                for ip in node_addresses {
                    listen(ip, node_port);
                }
            }
        }
    }
    ruleset
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn service(spec: Value) -> Arc<Service> {
        parse(json!({ "metadata": { "name": "web", "namespace": "a" }, "spec": spec }))
    }

    fn slice(endpoints: Value) -> Arc<EndpointSlice> {
        parse(json!({
            "metadata": { "name": "web-1", "namespace": "a", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }]
        }))
    }

    fn shown(ruleset: &Ruleset) -> Vec<String> {
        ruleset.frontends.iter().map(|(address, f)| format!("{address} -> {:?}", f.backends)).collect()
    }

    #[test]
    fn each_port_leads_to_the_ready_endpoints_of_that_name() {
        let services = [service(json!({ "clusterIP": "127.96.0.9", "ports": [
            { "name": "http", "port": 80 }, { "name": "admin", "port": 81 }, { "name": "dns", "port": 53, "protocol": "UDP" }] }))];
        let slices = [slice(json!([
            { "addresses": ["127.42.0.2"], "conditions": { "ready": true } },
            { "addresses": ["127.42.0.1"] },
            { "addresses": ["127.42.0.3"], "conditions": { "ready": false } }]))];
        assert_eq!(
            shown(&rules(&services, &slices, &[])),
            [
                "127.96.0.9:80 -> [127.42.0.1:8080, 127.42.0.2:8080]",
                "127.96.0.9:81 -> [127.42.0.1:9090, 127.42.0.2:9090]"
            ]
        );
    }

    #[test]
    fn terminating_endpoints_answer_only_when_no_other_does() {
        let services =
            [service(json!({ "clusterIP": "127.96.0.9", "ports": [{ "name": "http", "port": 80 }] }))];
        let leaving = json!({ "addresses": ["127.42.0.1"],
            "conditions": { "ready": false, "serving": true, "terminating": true } });
        let both = [slice(json!([leaving, { "addresses": ["127.42.0.2"] }]))];
        assert_eq!(shown(&rules(&services, &both, &[])), ["127.96.0.9:80 -> [127.42.0.2:8080]"]);
        let alone = [slice(json!([leaving]))];
        assert_eq!(shown(&rules(&services, &alone, &[])), ["127.96.0.9:80 -> [127.42.0.1:8080]"]);
    }

    #[test]
    fn node_ports_answer_on_the_nodes_addresses_and_headless_services_nowhere() {
        let node = ["127.0.0.1".parse().expect("an address")];
        let services = [service(json!({ "clusterIP": "None", "ports": [{ "name": "http", "port": 80 }] }))];
        assert!(rules(&services, &[slice(json!([]))], &node).frontends.is_empty());
        let services = [service(
            json!({ "clusterIP": "127.96.0.9", "type": "NodePort", "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }] }),
        )];
        assert_eq!(
            shown(&rules(&services, &[slice(json!([{ "addresses": ["127.42.0.1"] }]))], &node)),
            ["127.0.0.1:30080 -> [127.42.0.1:8080]", "127.96.0.9:80 -> [127.42.0.1:8080]"]
        );
    }
}
