//! Services. Addresses and node ports are given out by the API server ([`super::allocation`]).
use super::Strategy;
use super::check::{self, Faults, Unique};
use super::view::{drop_field, each, fill, has, int, keep, list, section, text};
use crate::field::{Error, Path};
use crate::validation::{dns_1035_label, dns_label, dns_subdomain};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) struct Service;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// How long a client keeps to one endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10800;
/// A day.
const MAX_AFFINITY_SECONDS: i64 = 86400;

/// Whether a service has an address of the cluster's (or `None`).
pub(super) fn needs_cluster_ip(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName"
}
pub(super) fn needs_node_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

impl Strategy for Service {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        fill(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            drop_field(spec, "sessionAffinityConfig");
        } else if spec["sessionAffinity"] == "ClientIP"
            && let Some(client) = section(spec, "sessionAffinityConfig").and_then(|c| section(c, "clientIP"))
        {
            fill(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        fill(spec, "type", "ClusterIP");
        for port in each(spec, "/ports") {
            fill(port, "protocol", "TCP");
            if matches!(&port["targetPort"], Value::Null)
                || port["targetPort"] == 0
                || port["targetPort"] == ""
            {
                port["targetPort"] = port["port"].clone();
            }
        }
        let kind = text(spec, "/type").to_owned();
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            fill(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
        if kind != "ExternalName" {
            fill(spec, "internalTrafficPolicy", "Cluster");
            // One family: addresses of pods and services are IPv4.
            fill(spec, "ipFamilyPolicy", "SingleStack");
            if list(spec, "/ipFamilies").is_empty() {
                spec["ipFamilies"] = json!(["IPv4"]);
            }
            match (text(spec, "/clusterIP"), text(spec, "/clusterIPs/0")) {
                ("", "") => {}
                ("", first) => spec["clusterIP"] = json!(first),
                (ip, "") => spec["clusterIPs"] = json!([ip]),
                _ => {}
            }
        }
    }

    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({ "loadBalancer": {} });
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        drop_what_the_type_has_not(new, old);
        keep_allocated(new, old);
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        validate(&mut faults, &obj["spec"], &Path::new("spec"));
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        let was = text(old, "/spec/clusterIP");
        if needs_cluster_ip(new)
            && needs_cluster_ip(old)
            && !was.is_empty()
            && was != text(new, "/spec/clusterIP")
        {
            let path = Path::new("spec").child("clusterIPs").index(0);
            faults.push(Error::invalid(path, new["spec"]["clusterIPs"].clone(), "may not change once set"));
        }
        faults
    }
    fn validate_name(&self, name: &str) -> Result<(), String> {
        dns_1035_label(name)
    }
}

/// A new type may have no use for fields that are only left over from the old one.
fn drop_what_the_type_has_not(new: &mut Value, old: &Value) {
    let unchanged = |new: &Value, name: &str| new["spec"][name] == old["spec"][name];
    let mut gone = Vec::new();
    if !needs_cluster_ip(new) && needs_cluster_ip(old) && unchanged(new, "clusterIP") {
        gone.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    let external = |s: &Value| matches!(text(s, "/spec/type"), "NodePort" | "LoadBalancer");
    if !external(new) && external(old) && unchanged(new, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    if text(new, "/spec/type") != "LoadBalancer" && text(old, "/spec/type") == "LoadBalancer" {
        gone.extend(["allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass"]);
    }
    let had_ports: BTreeSet<i64> = list(old, "/spec/ports").iter().map(|p| int(p, "/nodePort")).collect();
    if !external(new) && external(old) {
        for port in each(new, "/spec/ports") {
            if had_ports.contains(&int(port, "/nodePort")) {
                drop_field(port, "nodePort");
            }
        }
    }
    for name in gone {
        drop_field(&mut new["spec"], name);
    }
}

/// A client that does not know what was given out to the service does not give it back by leaving it out.
fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(new) && needs_cluster_ip(old) && text(new, "/spec/clusterIP").is_empty() {
        for name in ["clusterIP", "clusterIPs"] {
            keep(&mut new["spec"], &old["spec"], name);
        }
    }
    if !needs_node_ports(new) || !needs_node_ports(old) {
        return;
    }
    let id = |p: &Value| (int(p, "/port"), text(p, "/protocol").to_owned());
    let had: BTreeMap<_, _> = list(old, "/spec/ports").iter().map(|p| (id(p), int(p, "/nodePort"))).collect();
    let mut used: BTreeSet<i64> = list(new, "/spec/ports").iter().map(|p| int(p, "/nodePort")).collect();
    for port in each(new, "/spec/ports") {
        if int(port, "/nodePort") != 0 {
            continue;
        }
        if let Some(n) = had.get(&id(port)).copied().filter(|n| *n != 0)
            && used.insert(n)
        {
            port["nodePort"] = json!(n);
        }
    }
}

fn validate(faults: &mut Faults, spec: &Value, path: &Path) {
    let kind = text(spec, "/type");
    let ip = text(spec, "/clusterIP");
    let headless = ip == "None";
    let ports = list(spec, "/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(Error::required(path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            faults.push(Error::invalid(path.child("clusterIPs").index(0), ip, &detail));
        }
        "ExternalName" => {
            if !ip.is_empty() {
                let detail = "may not be set for ExternalName services";
                faults.push(Error::forbidden(path.child("clusterIPs").index(0), detail));
            }
            match text(spec, "/externalName").trim_end_matches('.') {
                "" => faults.push(Error::required(path.child("externalName"), "")),
                name => check::rule(faults, name, path.child("externalName"), dns_subdomain),
            }
        }
        _ => {}
    }
    check::one_of(faults, spec, path, "type", TYPES);
    self::ports(faults, spec, path);
    check::labels(faults, spec, path, "selector");
    affinity(faults, spec, path);
    if !ip.is_empty() && !headless && ip.parse::<IpAddr>().is_err() {
        let detail = "must be empty, 'None', or a valid IP address";
        faults.push(Error::invalid(path.child("clusterIPs").index(0), ip, detail));
    }
    if list(spec, "/clusterIPs").len() > 1 {
        let detail = "may only hold up to 1 values: this cluster has addresses of one family";
        faults.push(Error::invalid(path.child("clusterIPs"), spec["clusterIPs"].clone(), detail));
    }
    for (i, external) in list(spec, "/externalIPs").iter().enumerate() {
        check::ip(faults, external.as_str().unwrap_or(""), path.child("externalIPs").index(i));
    }
    let external = matches!(kind, "NodePort" | "LoadBalancer");
    if !external && has(spec, "/externalTrafficPolicy") {
        let value = text(spec, "/externalTrafficPolicy");
        let detail = "may only be set for externally-accessible services";
        faults.push(Error::invalid(path.child("externalTrafficPolicy"), value, detail));
    }
    check::maybe_one_of(faults, spec, path, "externalTrafficPolicy", &["Cluster", "Local"]);
    check::maybe_one_of(faults, spec, path, "internalTrafficPolicy", &["Cluster", "Local"]);
    check::not_negative(faults, spec, path, "healthCheckNodePort");
}

fn ports(faults: &mut Faults, spec: &Value, path: &Path) {
    let ports = list(spec, "/ports");
    let (mut names, mut numbers, mut node_ports) = (Unique::default(), BTreeSet::new(), BTreeSet::new());
    for (i, p) in ports.iter().enumerate() {
        let at = path.child("ports").index(i);
        match text(p, "/name") {
            "" if ports.len() > 1 => faults.push(Error::required(at.child("name"), "")),
            "" => {}
            name => {
                check::rule(faults, name, at.child("name"), dns_label);
                names.insert(faults, name, at.child("name"));
            }
        }
        check::port(faults, int(p, "/port"), at.child("port"));
        check::one_of(faults, p, &at, "protocol", check::PROTOCOLS);
        check::port_or_name(faults, &p["targetPort"], at.child("targetPort"));
        if !numbers.insert((text(p, "/protocol"), int(p, "/port"))) {
            let key = json!({ "protocol": p["protocol"], "port": p["port"] });
            faults.push(Error::duplicate(at.clone(), key));
        }
        let node_port = int(p, "/nodePort");
        if node_port != 0 {
            if text(spec, "/type") == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                faults.push(Error::forbidden(at.child("nodePort"), detail));
            }
            if !node_ports.insert((text(p, "/protocol"), node_port)) {
                faults.push(Error::duplicate(at.child("nodePort"), node_port));
            }
        }
    }
}

