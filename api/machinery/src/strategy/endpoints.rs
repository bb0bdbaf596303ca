//! Endpoints. Loopback addresses are allowed, unlike upstream: pods of a cluster without privileges live there.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{each, fill, int, list, text};
use crate::field::{Error, Path};
use crate::validation::dns_label;
use serde_json::Value;

pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Value) {
        for subset in each(obj, "/subsets") {
            for port in each(subset, "/ports") {
                fill(port, "protocol", "TCP");
            }
        }
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        for (i, subset) in list(obj, "/subsets").iter().enumerate() {
            let path = Path::new("subsets").index(i);
            let (ready, not_ready) = (list(subset, "/addresses"), list(subset, "/notReadyAddresses"));
            if ready.is_empty() && not_ready.is_empty() {
                let detail = "must specify `addresses` or `notReadyAddresses`";
                faults.push(Error::required(path.clone(), detail));
            }
            for (name, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (j, a) in addresses.iter().enumerate() {
                    let path = path.child(name).index(j);
                    check::ip(&mut faults, text(a, "/ip"), path.child("ip"));
                    if !text(a, "/hostname").is_empty() {
                        check::rule(&mut faults, text(a, "/hostname"), path.child("hostname"), dns_label);
                    }
                }
            }
            let ports = list(subset, "/ports");
            for (j, p) in ports.iter().enumerate() {
                let path = path.child("ports").index(j);
                if ports.len() > 1 {
                    check::required(&mut faults, p, &path, "name");
                }
                if !text(p, "/name").is_empty() {
                    check::rule(&mut faults, text(p, "/name"), path.child("name"), dns_label);
                }
                check::port(&mut faults, int(p, "/port"), path.child("port"));
                check::one_of(&mut faults, p, &path, "protocol", check::PROTOCOLS);
            }
        }
        faults
    }
    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_checked_and_loopback_is_one() {
        let mut e = json!({"subsets": [{"addresses": [{"ip": "127.42.0.3"}], "ports": [{"port": 80}]}]});
        Endpoints.default(&mut e);
        assert_eq!(e["subsets"][0]["ports"][0]["protocol"], "TCP");
        assert!(Endpoints.validate(&e).is_empty());
        let got = shown(&Endpoints.validate(&json!({"subsets": [{}, {"addresses": [{"ip": "x"}]}]})));
        assert_eq!(
            got,
            [
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[1].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ]
        );
    }
}
