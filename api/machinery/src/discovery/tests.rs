use super::*;
use crate::resource;

fn entry<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|e| e[key] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[test]
fn the_core_group_is_a_list_of_versions() {
    assert_eq!(
        api_versions(resource::all(), "10.0.0.1:6443"),
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443" }],
        })
    );
}

#[test]
fn groups_are_listed_once_and_without_core() {
    let list = api_group_list(resource::all());
    assert_eq!(list["kind"], "APIGroupList");
    let names: Vec<&str> =
        list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
    assert!(names.contains(&"apps") && names.contains(&"dhow.dev") && !names.contains(&""));
}

#[test]
fn a_group_names_its_preferred_version() {
    assert_eq!(
        api_group(resource::all(), "apps").unwrap(),
        json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": "apps",
            "versions": [{ "groupVersion": "apps/v1", "version": "v1" }],
            "preferredVersion": { "groupVersion": "apps/v1", "version": "v1" },
        })
    );
    assert_eq!(api_group(resource::all(), "no.such"), None);
    assert_eq!(api_group(resource::all(), ""), None);
}

#[test]
fn resources_come_with_their_subresources() {
    let list = api_resource_list(resource::all(), "apps", "v1").unwrap();
    assert_eq!(list["groupVersion"], "apps/v1");
    let deployments = entry(&list["resources"], "name", "deployments");
    assert_eq!(deployments["kind"], "Deployment");
    assert_eq!(deployments["singularName"], "deployment");
    assert_eq!(deployments["namespaced"], true);
    assert_eq!(deployments["shortNames"], json!(["deploy"]));
    assert_eq!(
        deployments["verbs"],
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    );
    let scale = entry(&list["resources"], "name", "deployments/scale");
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
    let status = entry(&list["resources"], "name", "deployments/status");
    assert_eq!(status.get("group"), None);
    assert_eq!(api_resource_list(resource::all(), "apps", "v9"), None);
    assert_eq!(api_resource_list(resource::all(), "", "v1").unwrap()["groupVersion"], "v1");
}

#[test]
fn aggregated_discovery_says_the_same_in_one_document() {
    for version in ["v2", "v2beta1"] {
        let apis = aggregated(resource::all(), false, version);
        assert_eq!(apis["kind"], "APIGroupDiscoveryList");
        assert_eq!(apis["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        let apps =
            apis["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let v1 = entry(&apps["versions"], "version", "v1");
        assert_eq!(v1["freshness"], "Current");
        let deployments = entry(&v1["resources"], "resource", "deployments");
        assert_eq!(deployments["scope"], "Namespaced");
        assert_eq!(
            deployments["responseKind"],
            json!({ "group": "apps", "version": "v1", "kind": "Deployment" })
        );
        let scale = entry(&deployments["subresources"], "subresource", "scale");
        assert_eq!(scale["responseKind"]["group"], "autoscaling");

        let core = aggregated(resource::all(), true, version);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(core["items"][0]["metadata"].get("name"), None);
        let nodes = entry(&core["items"][0]["versions"][0]["resources"], "resource", "nodes");
        assert_eq!(nodes["scope"], "Cluster");
    }
}

#[test]
fn every_row_is_found_by_both_generations() {
    let aggregated: usize = [true, false]
        .iter()
        .map(|core| aggregated(resource::all(), *core, "v2"))
        .flat_map(|d| d["items"].as_array().unwrap().clone())
        .flat_map(|g| g["versions"].as_array().unwrap().clone())
        .map(|v| v["resources"].as_array().unwrap().len())
        .sum();
    assert_eq!(aggregated, resource::all().len());
    for r in resource::all() {
        let list = api_resource_list(resource::all(), r.group, r.version).unwrap();
        assert_eq!(entry(&list["resources"], "name", r.plural)["kind"], r.kind);
    }
}

#[test]
fn stable_versions_come_before_beta_before_alpha() {
    let mut versions = ["v1alpha1", "v1", "v1beta2", "v2", "v1beta10", "v2alpha1"];
    versions.sort_by_key(|v| Reverse(stability(v)));
    assert_eq!(versions, ["v2", "v1", "v1beta10", "v1beta2", "v2alpha1", "v1alpha1"]);
}

#[test]
fn the_group_that_is_computed_is_listed_where_it_is_served() {
    let table = resource::served(true);
    let list = api_resource_list(table, "metrics.k8s.io", "v1beta1").unwrap();
    assert_eq!(entry(&list["resources"], "name", "pods")["verbs"], json!(["get", "list"]));
    assert_eq!(entry(&list["resources"], "name", "nodes")["kind"], "NodeMetrics");
    let groups = aggregated(table, false, "v2");
    let last = groups["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["metadata"]["name"], "metrics.k8s.io");
    assert_eq!(api_group(resource::served(false), "metrics.k8s.io"), None);
    assert_eq!(entry(&api_group_list(table)["groups"], "name", "apps")["preferredVersion"]["version"], "v1");
}
