use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn pod() -> &'static Schema {
    definition("io.k8s.api.core.v1.Pod").unwrap()
}
fn deployment() -> &'static Schema {
    definition("io.k8s.api.apps.v1.Deployment").unwrap()
}
fn unknown(schema: &Schema, mut obj: Value) -> Vec<String> {
    decode(schema, &mut obj).unwrap().iter().map(ToString::to_string).collect()
}
fn refused(schema: &Schema, mut obj: Value) -> String {
    decode(schema, &mut obj).unwrap_err().to_string()
}
fn accepted(schema: &Schema, mut obj: Value) -> Value {
    assert_eq!(decode(schema, &mut obj), Ok(Vec::new()));
    obj
}

#[test]
fn every_served_kind_has_a_schema() {
    for r in crate::resource::all() {
        assert!(definition(r.schema).is_some_and(|s| s.field("metadata").is_some()), "{}", r.schema);
        assert!(definition(&format!("{}List", r.schema)).is_some(), "{}List", r.schema);
    }
    assert!(definition("io.k8s.api.core.v1.Nothing").is_none());
}

#[test]
fn the_table_holds_our_own_definitions_as_they_are_written() {
    let own: Value = serde_json::from_str(include_str!("../../data/dhow.json")).unwrap();
    for (name, d) in own.as_object().unwrap() {
        let schema = definition(name).expect("run `cargo xtask api-tables`");
        for field in d["properties"].as_object().unwrap().keys() {
            assert!(schema.field(field).is_some(), "{name}.{field}: run `cargo xtask api-tables`");
        }
    }
    let env = definition("dev.dhow.v1alpha1.Function").unwrap().field("spec").unwrap().field("env").unwrap();
    assert_eq!(env.list_patch(), ListPatch::MergeByKey("name".to_owned()));
    assert!(env.items().unwrap().field("valueFrom").is_some());
}

#[test]
fn unknown_fields_are_dropped_and_named_by_their_path() {
    let mut obj = json!({
        "metadata": { "name": "a", "foo": 1, "labels": { "anything": "goes" } },
        "spec": { "template": { "spec": {
            "contaners": [],
            "containers": [{ "name": "a" }, { "name": "b", "imag": "c", "env": [{ "valu": "" }] }],
        } } },
        "extra": null,
    });
    let mut names: Vec<String> =
        decode(deployment(), &mut obj).unwrap().iter().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(
        names,
        [
            r#"unknown field "extra""#,
            r#"unknown field "metadata.foo""#,
            r#"unknown field "spec.template.spec.containers[1].env[0].valu""#,
            r#"unknown field "spec.template.spec.containers[1].imag""#,
            r#"unknown field "spec.template.spec.contaners""#,
        ]
    );
    assert_eq!(
        obj,
        json!({
            "metadata": { "name": "a", "labels": { "anything": "goes" } },
            "spec": { "template": { "spec": { "containers": [{ "name": "a" }, { "name": "b", "env": [{}] }] } } },
        })
    );
}

