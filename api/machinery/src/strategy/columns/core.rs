//! Namespaces, Nodes, ConfigMaps, Secrets, ServiceAccounts, Leases and RuntimeClasses.
use super::{AGE, NAME, or, or_none, shown, wide};
use crate::strategy::view::{flag, list, map, text};
use crate::table::Column;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(in crate::strategy) static NAMESPACE: &[Column] = &[
    NAME,
    shown("Status", "string", "Whether the namespace is active or being deleted.", |o, _| {
        json!(text(o, "/status/phase"))
    }),
    AGE,
];

pub(in crate::strategy) static NODE: &[Column] = &[
    NAME,
    shown("Status", "string", "Whether the node is ready and takes pods.", |o, _| json!(node_status(o))),
    shown("Roles", "string", "What the node's labels say it is for.", |o, _| json!(node_roles(o))),
    AGE,
    shown("Version", "string", "The kubelet's version.", |o, _| {
        json!(text(o, "/status/nodeInfo/kubeletVersion"))
    }),
    wide("Internal-IP", "string", "The node's address inside the cluster.", |o, _| {
        json!(address(o, "InternalIP"))
    }),
    wide("External-IP", "string", "The node's address outside the cluster.", |o, _| {
        json!(address(o, "ExternalIP"))
    }),
    wide("OS-Image", "string", "The operating system.", |o, _| {
        json!(node_info(o, "/status/nodeInfo/osImage"))
    }),
    wide("Kernel-Version", "string", "The kernel.", |o, _| {
        json!(node_info(o, "/status/nodeInfo/kernelVersion"))
    }),
    wide("Container-Runtime", "string", "The container runtime and its version.", |o, _| {
        json!(node_info(o, "/status/nodeInfo/containerRuntimeVersion"))
    }),
];

pub(in crate::strategy) static CONFIG_MAP: &[Column] = &[
    NAME,
    shown("Data", "string", "How many keys there are.", |o, _| {
        json!(entries(o, "/data") + entries(o, "/binaryData"))
    }),
    AGE,
];

pub(in crate::strategy) static SECRET: &[Column] = &[
    NAME,
    shown("Type", "string", "What the secret is for.", |o, _| json!(text(o, "/type"))),
    shown("Data", "string", "How many keys there are.", |o, _| json!(entries(o, "/data"))),
    AGE,
];

pub(in crate::strategy) static SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    shown("Secrets", "string", "How many secrets belong to it.", |o, _| json!(list(o, "/secrets").len())),
    AGE,
];

pub(in crate::strategy) static LEASE: &[Column] = &[
    NAME,
    shown("Holder", "string", "Who holds the lease.", |o, _| json!(text(o, "/spec/holderIdentity"))),
    AGE,
];

pub(in crate::strategy) static RUNTIME_CLASS: &[Column] =
    &[NAME, shown("Handler", "string", "The runtime's name for it.", |o, _| json!(text(o, "/handler"))), AGE];

fn entries(o: &Value, pointer: &str) -> usize {
    map(o, pointer).map_or(0, |m| m.len())
}

fn node_status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|c| c["type"] == "Ready");
    let mut status = match ready {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(node, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = map(node, "/metadata/labels");
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if k == "kubernetes.io/role" => v.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    or_none(found.and_then(|a| a["address"].as_str()).unwrap_or(""))
}

fn node_info<'a>(node: &'a Value, pointer: &str) -> &'a str {
    or(text(node, pointer), "<unknown>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn a_node_shows_readiness_cordon_and_roles() {
        let mut n = json!({"metadata": {"labels": {
            "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}}});
        assert_eq!(cell(NODE, "Status", &n, NOW), "Unknown");
        n["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]});
        n["spec"] = json!({"unschedulable": true});
        assert_eq!(cell(NODE, "Status", &n, NOW), "Ready,SchedulingDisabled");
        n["status"]["conditions"][0]["status"] = json!("Unknown");
        assert_eq!(cell(NODE, "Status", &n, NOW), "NotReady,SchedulingDisabled");
        assert_eq!(cell(NODE, "Roles", &n, NOW), "control-plane,worker,x");
        assert_eq!(cell(NODE, "Internal-IP", &n, NOW), "127.0.0.1");
        assert_eq!(cell(NODE, "External-IP", &n, NOW), "<none>");
        assert_eq!(cell(NODE, "OS-Image", &n, NOW), "<unknown>");
    }

    #[test]
    fn data_of_both_kinds_is_counted() {
        let c = json!({"data": {"a": "", "b": ""}, "binaryData": {"c": ""}});
        assert_eq!(cell(CONFIG_MAP, "Data", &c, NOW), 3);
        assert_eq!(cell(SECRET, "Data", &json!({}), NOW), 0);
    }
}