fn affinity(faults: &mut Faults, spec: &Value, path: &Path) {
    check::one_of(faults, spec, path, "sessionAffinity", &["ClientIP", "None"]);
    if text(spec, "/sessionAffinity") == "ClientIP" {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        let seconds = int(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds");
        if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
            let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
            faults.push(Error::invalid(at, seconds, &detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    fn service(spec: Value) -> Value {
        let mut s = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec});
        Service.default(&mut s);
        s
    }
    fn faults(spec: Value) -> Vec<String> {
        shown(&Service.validate(&service(spec)))
    }

    #[test]
    fn the_smallest_service_gets_upstreams_defaults_once() {
        let s = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(
            s["spec"],
            json!({
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
        );
        let mut again = s.clone();
        Service.default(&mut again);
        assert_eq!(again, s);
        assert!(Service.validate(&s).is_empty());
        let lb =
            service(json!({"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}));
        assert_eq!(lb["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(lb["spec"]["allocateLoadBalancerNodePorts"], true);
        assert_eq!(lb["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    }

    #[test]
    fn faults_are_worded_as_upstream() {
        for (spec, want) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"type": "Foo", "ports": [{"port": 80}]}),
                "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (json!({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}), "spec.ports[0].name: Required value"),
            (
                json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
            ),
            (
                json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"clusterIP": "x", "ports": [{"port": 1}]}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be empty, 'None', or a valid IP address",
            ),
            (
                json!({"selector": {"a": "b c"}, "ports": [{"port": 1}]}),
                "spec.selector: Invalid value: \"b c\": a valid label must",
            ),
        ] {
            let got = faults(spec.clone());
            assert!(got.iter().any(|f| f.starts_with(want)), "{spec}: wanted {want}, got {got:?}");
        }
        assert!(faults(json!({"clusterIP": "None"})).is_empty());
        assert!(Service.validate_name("1a").is_err());
    }

    #[test]
    fn what_was_given_out_survives_an_update_that_does_not_know_it() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        let mut new =
            service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "name": "b"}]}));
        Service.prepare_for_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
        new["spec"]["clusterIP"] = json!("10.0.0.2");
        let got = shown(&Service.validate_update(&new, &old));
        assert_eq!(got, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.1\"]: may not change once set"]);
    }

    #[test]
    fn a_change_of_type_drops_what_the_new_type_has_not() {
        let old = service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        Service.prepare_for_update(&mut new, &old);
        assert!(Service.validate(&new).is_empty(), "{:?}", shown(&Service.validate(&new)));
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["externalName"] = json!("example.org");
        let before = old.clone();
        Service.prepare_for_update(&mut new, &before);
        assert!(new["spec"].get("clusterIP").is_none());
        assert!(Service.validate(&new).is_empty(), "{:?}", shown(&Service.validate(&new)));
    }
}