#[test]
fn field_names_are_case_sensitive() {
    assert_eq!(unknown(deployment(), json!({ "Spec": {} })), [r#"unknown field "Spec""#]);
}

#[test]
fn a_flood_of_unknown_fields_is_reported_in_part_and_dropped_whole() {
    let mut obj = Value::Object((0..10_000).map(|i| (format!("f{i}"), json!(1))).collect());
    assert_eq!(decode(pod(), &mut obj).unwrap().len(), 100);
    assert_eq!(obj, json!({}));
}

#[test]
fn wrong_types_are_worded_as_go_words_them() {
    let spec = |spec: Value| json!({ "spec": spec });
    let container = |c: Value| json!({ "spec": { "template": { "spec": { "containers": [c] } } } });
    for (obj, message) in [
        (
            spec(json!({ "replicas": "three" })),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            spec(json!({ "replicas": 1.5 })),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            spec(json!({ "replicas": 3_000_000_000_i64 })),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            container(json!({ "env": [{ "value": 8080 }] })),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            container(json!({ "ports": {} })),
            "json: cannot unmarshal object into Go struct field Container.spec.template.spec.containers.ports of type []v1.ContainerPort",
        ),
        (
            container(json!("nginx")),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container",
        ),
        (
            json!({ "metadata": { "labels": { "a": true } } }),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({ "metadata": { "labels": ["a"] } }),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            spec(json!({ "paused": "yes" })),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
    ] {
        assert_eq!(refused(deployment(), obj), message);
    }
}

#[test]
fn nulls_are_dropped_and_become_zero_values_inside_lists_and_maps() {
    assert_eq!(
        accepted(
            deployment(),
            json!({
                "metadata": { "creationTimestamp": null, "labels": { "a": null } },
                "spec": { "replicas": null, "template": { "spec": { "containers": [null, { "args": [null] }] } } },
            })
        ),
        json!({
            "metadata": { "labels": { "a": "" } },
            "spec": { "template": { "spec": { "containers": [{}, { "args": [""] }] } } },
        })
    );
}

#[test]
fn quantities_take_their_canonical_form() {
    let limits = |v: Value| json!({ "spec": { "containers": [{ "resources": { "limits": v } }] } });
    assert_eq!(
        accepted(pod(), limits(json!({ "cpu": "1000m", "memory": 1024, "x": 0.5 }))),
        limits(json!({ "cpu": "1", "memory": "1024", "x": "500m" }))
    );
    assert!(refused(pod(), limits(json!({ "cpu": "lots" }))).starts_with("quantities must match"));
    assert!(refused(pod(), limits(json!({ "cpu": true }))).starts_with("quantities must match"));
}

#[test]
fn times_are_checked_and_take_their_canonical_form() {
    let at = |v: Value| json!({ "metadata": { "creationTimestamp": v } });
    assert_eq!(accepted(pod(), at(json!("2024-02-29T12:00:00.5+02:00"))), at(json!("2024-02-29T10:00:00Z")));
    for (text, message) in [
        ("soon", r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#),
        ("2024-01-01", r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
        (
            "2024-01-01T00:00:00",
            r#"parsing time "2024-01-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
        ),
        ("2024-13-01T00:00:00Z", r#"parsing time "2024-13-01T00:00:00Z": month out of range"#),
        ("2023-02-29T00:00:00Z", r#"parsing time "2023-02-29T00:00:00Z": day out of range"#),
    ] {
        assert_eq!(refused(pod(), at(json!(text))), message);
    }
    assert_eq!(
        refused(pod(), at(json!(5))),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string"
    );
    assert_eq!(
        accepted(pod(), at(json!("2024-01-01T00:00:00.123456789012Z"))),
        at(json!("2024-01-01T00:00:00Z"))
    );
    let lease = definition("io.k8s.api.coordination.v1.Lease").unwrap();
    assert_eq!(
        accepted(lease, json!({ "spec": { "renewTime": "2024-01-01T00:00:00.123456789Z" } })),
        json!({ "spec": { "renewTime": "2024-01-01T00:00:00.123456Z" } })
    );
}

#[test]
fn binary_values_must_be_base64() {
    let secret = definition("io.k8s.api.core.v1.Secret").unwrap();
    assert_eq!(
        accepted(secret, json!({ "data": { "a": "aGVs\nbG8=\n", "b": "" } })),
        json!({ "data": { "a": "aGVsbG8=", "b": "" } })
    );
    assert_eq!(refused(secret, json!({ "data": { "a": "aGV%" } })), "illegal base64 data at input byte 3");
    assert_eq!(
        refused(secret, json!({ "data": { "a": 5 } })),
        "json: cannot unmarshal number into Go struct field Secret.data of type []uint8"
    );
}

#[test]
fn a_port_may_be_a_number_or_a_name() {
    let probe = |port: Value| json!({ "spec": { "containers": [{ "livenessProbe": { "httpGet": { "port": port } } }] } });
    for port in [json!(80), json!("http"), json!("80")] {
        assert_eq!(accepted(pod(), probe(port.clone())), probe(port));
    }
    assert_eq!(
        refused(pod(), probe(json!(true))),
        "json: cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe.httpGet.port of type int32"
    );
}

#[test]
fn free_form_values_stay_as_they_are() {
    let revision = definition("io.k8s.api.apps.v1.ControllerRevision").unwrap();
    let obj = json!({ "revision": 1, "data": { "any": [null, { "thing": null }] } });
    assert_eq!(accepted(revision, obj.clone()), obj);
    let managed = json!({ "metadata": { "managedFields": [{ "fieldsV1": { "f:spec": { ".": {} } } }] } });
    assert_eq!(accepted(pod(), managed.clone()), managed);
}

#[test]
fn nesting_has_a_limit() {
    let mut obj = json!({});
    for _ in 0..300 {
        obj = json!({ "not": obj });
    }
    let schema =
        definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    assert_eq!(refused(schema, obj), "exceeded max depth");
}

#[test]
fn lists_merge_by_the_patch_key_not_by_the_apply_keys() {
    let spec = pod().field("spec").unwrap();
    let container = spec.field("containers").unwrap().items().unwrap();
    // Server-side apply's keys are containerPort and protocol.
    assert_eq!(
        container.field("ports").unwrap().list_patch(),
        ListPatch::MergeByKey("containerPort".to_owned())
    );
    assert_eq!(container.field("args").unwrap().list_patch(), ListPatch::Replace);
    assert_eq!(spec.field("tolerations").unwrap().list_patch(), ListPatch::Replace);
    let finalizers = pod().field("metadata").unwrap().field("finalizers").unwrap();
    assert_eq!(finalizers.list_patch(), ListPatch::MergeSet);
    let volumes = spec.field("volumes").unwrap();
    assert_eq!(volumes.list_patch(), ListPatch::MergeByKey("name".to_owned()));
    assert!(volumes.retain_keys() && !spec.field("containers").unwrap().retain_keys());
    let strategy = deployment().field("spec").unwrap().field("strategy").unwrap();
    assert!(strategy.retain_keys());
    assert!(strategy.field("rollingUpdate").is_some());
}

#[test]
fn maps_and_leaves_answer_for_their_values() {
    let labels = pod().field("metadata").unwrap().field("labels").unwrap();
    assert!(labels.field("any").is_some() && labels.items().is_none());
    assert!(labels.field("any").unwrap().field("deeper").is_none());
    assert!(pod().field("kind").unwrap().items().is_none());
}

/// Any JSON whose keys are mostly those of a pod.
fn podlike() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9=:.-]{0,12}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "labels",
        "containers",
        "name",
        "env",
        "value",
        "resources",
        "limits",
        "cpu",
        "ports",
        "creationTimestamp",
        "volumes",
        "secret",
        "items",
        "mode",
        "x",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..6)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_what_was_decoded_changes_nothing(mut obj in podlike()) {
        if decode(pod(), &mut obj).is_ok() {
            let once = obj.clone();
            prop_assert_eq!(decode(pod(), &mut obj), Ok(Vec::new()));
            prop_assert_eq!(obj, once);
        }
    }
}
