use super::*;
use crate::schema;
use proptest::prelude::*;
use serde_json::json;

fn pod_schema() -> &'static Schema {
    schema::definition("io.k8s.api.core.v1.Pod").expect("the pod's schema")
}
fn apply(obj: Value, patch: Value) -> Result<Value, Error> {
    let mut obj = obj;
    strategic(&mut obj, &patch, pod_schema())?;
    Ok(obj)
}
fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn containers_meet_by_name_and_the_rest_stays() {
    let got = apply(
        containers(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}])),
        containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
    );
    let want = json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]);
    assert_eq!(got.unwrap(), containers(want));
}

#[test]
fn null_removes_and_unknown_nulls_leave_no_trace() {
    let got = apply(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null, "c": null}, "annotations": {"x": null, "y": "1"}}}),
    );
    assert_eq!(got.unwrap(), json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}}));
}

#[test]
fn an_item_is_deleted_by_its_key_and_a_list_replaced_by_directive() {
    let old = || containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]));
    let got = apply(old(), containers(json!([{"name": "b", "$patch": "delete"}])));
    assert_eq!(got.unwrap(), containers(json!([{"name": "a"}, {"name": "c"}])));
    let got = apply(old(), containers(json!([{"name": "x"}, {"$patch": "replace"}])));
    assert_eq!(got.unwrap(), containers(json!([{"name": "x"}])));
    let got = apply(
        json!({"metadata": {"labels": {"a": "1"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
    );
    assert_eq!(got.unwrap(), json!({"metadata": {"labels": {"b": "2"}}}));
    let got = apply(
        json!({"metadata": {"labels": {"a": "1"}}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
    );
    assert_eq!(got.unwrap(), json!({"metadata": {"labels": {}}}));
}

#[test]
fn the_order_asked_for_is_kept_and_items_of_others_stay_in_place() {
    let got = apply(
        containers(json!([{"name": "a"}, {"name": "other"}, {"name": "b"}])),
        json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "n"}],
            "containers": [{"name": "a", "image": "2"}, {"name": "n"}]
        }}),
    );
    let got = got.unwrap();
    let names: Vec<&str> =
        got["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "b", "a", "n"]);
    let e = apply(
        containers(json!([{"name": "a"}])),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "z"}]}}),
    );
    assert!(matches!(e, Err(Error::Malformed(t)) if t.starts_with("The order in patch list")));
}

#[test]
fn primitive_lists_are_sets_that_can_shrink() {
    let old = || json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let got = apply(old(), json!({"metadata": {"finalizers": ["c", "d"]}}));
    assert_eq!(got.unwrap(), json!({"metadata": {"finalizers": ["a", "b", "c", "d"]}}));
    let got = apply(
        old(),
        json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]}}),
    );
    assert_eq!(got.unwrap(), json!({"metadata": {"finalizers": ["c", "a"]}}));
    let e = apply(old(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "b"}}));
    assert_eq!(e, Err(Error::Malformed(BAD_PRIMITIVES.into())));
}

#[test]
fn retain_keys_drops_the_other_members_of_a_union() {
    let old = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let got = apply(
        old.clone(),
        json!({"spec": {"volumes": [
        {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
    );
    assert_eq!(got.unwrap(), json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}));
    let e =
        apply(old, json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}}));
    assert_eq!(e, Err(Error::Malformed(BAD_RETAIN_KEYS.into())));
}

#[test]
fn lists_without_a_merge_strategy_are_replaced() {
    let got = apply(
        containers(json!([{"name": "a", "args": ["1", "2"]}])),
        containers(json!([{"name": "a", "args": ["3"]}])),
    );
    assert_eq!(got.unwrap(), containers(json!([{"name": "a", "args": ["3"]}])));
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_the_object_alone() {
    let old = containers(json!([{"name": "a"}]));
    for patch in [
        containers(json!([{"image": "x"}])),
        containers(json!([{"name": "a", "$patch": "frobnicate"}])),
        containers(json!([{"name": "a", "$patch": "merge"}])),
        containers(json!(["a"])),
        json!({"spec": {"$patch": 3}}),
        json!([]),
    ] {
        let mut obj = old.clone();
        assert!(strategic(&mut obj, &patch, pod_schema()).is_err(), "{patch}");
        assert_eq!(obj, old);
    }
}

/// Were the work quadratic, this would take minutes.
#[test]
fn a_list_as_long_as_a_request_allows_is_merged_in_time_with_its_length() {
    let env = |value: &str| -> Vec<Value> {
        (0..30_000).map(|i| json!({"name": format!("V{i}"), "value": value})).collect()
    };
    let with = |env: Vec<Value>| containers(json!([{"name": "a", "env": env}]));
    let mut patch = with(env("2"));
    patch["spec"]["containers"][0]["$setElementOrder/env"] = Value::from(env("2"));
    assert_eq!(apply(with(env("1")), patch).unwrap(), with(env("2")));
}

fn container_list() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::btree_map("[a-e]", ("[1-3]", prop::collection::vec("[x-z]", 0..3)), 0..5).prop_map(
        |m| {
            m.into_iter()
                .map(|(name, (image, args))| json!({"name": name, "image": image, "args": args}))
                .collect()
        },
    )
}

proptest! {
    #[test]
    fn applying_a_patch_twice_changes_nothing_more(
        old in container_list(),
        patch in container_list().prop_shuffle(),
        delete in prop::option::of("[a-e]"),
        labels in prop::collection::btree_map("[a-c]", prop::option::of("[1-3]"), 0..3),
    ) {
        let mut items = patch;
        if let Some(name) = delete {
            items.retain(|i| i["name"] != name.as_str());
            items.push(json!({"name": name, "$patch": "delete"}));
        }
        let patch = json!({"metadata": {"labels": labels}, "spec": {"containers": items}});
        let once = apply(containers(Value::from(old)), patch.clone()).unwrap();
        prop_assert_eq!(apply(once.clone(), patch).unwrap(), once);
    }
}
