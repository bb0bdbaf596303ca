//! Services, Endpoints and EndpointSlices.
use super::{AGE, NAME, first_three, or, or_none, shown, shown_selector, wide};
use crate::selector::LabelSelector;
use crate::strategy::view::{int, list, text};
use crate::table::Column;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(in crate::strategy) static SERVICE: &[Column] = &[
    NAME,
    shown("Type", "string", "How the service is reached.", |o, _| json!(text(o, "/spec/type"))),
    shown("Cluster-IP", "string", "The service's address inside the cluster.", |o, _| {
        json!(or_none(match text(o, "/spec/clusterIPs/0") {
            "" => text(o, "/spec/clusterIP"),
            ip => ip,
        }))
    }),
    shown("External-IP", "string", "Addresses outside the cluster.", |o, _| json!(external_ip(o))),
    shown("Port(s)", "string", "Ports, node ports and protocols.", |o, _| json!(or_none(&service_ports(o)))),
    AGE,
    wide("Selector", "string", "Which pods the service leads to.", |o, _| {
        json!(or_none(&LabelSelector::from_map(&o["spec"]["selector"]).to_string()))
    }),
];

pub(in crate::strategy) static ENDPOINTS: &[Column] = &[
    NAME,
    shown("Endpoints", "string", "Addresses and ports behind the service.", |o, _| json!(endpoints(o))),
    AGE,
];

pub(in crate::strategy) static ENDPOINT_SLICE: &[Column] = &[
    NAME,
    shown("AddressType", "string", "What kind of addresses the slice holds.", |o, _| {
        json!(text(o, "/addressType"))
    }),
    shown("Ports", "string", "The ports of every endpoint.", |o, _| json!(slice_ports(o))),
    shown("Endpoints", "string", "The endpoints' addresses.", |o, _| {
        let addresses: Vec<String> = list(o, "/endpoints")
            .iter()
            .flat_map(|e| list(e, "/addresses"))
            .map(|a| a.as_str().unwrap_or("").to_owned())
            .collect();
        json!(first_three(&addresses, "<unset>"))
    }),
    AGE,
];

pub(in crate::strategy) static NETWORK_POLICY: &[Column] = &[
    NAME,
    shown("Pod-Selector", "string", "The pods the policy is for.", |o, _| {
        shown_selector(&o["spec"]["podSelector"])
    }),
    AGE,
];

fn external_ip(service: &Value) -> String {
    let mut given: Vec<String> =
        list(service, "/spec/externalIPs").iter().map(|v| v.as_str().unwrap_or("").to_owned()).collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or_none(&given.join(",")).to_owned(),
        "LoadBalancer" => {
            let balancers: BTreeSet<&str> = list(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|i| or(text(i, "/ip"), text(i, "/hostname")))
                .filter(|s| !s.is_empty())
                .collect();
            let mut all: Vec<String> = balancers.into_iter().map(str::to_owned).collect();
            all.append(&mut given);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(service: &Value) -> String {
    let port = |p: &Value| {
        let (port, protocol) = (int(p, "/port"), text(p, "/protocol"));
        match int(p, "/nodePort") {
            0 => format!("{port}/{protocol}"),
            node_port => format!("{port}:{node_port}/{protocol}"),
        }
    };
    list(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",")
}

/// An address with a port; IPv6 in brackets.
fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn endpoints(o: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(o, "/subsets") {
        let ips = || list(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        match list(subset, "/ports") {
            [] => all.extend(ips().map(str::to_owned)),
            ports => {
                for port in ports {
                    all.extend(ips().map(|ip| host_port(ip, int(port, "/port"))));
                }
            }
        }
    }
    let none = if list(o, "/subsets").is_empty() { "<none>" } else { "" };
    first_three(&all, none)
}

fn slice_ports(slice: &Value) -> String {
    let port = |p: &Value| match (p["port"].as_i64(), p["name"].as_str()) {
        (Some(port), _) => port.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    };
    first_three(&list(slice, "/ports").iter().map(port).collect::<Vec<_>>(), "<unset>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn a_service_shows_addresses_ports_and_selector() {
        let mut s = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "clusterIP": "10.0.0.1",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}],
            "selector": {"app": "web"}}});
        assert_eq!(cell(SERVICE, "Cluster-IP", &s, NOW), "10.0.0.1");
        assert_eq!(cell(SERVICE, "External-IP", &s, NOW), "<none>");
        assert_eq!(cell(SERVICE, "Port(s)", &s, NOW), "80:30080/TCP,53/UDP");
        assert_eq!(cell(SERVICE, "Selector", &s, NOW), "app=web");
        s["spec"] = json!({"type": "LoadBalancer"});
        assert_eq!(cell(SERVICE, "External-IP", &s, NOW), "<pending>");
        assert_eq!(cell(SERVICE, "Port(s)", &s, NOW), "<none>");
        assert_eq!(cell(SERVICE, "Selector", &s, NOW), "<none>");
        s["spec"] = json!({"type": "ExternalName", "externalName": "example.org"});
        assert_eq!(cell(SERVICE, "External-IP", &s, NOW), "example.org");
    }

    #[test]
    fn a_network_policy_shows_which_pods_it_is_for() {
        let mut policy = json!({"spec": {"podSelector": {"matchLabels": {"app": "db"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}}});
        assert_eq!(cell(NETWORK_POLICY, "Pod-Selector", &policy, NOW), "app=db,tier in (a,b)");
        policy["spec"] = json!({"podSelector": {}});
        assert_eq!(cell(NETWORK_POLICY, "Pod-Selector", &policy, NOW), "<none>");
    }

    #[test]
    fn endpoints_are_shown_with_ports_and_the_fourth_is_only_counted() {
        let e = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(cell(ENDPOINTS, "Endpoints", &e, NOW), "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...");
        assert_eq!(cell(ENDPOINTS, "Endpoints", &json!({}), NOW), "<none>");
        let s = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
        assert_eq!(cell(ENDPOINT_SLICE, "Ports", &s, NOW), "80,x,*");
        assert_eq!(cell(ENDPOINT_SLICE, "Endpoints", &s, NOW), "10.0.0.1,10.0.0.2");
        assert_eq!(cell(ENDPOINT_SLICE, "Endpoints", &json!({}), NOW), "<unset>");
    }
}
