//! Ingresses: hosts and paths that lead to Services.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{has, keep, keep_all_but_status, list, maybe_int, same, text};
use crate::field::{Error, Path};
use crate::validation::{dns_1035_label, dns_subdomain};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) struct Ingress;

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// What programs along the way read differently.
const IN_NO_PATH: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const AT_NO_END: &[&str] = &["/..", "/."];

impl Strategy for Ingress {
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({ "loadBalancer": {} });
    }
    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        keep(new, old, "status");
    }
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, spec, path) = (Faults::new(), &obj["spec"], Path::new("spec"));
        let rules = list(spec, "/rules");
        if rules.is_empty() && !has(spec, "/defaultBackend") {
            let detail = "either `defaultBackend` or `rules` must be specified";
            faults.push(Error::invalid(path.clone(), spec["rules"].clone(), detail));
        }
        if has(spec, "/defaultBackend") {
            backend(&mut faults, &spec["defaultBackend"], &path.child("defaultBackend"));
        }
        for (i, rule) in rules.iter().enumerate() {
            let path = path.child("rules").index(i);
            host(&mut faults, text(rule, "/host"), path.child("host"));
            if has(rule, "/http") {
                paths(&mut faults, list(rule, "/http/paths"), &path.child("http").child("paths"));
            }
        }
        for (i, entry) in list(spec, "/tls").iter().enumerate() {
            let path = path.child("tls").index(i);
            for (j, name) in list(entry, "/hosts").iter().enumerate() {
                host(&mut faults, name.as_str().unwrap_or(""), path.child("hosts").index(j));
            }
            match text(entry, "/secretName") {
                "" => {}
                secret => check::rule(&mut faults, secret, path.child("secretName"), dns_subdomain),
            }
        }
        let class = text(spec, "/ingressClassName");
        if has(spec, "/ingressClassName") {
            check::rule(&mut faults, class, path.child("ingressClassName"), dns_subdomain);
        }
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        for (i, point) in list(new, "/status/loadBalancer/ingress").iter().enumerate() {
            let (path, ip, name) = (path.index(i), text(point, "/ip"), text(point, "/hostname"));
            if !ip.is_empty() {
                check::ip(&mut faults, ip, path.child("ip"));
            }
            if !name.is_empty() {
                check::rule(&mut faults, name, path.child("hostname"), dns_subdomain);
                if name.parse::<IpAddr>().is_ok() {
                    let detail = "must be a DNS name, not an IP address";
                    faults.push(Error::invalid(path.child("hostname"), name, detail));
                }
            }
        }
        faults
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
    }
}

/// A host, perhaps with `*` for its first label; empty is every host.
fn host(faults: &mut Faults, host: &str, path: Path) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        faults.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
        return;
    }
    if !host.contains('*') {
        check::rule(faults, host, path, dns_subdomain);
    } else if host.strip_prefix("*.").is_none_or(|rest| dns_subdomain(rest).is_err()) {
        let detail = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
                      must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
                      character (e.g. '*.example.com', regex used for validation is \
                      '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        faults.push(Error::invalid(path, host, detail));
    }
}

fn paths(faults: &mut Faults, paths: &[Value], path: &Path) {
    if paths.is_empty() {
        faults.push(Error::required(path.clone(), ""));
    }
    for (i, p) in paths.iter().enumerate() {
        let (path, value) = (path.index(i), text(p, "/path"));
        let at = path.child("path");
        match text(p, "/pathType") {
            "Exact" | "Prefix" => {
                if !value.starts_with('/') {
                    faults.push(Error::invalid(at.clone(), value, "must be an absolute path"));
                }
                for bad in IN_NO_PATH.iter().filter(|bad| value.contains(*bad)) {
                    faults.push(Error::invalid(at.clone(), value, &format!("must not contain '{bad}'")));
                }
                for bad in AT_NO_END.iter().filter(|bad| value.ends_with(*bad)) {
                    faults.push(Error::invalid(at.clone(), value, &format!("cannot end with '{bad}'")));
                }
            }
            "ImplementationSpecific" => {
                if !value.is_empty() && !value.starts_with('/') {
                    faults.push(Error::invalid(at, value, "must be an absolute path"));
                }
            }
            "" => faults.push(Error::required(path.child("pathType"), "pathType must be specified")),
            other => faults.push(Error::not_supported(path.child("pathType"), other, PATH_TYPES)),
        }
        backend(faults, &p["backend"], &path.child("backend"));
    }
}

