//! Revisions (`dhow.dev/v1alpha1`): one unchangeable version of a Function.
use super::Strategy;
use super::check::{self, Faults, Unique};
use super::pod::{check_env, check_env_from, check_mounts, check_volumes, defaults};
use super::view::{fill, list, maybe_int, section};
use crate::field::{Error, Path};
use crate::validation::{dns_1035_label, dns_subdomain, wildcard_dns_subdomain};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) struct Revision;

/// The longest a request may be allowed to take: an hour, the node's own limit.
const MAX_TIMEOUT_SECONDS: i64 = 3600;
/// The most requests one pod may be allowed at a time: more than a node takes connections.
const MAX_CONCURRENCY: i64 = 100_000;
/// Names of places to connect to: they travel in an annotation, 256 KiB at most with all others.
const MAX_EGRESS: usize = 256;
/// Interfaces of a component: all of WASI are about fifty. They travel in an annotation too.
const MAX_IMPORTS: usize = 256;
const MAX_IMPORT_LEN: usize = 256;

impl Strategy for Revision {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = section(obj, "spec") {
            default_spec(spec);
        }
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        check_spec(&mut faults, &obj["spec"], &Path::new("spec"));
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &new["spec"], &old["spec"], Path::new("spec"));
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        check::replica_status(&new["status"], &["readyReplicas"])
    }
    /// A Service of the same name stands before it.
    fn validate_name(&self, name: &str) -> Result<(), String> {
        dns_1035_label(name)
    }
}

/// Defaults of the part that a Function and its Revisions share.
pub(super) fn default_spec(spec: &mut Value) {
    fill(spec, "port", 8080);
    defaults::env(spec, "/env");
}

/// Checks the part that a Function and its Revisions share.
pub(super) fn check_spec(faults: &mut Faults, spec: &Value, path: &Path) {
    check::required(faults, spec, path, "image");
    let image = spec["image"].as_str().unwrap_or("");
    if image != image.trim() {
        let detail = "must not have leading or trailing whitespace";
        faults.push(Error::invalid(path.child("image"), image, detail));
    }
    if let Some(port) = maybe_int(spec, "/port") {
        check::port(faults, port, path.child("port"));
    }
    for (name, max) in [("timeoutSeconds", MAX_TIMEOUT_SECONDS), ("concurrency", MAX_CONCURRENCY)] {
        if let Some(n) = spec[name].as_i64() {
            check::range(faults, n, path.child(name), 1, max);
        }
    }
    check_env(faults, list(spec, "/env"), &path.child("env"));
    check_env_from(faults, list(spec, "/envFrom"), &path.child("envFrom"));
    let volumes = check_volumes(faults, list(spec, "/volumes"), &path.child("volumes"));
    check_mounts(faults, spec, &volumes, &path.child("volumeMounts"));
    check::resources(faults, &spec["resources"], &path.child("resources"));
    for (i, secret) in list(spec, "/imagePullSecrets").iter().enumerate() {
        check::required(faults, secret, &path.child("imagePullSecrets").index(i), "name");
    }
    check_egress(faults, list(spec, "/egress"), &path.child("egress"));
    check_imports(faults, list(spec, "/imports"), &path.child("imports"));
    check_config(faults, spec, &path.child("config"));
    check_buckets(faults, list(spec, "/keyvalue"), &path.child("keyvalue"));
}

/// Configuration is read from what is mounted.
fn check_config(faults: &mut Faults, spec: &Value, path: &Path) {
    for (i, place) in list(spec, "/config").iter().enumerate() {
        if !list(spec, "/volumeMounts").iter().any(|m| m["mountPath"] == *place) {
            let detail = "must be the mountPath of one of `volumeMounts`";
            faults.push(Error::invalid(path.index(i), place.clone(), detail));
        }
    }
}

/// The list travels in an annotation, separated by commas.
fn check_buckets(faults: &mut Faults, buckets: &[Value], path: &Path) {
    let mut names = Unique::default();
    for (i, bucket) in buckets.iter().enumerate() {
        let (bucket, path) = (bucket.as_str().unwrap_or(""), path.index(i));
        let name = bucket.split('=').next().unwrap_or("");
        if name.trim().is_empty() || bucket.contains(',') {
            let detail = "must be NAME, NAME=redis://HOST:PORT or NAME=@FILE, without a comma";
            faults.push(Error::invalid(path.clone(), bucket, detail));
        }
        names.insert(faults, name, path);
    }
}

fn check_egress(faults: &mut Faults, places: &[Value], path: &Path) {
    if places.len() > MAX_EGRESS {
        faults.push(Error::too_many(path.clone(), places.len(), MAX_EGRESS));
    }
    for (i, place) in places.iter().enumerate() {
        let place = place.as_str().unwrap_or("");
        if !is_place(place) {
            let detail = "must be a host name, a name that begins with *. or an IP address, with a port or without \
                          (e.g. api.example.com:443, *.example.com, [fd00::1]:80)";
            faults.push(Error::invalid(path.index(i), place, detail));
        }
    }
}

/// The list travels in an annotation, separated by commas.
fn check_imports(faults: &mut Faults, imports: &[Value], path: &Path) {
    if imports.len() > MAX_IMPORTS {
        faults.push(Error::too_many(path.clone(), imports.len(), MAX_IMPORTS));
    }
    for (i, import) in imports.iter().enumerate() {
        let import = import.as_str().unwrap_or("");
        let is_name = import.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b',');
        if import.is_empty() || import.len() > MAX_IMPORT_LEN || !is_name {
            let detail = "must be the name of an interface, with its version (e.g. wasi:http/types@0.2.0)";
            faults.push(Error::invalid(path.index(i), import, detail));
        }
    }
}

/// `HOST` or `ADDRESS`, each with `:PORT` or without; an IPv6 address with a port stands in brackets.
fn is_place(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if port.is_some_and(|p| !p.parse::<u16>().is_ok_and(|n| n > 0)) {
        return false;
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().is_ok() || dns_subdomain(host).is_ok() || wildcard_dns_subdomain(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    #[test]
    fn what_a_revision_runs_cannot_change() {
        let mut old = json!({"metadata": {"name": "f-r1"}, "spec": {"image": "x:1"}});
        Revision.default(&mut old);
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(Revision.validate_update(&new, &old).is_empty());
        new["spec"]["image"] = json!("x:2");
        let got = shown(&Revision.validate_update(&new, &old));
        assert!(got.len() == 1 && got[0].starts_with("spec: Invalid value: "), "{got:?}");
        assert!(got[0].ends_with("field is immutable"), "{got:?}");
    }

    #[test]
    fn places_to_connect_to_are_names_and_addresses() {
        for good in [
            "api.example.com",
            "api.example.com:443",
            "*.example.com",
            "*.example.com:8443",
            "10.0.0.1",
            "10.0.0.1:80",
            "fd00::1",
            "[fd00::1]:80",
        ] {
            assert!(is_place(good), "{good}");
        }
        for bad in ["", "*", "http://x", "a_b", "x:0", "x:99999", "x:", "10.0.0.0/8", "a.*.b", ":443", "x/y"]
        {
            assert!(!is_place(bad), "{bad}");
        }
    }
}
