use super::*;
use serde_json::json;
use std::collections::BTreeSet;

fn document(path: &str) -> Value {
    serde_json::from_slice(v3_document(path).unwrap().0).unwrap()
}

/// Every string under a `$ref` key.
fn refs(v: &Value, found: &mut BTreeSet<String>) {
    match v {
        Value::Object(map) => {
            for (k, v) in map {
                match v {
                    Value::String(s) if k == "$ref" => {
                        found.insert(s.clone());
                    }
                    v => refs(v, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| refs(v, found)),
        _ => {}
    }
}

#[test]
fn the_index_leads_to_every_group_version_by_hash() {
    let index = v3_index(false);
    let paths = index["paths"].as_object().unwrap();
    for r in resource::all() {
        let path =
            if r.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}/{}", r.group, r.version) };
        let (bytes, hash) = v3_document(&path).unwrap();
        assert_eq!(paths[&path]["serverRelativeURL"], format!("/openapi/v3/{path}?hash={hash}"));
        assert!(!bytes.is_empty() && hash.len() == 32);
    }
    assert!(v3_document("apis/no.such/v1").is_none());
}

#[test]
fn a_document_depends_on_the_table_alone() {
    let again = v3::documents(resource::all(), &definitions());
    assert_eq!(again.index(), v3_index(false));
}

#[test]
fn kubectl_finds_what_it_needs_before_it_trusts_the_server_to_validate() {
    for path in v3_index(false)["paths"].as_object().unwrap().keys() {
        let d = document(path);
        for r in resource::all() {
            let base = if r.group.is_empty() {
                format!("api/{}", r.version)
            } else {
                format!("apis/{}/{}", r.group, r.version)
            };
            if base != *path || !r.verbs.contains(&resource::Verb::Patch) {
                continue;
            }
            let namespace = if r.namespaced() { "namespaces/{namespace}/" } else { "" };
            let patch = &d["paths"][format!("/{base}/{namespace}{}/{{name}}", r.plural)]["patch"];
            assert_eq!(
                patch["x-kubernetes-group-version-kind"],
                json!({ "group": r.group, "version": r.version, "kind": r.kind })
            );
            assert!(
                patch["parameters"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
            );
            let schema = &patch["requestBody"]["content"]["application/strategic-merge-patch+json"]["schema"];
            assert_eq!(schema["$ref"], "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for path in v3_index(false)["paths"].as_object().unwrap().keys() {
        let d = document(path);
        let mut found = BTreeSet::new();
        refs(&d, &mut found);
        for r in found {
            let name = r.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{path}: {r}"));
            assert!(d["components"]["schemas"].get(name).is_some(), "{path}: {name}");
        }
    }
    let v2: Value = serde_json::from_slice(v2_document()).unwrap();
    let mut found = BTreeSet::new();
    refs(&v2, &mut found);
    for r in found {
        let name = r.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{r}"));
        assert!(v2["definitions"].get(name).is_some(), "{name}");
    }
}

#[test]
fn operations_have_names_of_their_own() {
    let v2: Value = serde_json::from_slice(v2_document()).unwrap();
    let mut seen = BTreeSet::new();
    for (path, item) in v2["paths"].as_object().unwrap() {
        for (_, o) in item.as_object().unwrap().iter().filter(|(k, _)| *k != "parameters") {
            let id = o["operationId"].as_str().unwrap();
            assert!(seen.insert(id.to_owned()), "{path}: {id}");
        }
    }
    assert!(seen.contains("patchAppsV1NamespacedDeployment"));
    assert!(seen.contains("listCoreV1NamespacedPod"));
    assert!(seen.contains("readCoreV1NamespacedPodLog"));
}

#[test]
fn v3_words_references_and_either_or_types_its_own_way() {
    let apps = document("apis/apps/v1");
    let schemas = &apps["components"]["schemas"];
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(
        strategy["allOf"],
        json!([{ "$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy" }])
    );
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(strategy["description"].as_str().is_some_and(|d| !d.is_empty()));
    let quantity = &schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!(quantity["oneOf"], json!([{ "type": "string" }, { "type": "number" }]));
    assert_eq!(quantity.get("type"), None);
}

#[test]
fn a_document_describes_its_own_group_version_only() {
    let d = document("apis/coordination.k8s.io/v1");
    assert!(d["paths"].as_object().unwrap().keys().all(|p| p.starts_with("/apis/coordination.k8s.io/v1/")));
    assert!(d["components"]["schemas"].get("io.k8s.api.core.v1.Pod").is_none());
    assert!(d["components"]["schemas"].get("io.k8s.api.coordination.v1.LeaseList").is_some());
}

#[test]
fn functions_are_described_beside_kubernetes_kinds() {
    let d = document("apis/dhow.dev/v1alpha1");
    assert!(d["paths"].get("/apis/dhow.dev/v1alpha1/namespaces/{namespace}/functions/{name}").is_some());
    let spec = &d["components"]["schemas"]["dev.dhow.v1alpha1.FunctionSpec"];
    assert_eq!(spec["required"], json!(["image"]));
}

/// A field of a protobuf message: its tag and bytes (varints as one byte).
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            n |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return n;
            }
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => {
                let before = bytes;
                varint(&mut bytes);
                &before[..before.len() - bytes.len()]
            }
            2 => {
                let len = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                value
            }
            other => panic!("wire type {other}"),
        };
        out.push((key >> 3, value));
    }
    out
}
fn one(message: &[u8], tag: u64) -> &[u8] {
    fields(message).into_iter().find(|(t, _)| *t == tag).unwrap_or_else(|| panic!("no field {tag}")).1
}
/// The value of a named entry (`name` 1, `value` 2) among the fields of a tag.
fn named<'a>(message: &'a [u8], tag: u64, name: &str) -> &'a [u8] {
    fields(message)
        .into_iter()
        .find(|(t, v)| *t == tag && one(v, 1) == name.as_bytes())
        .map(|(_, v)| one(v, 2))
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_protobuf_form_says_what_the_json_says() {
    let document = v2_protobuf();
    let v2: Value = serde_json::from_slice(v2_document()).unwrap();
    assert_eq!(one(document, 1), b"2.0");

    let definitions = one(document, 9);
    assert_eq!(fields(definitions).len(), v2["definitions"].as_object().unwrap().len());
    let spec = named(definitions, 1, "io.k8s.api.apps.v1.DeploymentSpec");
    let replicas = named(one(spec, 25), 1, "replicas");
    assert_eq!(one(one(replicas, 22), 1), b"integer");
    assert_eq!(one(replicas, 2), b"int32");
    let strategy = named(one(spec, 25), 1, "strategy");
    assert_eq!(one(strategy, 1), b"#/definitions/io.k8s.api.apps.v1.DeploymentStrategy");
    assert_eq!(one(named(strategy, 31, "x-kubernetes-patch-strategy"), 2), b"\"retainKeys\"\n");
    let deployment = named(definitions, 1, "io.k8s.api.apps.v1.Deployment");
    let gvk: Value =
        serde_json::from_slice(one(named(deployment, 31, "x-kubernetes-group-version-kind"), 2)).unwrap();
    assert_eq!(gvk, json!([{ "group": "apps", "kind": "Deployment", "version": "v1" }]));

    let paths = one(document, 8);
    assert_eq!(fields(paths).len(), v2["paths"].as_object().unwrap().len());
    let item = named(paths, 2, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let patch = one(item, 8);
    // ParametersItem.parameter → Parameter.non_body_parameter → query_parameter_sub_schema → name
    let query: Vec<&[u8]> = fields(patch)
        .into_iter()
        .filter(|(tag, _)| *tag == 8)
        .map(|(_, p)| one(p, 1))
        .filter(|p| fields(p)[0].0 == 2)
        .map(|p| one(one(one(p, 2), 3), 4))
        .collect();
    assert!(query.contains(&&b"fieldValidation"[..]));
    named(patch, 13, "x-kubernetes-group-version-kind");
}

#[test]
fn the_group_that_is_computed_has_a_document_of_its_own_where_it_is_served() {
    let path = "apis/metrics.k8s.io/v1beta1";
    assert!(v3_index(false)["paths"].get(path).is_none());
    let index = v3_index(true);
    let (bytes, hash) = v3_document(path).unwrap();
    assert_eq!(index["paths"][path]["serverRelativeURL"], format!("/openapi/v3/{path}?hash={hash}"));
    let document: Value = serde_json::from_slice(bytes).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}"));
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in [
        "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
        "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
    ] {
        assert!(schemas.contains_key(name), "{name}");
    }
    assert_eq!(
        index["paths"].as_object().unwrap().len(),
        v3_index(false)["paths"].as_object().unwrap().len() + 1
    );
}