fn backend(faults: &mut Faults, backend: &Value, path: &Path) {
    match (has(backend, "/service"), has(backend, "/resource")) {
        (true, true) => {
            faults.push(Error::invalid(path.clone(), "", "cannot set both resource and service backends"));
        }
        (false, false) => {
            faults.push(Error::invalid(path.clone(), "", "resource or service backend is required"));
        }
        (false, true) => {
            let path = path.child("resource");
            for field in ["kind", "name"] {
                check::required(faults, &backend["resource"], &path, field);
            }
        }
        (true, false) => {
            let (service, path) = (&backend["service"], path.child("service"));
            match text(service, "/name") {
                "" => faults.push(Error::required(path.child("name"), "")),
                name => check::rule(faults, name, path.child("name"), dns_1035_label),
            }
            let port = path.child("port");
            match (text(service, "/port/name"), maybe_int(service, "/port/number").unwrap_or(0)) {
                ("", 0) => {
                    faults.push(Error::required(path, "port name or number is required"));
                }
                ("", number) => check::port(faults, number, port.child("number")),
                (name, 0) => check::port_name(faults, name, port.child("name")),
                _ => faults.push(Error::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        let obj = json!({ "metadata": { "name": "i", "namespace": "n" }, "spec": spec });
        shown(&Ingress.validate(&obj))
    }

    fn to(name: &str, port: Value) -> Value {
        json!({ "service": { "name": name, "port": port } })
    }

    #[test]
    fn what_kubectl_create_ingress_makes_is_valid() {
        let path = |path: &str, kind: &str| json!({ "path": path, "pathType": kind, "backend": to("web", json!({ "number": 80 })) });
        let rules = json!([
            { "host": "foo.example", "http": { "paths": [path("/", "Prefix"), path("/x", "Exact")] } },
            { "host": "*.foo.example", "http": { "paths": [path("/", "Prefix")] } },
            { "http": { "paths": [path("", "ImplementationSpecific")] } },
        ]);
        let tls = json!([{ "hosts": ["foo.example", "*.foo.example"], "secretName": "s" }, {}]);
        assert_eq!(faults(json!({ "rules": rules, "tls": tls, "ingressClassName": "dhow" })), [""; 0]);
        assert_eq!(faults(json!({ "defaultBackend": to("web", json!({ "name": "http" })) })), [""; 0]);
    }

    #[test]
    fn faults_are_named_as_upstream_names_them() {
        let path = |path: &str, kind: &str| json!({ "path": path, "pathType": kind, "backend": to("web", json!({ "number": 80 })) });
        let rules = json!([
            { "host": "1.2.3.4", "http": { "paths": [path("x", "Prefix"), path("/a//b", "Exact"), path("/", "Glob"), path("/", "")] } },
            { "host": "*", "http": { "paths": [] } },
        ]);
        let got = faults(json!({ "rules": rules, "tls": [{ "hosts": ["a_b"], "secretName": "A" }] }));
        for wanted in [
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[1].path: Invalid value: \"/a//b\": must not contain '//'",
            "spec.rules[0].http.paths[2].pathType: Unsupported value: \"Glob\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            "spec.rules[0].http.paths[3].pathType: Required value: pathType must be specified",
            "spec.rules[1].http.paths: Required value",
        ] {
            assert!(got.iter().any(|f| f == wanted), "{wanted}\n{got:#?}");
        }
        assert_eq!(got.len(), 9, "{got:#?}");
        assert_eq!(
            faults(json!({})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
    }

    #[test]
    fn a_backend_is_a_service_with_one_port_or_a_resource() {
        let of = |backend: Value| faults(json!({ "defaultBackend": backend }));
        let resource = json!({ "kind": "Bucket", "name": "b" });
        assert_eq!(of(json!({ "resource": resource })), [""; 0]);
        for (backend, fault) in [
            (json!({}), "spec.defaultBackend: Invalid value: \"\": resource or service backend is required"),
            (to("", json!({ "number": 80 })), "spec.defaultBackend.service.name: Required value"),
            (
                to("a", json!({})),
                "spec.defaultBackend.service: Required value: port name or number is required",
            ),
            (
                to("a", json!({ "number": 80, "name": "http" })),
                "spec.defaultBackend.service: Invalid value: \"\": cannot set both port name & port number",
            ),
            (
                to("a", json!({ "number": 70000 })),
                "spec.defaultBackend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
        ] {
            assert_eq!(of(backend), [fault]);
        }
    }

    #[test]
    fn status_is_the_controllers_and_the_schema_knows_every_field() {
        let mut obj = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": "i" },
            "spec": { "rules": [{ "host": "a", "http": { "paths": [{ "path": "/", "pathType": "Prefix",
                "backend": to("web", json!({ "number": 80 })) }] } }], "tls": [{ "hosts": ["a"], "secretName": "s" }] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "127.0.0.1", "ports": [{ "port": 80, "protocol": "TCP" }] }] } } });
        let row = crate::resource::lookup("networking.k8s.io", "v1", "ingresses").expect("a row");
        let schema = crate::schema::definition(row.schema).expect("a schema");
        assert_eq!(crate::schema::decode(schema, &mut obj), Ok(vec![]));
        assert_eq!(shown(&Ingress.validate_status_update(&obj, &obj)), [""; 0]);
        Ingress.prepare_for_create(&mut obj);
        assert_eq!(obj["status"], json!({ "loadBalancer": {} }));
        let bad = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "x" }, { "hostname": "1.2.3.4" }] } } });
        assert_eq!(Ingress.validate_status_update(&bad, &bad).len(), 2);
    }
}
