//! Discovery documents, all made from the rows that are served ([`resource::served`](crate::resource::served)).
//!
//! Three generations live side by side: a list of resources for each group version (every client), lists of
//! groups (every client), and the aggregated form that has both at once (`apidiscovery.k8s.io` v2 and v2beta1).
//! kubectl asks for the aggregated form and falls back; `kubectl auth can-i` reads the old lists all the same.
use crate::resource::{Resource, Scope, Subresource, Verb};
use serde_json::{Value, json};
use std::cmp::Reverse;

/// `GET /api`, legacy: APIVersions. `server_address` is what clients should use, `host:port`.
pub fn api_versions(table: &[Resource], server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(table, ""),
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
    })
}
/// `GET /apis`, legacy: APIGroupList.
pub fn api_group_list(table: &[Resource]) -> Value {
    let groups: Vec<Value> = groups(table).into_iter().filter_map(|g| group_of(table, g)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}
/// `GET /apis/<group>`: APIGroup.
pub fn api_group(table: &[Resource], group: &str) -> Option<Value> {
    let mut v = group_of(table, group)?;
    v["kind"] = json!("APIGroup");
    v["apiVersion"] = json!("v1");
    Some(v)
}

/// The groups of the table in the order of their first rows, core left out.
pub(crate) fn groups(table: &[Resource]) -> Vec<&'static str> {
    let mut groups = Vec::new();
    for r in table.iter().filter(|r| !r.group.is_empty()) {
        if !groups.contains(&r.group) {
            groups.push(r.group);
        }
    }
    groups
}

/// The versions of a group, the preferred one first.
pub(crate) fn versions(table: &[Resource], group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for r in table.iter().filter(|r| r.group == group) {
        if !versions.contains(&r.version) {
            versions.push(r.version);
        }
    }
    versions.sort_by_key(|v| Reverse(stability(v)));
    versions
}

/// Kubernetes' order of versions: stable before beta before alpha, then the higher number
/// (apimachinery `version.CompareKubeAwareVersionStrings`).
fn stability(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let v = version.strip_prefix('v').unwrap_or(version);
    if let Some((major, minor)) = v.split_once("alpha") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = v.split_once("beta") {
        (2, number(major), number(minor))
    } else {
        (3, number(v), 0)
    }
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|v| v.as_str()).collect()
}

fn group_of(table: &[Resource], group: &str) -> Option<Value> {
    if group.is_empty() {
        return None;
    }
    let versions: Vec<Value> = versions(table, group)
        .into_iter()
        .map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v }))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({ "name": group, "versions": versions, "preferredVersion": preferred }))
}

/// `GET /api/v1`, `GET /apis/<group>/<version>`: APIResourceList.
pub fn api_resource_list(table: &[Resource], group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for r in table.iter().filter(|r| r.group == group && r.version == version) {
        let mut entry = json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced(), "kind": r.kind,
            "verbs": verbs(r.verbs),
        });
        if !r.short_names.is_empty() {
            entry["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            entry["categories"] = json!(r.categories);
        }
        resources.push(entry);
        for s in r.subresources {
            let (g, v, kind) = s.gvk;
            let mut entry = json!({
                "name": format!("{}/{}", r.plural, s.name), "singularName": "", "namespaced": r.namespaced(),
                "kind": kind, "verbs": verbs(s.verbs),
            });
            if (g, v) != (group, version) {
                entry["group"] = json!(g);
                entry["version"] = json!(v);
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

/// Aggregated discovery (`apidiscovery.k8s.io/<version>`, `v2` or `v2beta1`): of `/api` when `core`, else of `/apis`.
pub fn aggregated(table: &[Resource], core: bool, version: &str) -> Value {
    let groups = if core { vec![""] } else { groups(table) };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = versions(table, group)
                .into_iter()
                .map(|v| {
                    let resources: Vec<Value> = table
                        .iter()
                        .filter(|r| r.group == group && r.version == v)
                        .map(aggregated_resource)
                        .collect();
                    json!({ "version": v, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(r: &Resource) -> Value {
    let mut entry = json!({
        "resource": r.plural,
        "responseKind": { "group": r.group, "version": r.version, "kind": r.kind },
        "scope": match r.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
        "singularResource": r.singular,
        "verbs": verbs(r.verbs),
    });
    if !r.short_names.is_empty() {
        entry["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        entry["categories"] = json!(r.categories);
    }
    if !r.subresources.is_empty() {
        entry["subresources"] = r.subresources.iter().map(aggregated_subresource).collect();
    }
    entry
}

fn aggregated_subresource(s: &Subresource) -> Value {
    let (group, version, kind) = s.gvk;
    json!({
        "subresource": s.name,
        "responseKind": { "group": group, "version": version, "kind": kind },
        "verbs": verbs(s.verbs),
    })
}

#[cfg(test)]
mod tests;
