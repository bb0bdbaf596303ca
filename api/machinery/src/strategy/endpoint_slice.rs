//! EndpointSlices. Loopback addresses are allowed, unlike upstream: pods of a cluster without privileges live there.
use super::Strategy;
use super::check::{self, Faults, Unique};
use super::view::{each, has, int, list, same, text};
use crate::field::{Error, Path};
use crate::validation::{dns_label, dns_subdomain};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) struct EndpointSlice;

/// Upstream's limits: a slice must stay small, that is what it is for.
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

impl Strategy for EndpointSlice {
    fn default(&self, obj: &mut Value) {
        for port in each(obj, "/ports") {
            if port["name"].is_null() {
                port["name"] = json!("");
            }
            super::view::fill(port, "protocol", "TCP");
        }
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        let kind = text(obj, "/addressType");
        check::one_of(&mut faults, obj, &Path::root(), "addressType", &["FQDN", "IPv4", "IPv6"]);
        let (endpoints, ports) = (list(obj, "/endpoints"), list(obj, "/ports"));
        if endpoints.len() > MAX_ENDPOINTS {
            faults.push(Error::too_many(Path::new("endpoints"), endpoints.len(), MAX_ENDPOINTS));
            return faults;
        }
        for (i, e) in endpoints.iter().enumerate() {
            endpoint(&mut faults, e, kind, &Path::new("endpoints").index(i));
        }
        if ports.len() > MAX_PORTS {
            faults.push(Error::too_many(Path::new("ports"), ports.len(), MAX_PORTS));
            return faults;
        }
        let mut names = Unique::default();
        for (i, p) in ports.iter().enumerate() {
            let path = Path::new("ports").index(i);
            let name = text(p, "/name");
            if !name.is_empty() {
                check::rule(&mut faults, name, path.child("name"), dns_label);
            }
            names.insert(&mut faults, name, path.child("name"));
            if has(p, "/port") {
                check::port(&mut faults, int(p, "/port"), path.child("port"));
            }
            check::one_of(&mut faults, p, &path, "protocol", check::PROTOCOLS);
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &new["addressType"], &old["addressType"], Path::new("addressType"));
        faults
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        ["addressType", "endpoints", "ports"].iter().any(|f| !same(&new[*f], &old[*f]))
    }
}

fn endpoint(faults: &mut Faults, e: &Value, kind: &str, path: &Path) {
    let addresses = list(e, "/addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        faults.push(Error::required(at, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        faults.push(Error::too_many(at, addresses.len(), MAX_ADDRESSES));
    } else {
        for (i, a) in addresses.iter().enumerate() {
            let (a, at) = (a.as_str().unwrap_or(""), at.index(i));
            match kind {
                "IPv4" if a.parse::<Ipv4Addr>().is_err() => {
                    faults.push(Error::invalid(at, a, "must be an IPv4 address"));
                }
                "IPv6" if a.parse::<Ipv6Addr>().is_err() => {
                    faults.push(Error::invalid(at, a, "must be an IPv6 address"));
                }
                "FQDN" => check::rule(faults, a, at, dns_subdomain),
                _ => {}
            }
        }
    }
    for (name, rule) in
        [("nodeName", dns_subdomain as fn(&str) -> Result<(), String>), ("hostname", dns_label)]
    {
        match text(e, &format!("/{name}")) {
            "" => {}
            value => check::rule(faults, value, path.child(name), rule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    #[test]
    fn slices_are_checked_bounded_and_keep_their_type() {
        let mut s = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.42.0.3"]}], "ports": [{"port": 80}]});
        EndpointSlice.default(&mut s);
        assert_eq!(s["ports"][0], json!({"port": 80, "name": "", "protocol": "TCP"}));
        assert!(EndpointSlice.validate(&s).is_empty());
        let mut bad = s.clone();
        bad["endpoints"] = json!([{"addresses": ["::1"]}, {"addresses": []}]);
        bad["ports"] = json!([{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "TCP"}]);
        assert_eq!(
            shown(&EndpointSlice.validate(&bad)),
            [
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"a\"",
            ]
        );
        bad["endpoints"] = Value::from(vec![json!({}); 1001]);
        assert_eq!(
            shown(&EndpointSlice.validate(&bad)),
            ["endpoints: Too many: 1001: must have at most 1000 items"]
        );
        let mut new = s.clone();
        new["addressType"] = json!("IPv6");
        assert_eq!(
            shown(&EndpointSlice.validate_update(&new, &s)),
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
        assert!(EndpointSlice.generation_changed(&new, &s) && !EndpointSlice.generation_changed(&s, &s));
    }
}
