use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Bodies that kubectl 1.33 sent, each with what it means: `# command`, hex, JSON.
const KUBECTL: &str = include_str!("kubectl.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// The command, the body and the expected object of each recorded request.
fn recorded() -> Vec<(&'static str, Vec<u8>, Value)> {
    let lines: Vec<&str> = KUBECTL.lines().collect();
    lines
        .chunks(3)
        .map(|c| (c[0], bytes(c[1]), serde_json::from_str(c[2]).unwrap_or_else(|e| panic!("{}: {e}", c[0]))))
        .collect()
}

#[test]
fn what_kubectl_sends_becomes_what_it_means() {
    let recorded = recorded();
    assert!(recorded.len() > 10);
    for (command, body, expected) in recorded {
        assert_eq!(decode(&body).unwrap(), expected, "{command}");
    }
}

#[test]
fn what_kubectl_sends_fits_the_schema() {
    for (command, body, _) in recorded() {
        let mut object = decode(&body).unwrap();
        let api_version = object["apiVersion"].as_str().unwrap().to_owned();
        let version = api_version.rsplit('/').next().unwrap();
        let package = match api_version.split_once('/') {
            None => "core",
            Some((group, _)) => group.split('.').next().unwrap(),
        };
        let name = format!("io.k8s.api.{package}.{version}.{}", object["kind"].as_str().unwrap());
        let schema = crate::schema::definition(&name).unwrap_or_else(|| panic!("{command}: no {name}"));
        assert_eq!(crate::schema::decode(schema, &mut object), Ok(Vec::new()), "{command}");
    }
}

// A small encoder, to build what kubectl does not send.

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}
fn number(tag: u64, n: i64) -> Vec<u8> {
    [varint(tag << 3), varint(n as u64)].concat()
}
fn field(tag: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [varint(tag << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version), field(2, kind)].concat();
    [MAGIC.to_vec(), field(1, type_meta), field(2, raw)].concat()
}
fn decoded(api_version: &str, kind: &str, raw: &[u8]) -> Result<Value, Error> {
    decode(&envelope(api_version, kind, raw)).map(|mut v| {
        assert_eq!(v["apiVersion"], api_version);
        assert_eq!(v["kind"], kind);
        let map = v.as_object_mut().unwrap();
        map.remove("apiVersion");
        map.remove("kind");
        v
    })
}
fn what(result: Result<Value, Error>) -> &'static str {
    match result {
        Err(Error::Malformed { what, .. }) => what,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn a_zero_is_kept_where_go_has_a_pointer_and_dropped_elsewhere() {
    // replicas and paused of a DeploymentSpec: the first is a pointer.
    let spec = [number(1, 0), number(7, 0)].concat();
    assert_eq!(decoded("apps/v1", "Deployment", &field(2, spec)), Ok(json!({ "spec": { "replicas": 0 } })));
}

#[test]
fn a_zero_is_kept_where_the_field_is_required() {
    // A DeploymentCondition's type and status are required, its reason is not.
    let condition = [field(1, ""), field(2, ""), field(4, "")].concat();
    assert_eq!(
        decoded("apps/v1", "Deployment", &field(3, field(6, condition))),
        Ok(json!({ "status": { "conditions": [{ "type": "", "status": "" }] } }))
    );
}

#[test]
fn numbers_quantities_times_and_either_or_values_take_their_json_form() {
    // Pod.spec: activeDeadlineSeconds(5), containers(2){ name 1, resources 8 { limits 1 }, ports 6 }.
    let limits = field(1, [field(1, "cpu"), field(2, field(1, "100m"))].concat());
    let port = [number(3, 80), number(2, 0)].concat();
    let probe = field(1, field(2, [field(2, [number(1, 1), field(3, "http")].concat())].concat()));
    let container = [field(1, "c"), field(8, limits), field(6, port), field(10, probe)].concat();
    let spec = [number(5, -1), field(2, container)].concat();
    // Pod.status.startTime(7)
    let status = field(7, [number(1, 1_700_000_000), number(2, 0)].concat());
    assert_eq!(
        decoded("v1", "Pod", &[field(2, spec), field(3, status)].concat()),
        Ok(json!({
            "spec": {
                "activeDeadlineSeconds": -1,
                "containers": [{
                    "name": "c",
                    "resources": { "limits": { "cpu": "100m" } },
                    "ports": [{ "containerPort": 80 }],
                    "livenessProbe": { "httpGet": { "port": "http" } },
                }],
            },
            "status": { "startTime": "2023-11-14T22:13:20Z" },
        }))
    );
}

#[test]
fn a_lease_keeps_its_microseconds() {
    // LeaseSpec: renewTime(4)
    let spec = field(4, [number(1, 1_700_000_000), number(2, 123_456_789)].concat());
    assert_eq!(
        decoded("coordination.k8s.io/v1", "Lease", &field(2, spec)),
        Ok(json!({ "spec": { "renewTime": "2023-11-14T22:13:20.123456Z" } }))
    );
}

#[test]
fn managed_fields_and_raw_extensions_are_json() {
    // ObjectMeta.managedFields(17){ manager 1, fieldsV1 7 }
    let managed = [field(1, "kubectl"), field(7, field(1, br#"{"f:data":{}}"#))].concat();
    let raw = [field(1, field(17, managed)), field(2, field(1, br#"{"a":[1]}"#)), number(3, 5)].concat();
    assert_eq!(
        decoded("apps/v1", "ControllerRevision", &raw),
        Ok(json!({
            "metadata": { "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:data": {} } }] },
            "data": { "a": [1] },
            "revision": 5,
        }))
    );
    assert_eq!(
        what(decoded("apps/v1", "ControllerRevision", &field(2, field(1, b"{")))),
        "an embedded object is not JSON"
    );
}

#[test]
fn binary_maps_are_base64_and_entries_without_a_value_are_empty() {
    let raw = [field(2, [field(1, "k"), field(2, [0u8, 255])].concat()), field(2, field(1, "e"))].concat();
    assert_eq!(decoded("v1", "Secret", &raw), Ok(json!({ "data": { "k": "AP8=", "e": "" } })));
}

#[test]
fn extra_values_are_plain_lists() {
    // SubjectAccessReviewSpec.extra(5): map of ExtraValue.
    let extra = [field(1, "scopes"), field(2, [field(1, "a"), field(1, "b")].concat())].concat();
    assert_eq!(
        decoded("authorization.k8s.io/v1", "SubjectAccessReview", &field(2, field(5, extra))),
        Ok(json!({ "spec": { "extra": { "scopes": ["a", "b"] } } }))
    );
}

#[test]
fn a_message_in_two_parts_is_put_together_and_the_last_scalar_counts() {
    let raw = [field(1, field(1, "a")), field(1, [field(1, "b"), field(3, "ns")].concat())].concat();
    assert_eq!(
        decoded("v1", "ConfigMap", &raw),
        Ok(json!({ "metadata": { "name": "b", "namespace": "ns" } }))
    );
}

#[test]
fn packed_and_single_numbers_in_a_list_are_the_same() {
    // PodSecurityContext.supplementalGroups(4) inside Pod.spec.securityContext(14)
    let groups = [field(4, [varint(1), varint(2)].concat()), number(4, 3)].concat();
    assert_eq!(
        decoded("v1", "Pod", &field(2, field(14, groups))),
        Ok(json!({ "spec": { "securityContext": { "supplementalGroups": [1, 2, 3] } } }))
    );
}

#[test]
fn fields_of_a_newer_kubernetes_are_skipped() {
    let raw = [number(999, 1), field(998, "x"), field(1, field(1, "a"))].concat();
    assert_eq!(decoded("v1", "ConfigMap", &raw), Ok(json!({ "metadata": { "name": "a" } })));
}

#[test]
fn delete_options_are_known_in_every_group() {
    let raw = [number(1, 0), field(4, "Background")].concat();
    for api_version in ["v1", "apps/v1", "meta.k8s.io/v1", "rbac.authorization.k8s.io/v1"] {
        assert_eq!(
            decoded(api_version, "DeleteOptions", &raw),
            Ok(json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Background" })),
            "{api_version}"
        );
    }
}

#[test]
fn every_served_kind_of_kubernetes_has_a_message() {
    for r in crate::resource::all().iter().filter(|r| r.group != "dhow.dev") {
        assert!(table::get().of_kind(&r.api_version(), r.kind).is_some(), "{} {}", r.api_version(), r.kind);
        let gvks = r.subresources.iter().map(|s| s.gvk);
        for (group, version, kind) in
            gvks.filter(|(_, _, kind)| !kind.is_empty() && !kind.ends_with("Options"))
        {
            let api_version =
                if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            assert!(table::get().of_kind(&api_version, kind).is_some(), "{api_version} {kind}");
        }
    }
}

#[test]
fn what_is_not_protobuf_or_not_known_is_refused() {
    assert_eq!(decode(b""), Err(Error::Magic));
    assert_eq!(decode(b"{\"kind\":\"Pod\"}"), Err(Error::Magic));
    assert_eq!(
        decode(&envelope("example.com/v1", "Thing", b"")),
        Err(Error::UnknownKind { api_version: "example.com/v1".to_owned(), kind: "Thing".to_owned() })
    );
    assert!(matches!(decode(MAGIC), Err(Error::UnknownKind { .. })));
}

#[test]
fn lying_lengths_and_wrong_wire_types_are_refused() {
    let ends_early = [varint(1 << 3 | 2), varint(100)].concat();
    assert_eq!(what(decoded("v1", "ConfigMap", &ends_early)), "a length goes beyond the end");
    let huge = [varint(1 << 3 | 2), varint(u64::MAX)].concat();
    assert_eq!(what(decoded("v1", "ConfigMap", &huge)), "a length goes beyond the end");
    assert_eq!(what(decoded("v1", "ConfigMap", &number(1, 5))), "a field has the wire type of another");
    assert_eq!(what(decoded("v1", "ConfigMap", &[0x0b])), "a field has an unknown wire type");
    assert_eq!(what(decoded("v1", "ConfigMap", &[0xff; 11])), "a number is longer than 10 bytes");
    assert_eq!(what(decoded("v1", "ConfigMap", &[0])), "a field number is out of range");
    assert_eq!(what(decoded("v1", "ConfigMap", &field(1, field(1, [0xff])))), "a string is not UTF-8");
    let far = field(8, number(1, i64::MAX));
    assert_eq!(what(decoded("v1", "ConfigMap", &field(1, far))), "a time is out of range");
}

#[test]
fn deep_nesting_is_refused() {
    let mut raw = field(1, b"{}");
    for _ in 0..1_000 {
        raw = field(1, envelope("apps/v1", "ControllerRevision", &field(2, raw)));
    }
    assert_eq!(
        what(decoded("apps/v1", "ControllerRevision", &field(2, raw))),
        "messages are nested too deep"
    );
}

#[test]
fn a_small_body_cannot_become_millions_of_values() {
    let empty_containers = field(2, []).repeat(MAX_VALUES + 1);
    assert_eq!(what(decoded("v1", "Pod", &field(2, empty_containers))), "too many values");
    let packed = field(4, vec![1; MAX_VALUES + 1]);
    assert_eq!(what(decoded("v1", "Pod", &field(2, field(14, packed)))), "too many values");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_body_makes_the_decoder_panic(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..8),
    ) {
        let recorded = recorded();
        let mut body = which.get(&recorded).1.clone();
        for (at, byte, how) in edits {
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => { body.remove(at); }
            }
            if body.is_empty() { break; }
        }
        if let Ok(value) = decode(&body) {
            prop_assert!(value.is_object());
        }
        body.truncate(cut.index(body.len() + 1));
        let _ = decode(&body);
    }

    #[test]
    fn no_bytes_at_all_make_the_decoder_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&raw);
        for (api_version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Node")] {
            let _ = decode(&envelope(api_version, kind, &raw));
        }
    }
}
