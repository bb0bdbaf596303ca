//! Validation of a PodSpec as a whole, and of pods and templates that hold one.
use super::{containers, scheduling, volumes};
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults, Unique};
use crate::strategy::view::{flag, has, list, maybe_int, text};
use crate::validation::{dns_label, dns_subdomain};
use serde_json::Value;

const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// A whole pod.
pub(super) fn pod(pod: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    pod_spec(&mut faults, &pod["spec"], &path);
    for (name, pointer) in [("containers", "/spec/containers"), ("initContainers", "/spec/initContainers")] {
        for (i, c) in list(pod, pointer).iter().enumerate() {
            containers::image_has_no_spaces(&mut faults, c, &path.child(name).index(i));
        }
    }
    faults
}

/// A template, at `path`: its labels, annotations and spec.
pub(in crate::strategy) fn template(faults: &mut Faults, template: &Value, path: &Path) {
    check::labels(faults, &template["metadata"], &path.child("metadata"), "labels");
    pod_spec(faults, &template["spec"], &path.child("spec"));
}

/// A PodSpec at `path`.
fn pod_spec(faults: &mut Faults, spec: &Value, path: &Path) {
    let volumes = volumes::volumes(faults, list(spec, "/volumes"), &path.child("volumes"));
    containers::all(faults, spec, &volumes, path);
    check::one_of(faults, spec, path, "restartPolicy", RESTART_POLICIES);
    check::one_of(faults, spec, path, "dnsPolicy", DNS_POLICIES);
    check::labels(faults, spec, path, "nodeSelector");
    scheduling::affinity(faults, &spec["affinity"], &path.child("affinity"));
    scheduling::tolerations(faults, list(spec, "/tolerations"), &path.child("tolerations"));
    scheduling::spread(
        faults,
        list(spec, "/topologySpreadConstraints"),
        &path.child("topologySpreadConstraints"),
    );
    dns_config(faults, spec, path);
    for name in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        match text(spec, &format!("/{name}")) {
            "" => {}
            value => check::rule(faults, value, path.child(name), dns_subdomain),
        }
    }
    for name in ["hostname", "subdomain"] {
        match text(spec, &format!("/{name}")) {
            "" => {}
            value => check::rule(faults, value, path.child(name), dns_label),
        }
    }
    if let Some(n) = maybe_int(spec, "/activeDeadlineSeconds") {
        check::range(faults, n, path.child("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    }
    check::not_negative(faults, spec, path, "terminationGracePeriodSeconds");
    for (i, secret) in list(spec, "/imagePullSecrets").iter().enumerate() {
        check::required(faults, secret, &path.child("imagePullSecrets").index(i), "name");
    }
    for (i, alias) in list(spec, "/hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        check::ip(faults, text(alias, "/ip"), path.child("ip"));
        for name in list(alias, "/hostnames") {
            check::rule(faults, name.as_str().unwrap_or(""), path.child("hostnames"), dns_subdomain);
        }
    }
    let mut gates = Unique::default();
    for (i, gate) in list(spec, "/schedulingGates").iter().enumerate() {
        let path = path.child("schedulingGates").index(i);
        check::key(faults, text(gate, "/name"), path.clone());
        gates.insert(faults, text(gate, "/name"), path);
    }
    for (i, gate) in list(spec, "/readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        check::key(faults, text(gate, "/conditionType"), path);
    }
    if flag(spec, "/shareProcessNamespace") && flag(spec, "/hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.push(Error::invalid(path.child("shareProcessNamespace"), true, detail));
    }
    for (name, quantity) in spec["overhead"].as_object().into_iter().flatten() {
        check::quantity_not_negative(faults, quantity, path.child("overhead").key(name));
    }
    security_context(faults, spec, &path.child("securityContext"));
}

fn dns_config(faults: &mut Faults, spec: &Value, path: &Path) {
    /// What libc's resolver reads of resolv.conf (`MAXNS`), and Kubernetes' limit on search paths.
    const MAX_NAMESERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    let config = &spec["dnsConfig"];
    let path = path.child("dnsConfig");
    let servers = list(config, "/nameservers");
    if text(spec, "/dnsPolicy") == "None" {
        if config.is_null() {
            faults.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            faults.push(Error::required(path.child("nameservers"), detail));
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        faults.push(Error::invalid(path.child("nameservers"), servers.to_vec(), &detail));
    }
    for (i, server) in servers.iter().enumerate() {
        check::ip(faults, server.as_str().unwrap_or(""), path.child("nameservers").index(i));
    }
    let searches = list(config, "/searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        faults.push(Error::invalid(path.child("searches"), searches.to_vec(), &detail));
    }
    for (i, option) in list(config, "/options").iter().enumerate() {
        if !has(option, "/name") {
            faults.push(Error::required(path.child("options").index(i), "must not be empty"));
        }
    }
}

fn security_context(faults: &mut Faults, spec: &Value, path: &Path) {
    let context = &spec["securityContext"];
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(n) = context[name].as_i64() {
            check::range(faults, n, path.child(name), 0, i64::from(i32::MAX));
        }
    }
    check::maybe_one_of(faults, context, path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
}
