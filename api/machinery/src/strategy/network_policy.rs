//! NetworkPolicies: who may reach the pods of a namespace, and whom they may reach.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{each, fill, has, int, list, section, text};
use crate::field::{Error, Path};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) struct NetworkPolicy;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const TYPES: &[&str] = &["Ingress", "Egress"];

impl Strategy for NetworkPolicy {
    fn default(&self, obj: &mut Value) {
        for (direction, _) in DIRECTIONS {
            for rule in each(obj, &format!("/spec/{direction}")) {
                for port in each(rule, "/ports") {
                    fill(port, "protocol", "TCP");
                }
            }
        }
        let Some(spec) = section(obj, "spec") else { return };
        // All pods of the namespace.
        section(spec, "podSelector");
        if list(spec, "/policyTypes").is_empty() {
            // Rules for what comes in are meant even by a policy that has none; rules for what goes out must be there.
            let both = !list(spec, "/egress").is_empty();
            spec["policyTypes"] = if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        check::label_selector(&mut faults, &spec["podSelector"], &path.child("podSelector"));
        for (direction, peers) in DIRECTIONS {
            for (i, rule) in list(spec, &format!("/{direction}")).iter().enumerate() {
                let path = path.child(direction).index(i);
                for (j, port) in list(rule, "/ports").iter().enumerate() {
                    check_port(&mut faults, port, &path.child("ports").index(j));
                }
                for (j, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
                    check_peer(&mut faults, peer, &path.child(peers).index(j));
                }
            }
        }
        let types = list(spec, "/policyTypes");
        let path = path.child("policyTypes");
        if types.len() > TYPES.len() {
            let detail = "may not specify more than two policyTypes";
            faults.push(Error::invalid(path, spec["policyTypes"].clone(), detail));
            return faults;
        }
        for (i, kind) in types.iter().enumerate() {
            if !kind.as_str().is_some_and(|kind| TYPES.contains(&kind)) {
                faults.push(Error::not_supported(path.index(i), kind.clone(), TYPES));
            }
        }
        faults
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// A direction's rules, and what its peers are called.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn check_port(faults: &mut Faults, port: &Value, path: &Path) {
    check::maybe_one_of(faults, port, path, "protocol", PROTOCOLS);
    let (at, end_at) = (path.child("port"), path.child("endPort"));
    let end = has(port, "/endPort").then(|| int(port, "/endPort"));
    match &port["port"] {
        Value::Number(_) => {
            let first = int(port, "/port");
            check::port(faults, first, at);
            if let Some(end) = end {
                if end < first {
                    let detail = "must be greater than or equal to `port`";
                    faults.push(Error::invalid(end_at.clone(), first, detail));
                }
                check::port(faults, end, end_at);
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                faults.push(Error::invalid(end_at, end, "may not be specified when `port` is non-numeric"));
            }
            check::port_name(faults, name, at);
        }
        _ => {
            if let Some(end) = end {
                faults.push(Error::invalid(end_at, end, "may not be specified when `port` is not specified"));
            }
        }
    }
}

fn check_peer(faults: &mut Faults, peer: &Value, path: &Path) {
    let mut selectors = 0;
    for name in ["podSelector", "namespaceSelector"] {
        if has(peer, &format!("/{name}")) {
            selectors += 1;
            check::label_selector(faults, &peer[name], &path.child(name));
        }
    }
    let block = has(peer, "/ipBlock");
    if block {
        check_block(faults, &peer["ipBlock"], &path.child("ipBlock"));
    }
    match (selectors, block) {
        (0, false) => faults.push(Error::required(path.clone(), "must specify a peer")),
        (1.., true) => {
            faults.push(Error::forbidden(path.clone(), "may not specify both ipBlock and another peer"))
        }
        _ => {}
    }
}

fn check_block(faults: &mut Faults, block: &Value, path: &Path) {
    let cidr = text(block, "/cidr");
    if cidr.is_empty() {
        faults.push(Error::required(path.child("cidr"), ""));
        return;
    }
    let Some((address, bits)) = check_cidr(faults, cidr, path.child("cidr")) else { return };
    for (i, except) in list(block, "/except").iter().enumerate() {
        let at = path.child("except").index(i);
        let except = except.as_str().unwrap_or("");
        if let Some((inner, inner_bits)) = check_cidr(faults, except, at.clone())
            && !(inner_bits > bits && same_network(address, inner, bits))
        {
            faults.push(Error::invalid(at, except, "must be a strict subset of `cidr`"));
        }
    }
}

fn check_cidr(faults: &mut Faults, cidr: &str, path: Path) -> Option<(IpAddr, u8)> {
    let parsed = parse_cidr(cidr);
    if parsed.is_none() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        faults.push(Error::invalid(path, cidr, detail));
    }
    parsed
}

fn parse_cidr(cidr: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = cidr.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// Whether two addresses agree in their first `bits`.
fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    bits == 0 || (a ^ b) >> (width - u32::from(bits)) == 0
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    #[test]
    fn defaults_are_tcp_and_the_types_the_rules_speak_of() {
        let mut policy = json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(policy["spec"]["ingress"][0]["ports"][0], json!({"port": 80, "protocol": "TCP"}));
        let once = policy.clone();
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy, once);
        let mut policy = json!({"spec": {"egress": [{}]}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["podSelector"], json!({}));
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        let mut policy = json!({"spec": {"podSelector": {}, "policyTypes": ["Egress"], "ingress": []}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Egress"]));
    }

    fn faults(spec: Value) -> Vec<String> {
        shown(&NetworkPolicy.validate(&json!({ "spec": spec })))
    }

    #[test]
    fn a_policy_that_uses_everything_is_valid() {
        let all = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}, {"from": [{"podSelector": {}}, {"namespaceSelector": {}, "podSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.255.255.255/32"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}],
              "ports": [{}, {"port": "http"}, {"port": 80, "endPort": 90, "protocol": "UDP"}]}],
            "egress": [{"to": [{"podSelector": {}}]}]});
        assert_eq!(faults(all), Vec::<String>::new());
    }

    #[test]
    fn faults_are_told_in_upstreams_words() {
        assert_eq!(
            faults(json!({"podSelector": {}, "policyTypes": ["Ingress", "Outgress"], "ingress": [{
                "ports": [{"port": 0}, {"port": 90, "endPort": 80}, {"port": "http", "endPort": 80},
                    {"endPort": 80}, {"port": 1, "protocol": "ICMP"}],
                "from": [{}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": ""}},
                    {"ipBlock": {"cidr": "10.0.0.0"}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "x"]}}]
            }]})),
            [
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ingress[0].ports[1].endPort: Invalid value: 90: must be greater than or equal to `port`",
                "spec.ingress[0].ports[2].endPort: Invalid value: 80: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[3].endPort: Invalid value: 80: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[4].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
                "spec.ingress[0].from[2].ipBlock.cidr: Required value",
                "spec.ingress[0].from[3].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, \
                 (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.ingress[0].from[4].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[4].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[4].ipBlock.except[2]: Invalid value: \"x\": must be a valid CIDR value, \
                 (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.policyTypes[1]: Unsupported value: \"Outgress\": supported values: \"Ingress\", \"Egress\"",
            ]
        );
        assert_eq!(
            faults(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"]})),
            [
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes"
            ]
        );
    }
}
