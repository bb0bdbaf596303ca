use super::super::check::tests::shown;
use super::*;

fn minimal() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "a", "image": "x"}]}})
}
fn created(mut pod: Value) -> Value {
    Pod.default(&mut pod);
    Pod.prepare_for_create(&mut pod);
    pod
}
/// The faults of a pod that is right but for what `change` does to it.
fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut pod = minimal();
    change(&mut pod);
    shown(&Pod.validate(&created(pod)))
}
fn update(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let old = created(minimal());
    let mut new = old.clone();
    change(&mut new);
    shown(&Pod.validate_update(&new, &old))
}

#[test]
fn the_smallest_pod_gets_upstreams_defaults() {
    let pod = created(minimal());
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
            "serviceAccountName": "default", "serviceAccount": "default",
            "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
        })
    );
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert!(Pod.validate(&pod).is_empty(), "{:?}", shown(&Pod.validate(&pod)));
}

#[test]
fn a_rich_pod_gets_defaults_in_every_corner_and_defaulting_twice_changes_nothing() {
    let mut pod = minimal();
    pod["spec"] = json!({
        "hostNetwork": true,
        "containers": [{"name": "a", "image": "x:1",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "c", "mountPath": "/c"}]}],
        "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/x"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]
    });
    Pod.default(&mut pod);
    let once = pod.clone();
    Pod.default(&mut pod);
    assert_eq!(pod, once);
    let c = &pod["spec"]["containers"][0];
    assert_eq!(c["imagePullPolicy"], "IfNotPresent");
    assert_eq!(c["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(c["env"][0], json!({"name": "A", "value": "1"}));
    assert_eq!(c["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(c["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(
        c["livenessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
        {"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m", "defaultMode": 420}},
        {"name": "h", "hostPath": {"path": "/x", "type": ""}},
        {"name": "p", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}])
    );
    Pod.prepare_for_create(&mut pod);
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    assert!(Pod.validate(&pod).is_empty(), "{:?}", shown(&Pod.validate(&pod)));
}

#[test]
fn a_pod_behind_a_gate_says_so_from_the_start() {
    let mut pod = minimal();
    pod["spec"]["schedulingGates"] = json!([{"name": "example.org/quota"}]);
    let condition = &created(pod)["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "SchedulingGated");
}

#[test]
fn each_fault_is_named_with_path_and_reason() {
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|p| p["spec"] = json!({})), "spec.containers: Required value"),
        (
            Box::new(|p| p["spec"]["containers"][0]["name"] = json!("")),
            "spec.containers[0].name: Required value",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["image"] = json!("")),
            "spec.containers[0].image: Required value",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["image"] = json!(" x")),
            "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["name"] = json!("A")),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must",
        ),
        (
            Box::new(|p| {
                p["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "a", "image": "x"}])
            }),
            "spec.containers[1].name: Duplicate value: \"a\"",
        ),
        (
            Box::new(|p| p["spec"]["initContainers"] = json!([{"name": "a", "image": "x"}])),
            "spec.initContainers[0].name: Duplicate value: \"a\"",
        ),
        (
            Box::new(|p| p["spec"]["restartPolicy"] = json!("Sometimes")),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            Box::new(|p| {
                p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}])
            }),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            Box::new(|p| {
                p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}])
            }),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            Box::new(|p| {
                p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}])
            }),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            Box::new(|p| p["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/a/../b"}}])),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 70000}])),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            Box::new(|p| {
                p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "protocol": "ICMP"}])
            }),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            Box::new(|p| {
                p["spec"]["containers"][0]["resources"] =
                    json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})
            }),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["env"] = json!([{"name": "A", "valueFrom": {}}])),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`",
        ),
        (
            Box::new(|p| {
                p["spec"]["containers"][0]["env"] =
                    json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}])
            }),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.foo\"",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["livenessProbe"] = json!({})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            Box::new(|p| p["spec"]["tolerations"] = json!([{"value": "x"}])),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty",
        ),
        (
            Box::new(|p| p["spec"]["activeDeadlineSeconds"] = json!(0)),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            Box::new(|p| p["spec"]["nodeSelector"] = json!({"a b": "c"})),
            "spec.nodeSelector: Invalid value: \"a b\": name part must",
        ),
    ];
    for (change, want) in cases {
        let got = faults(change);
        assert!(got.iter().any(|f| f.starts_with(want)), "wanted {want}, got {got:?}");
    }
}

#[test]
fn on_the_nodes_network_both_ports_are_one() {
    let with = |ports: Value| {
        faults(move |p| {
            p["spec"]["hostNetwork"] = json!(true);
            p["spec"]["containers"][0]["ports"] = ports;
        })
    };
    assert!(with(json!([{"containerPort": 80}])).is_empty());
    let got = with(json!([{"containerPort": 80, "hostPort": 81}]));
    assert_eq!(
        got,
        [
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"
        ]
    );
    let got = with(json!([{"containerPort": 80}, {"containerPort": 80}]));
    assert_eq!(got, ["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""]);
}

#[test]
fn hardly_anything_of_a_pod_may_change() {
    assert!(update(|p| p["spec"]["containers"][0]["image"] = json!("y")).is_empty());
    assert!(update(|p| p["spec"]["activeDeadlineSeconds"] = json!(5)).is_empty());
    assert!(update(|p| p["spec"]["hostNetwork"] = json!(false)).is_empty());
    assert!(
        update(|p| p["spec"]["tolerations"].as_array_mut().unwrap().push(json!({"operator": "Exists"})))
            .is_empty()
    );
    let got = update(|p| p["spec"]["nodeName"] = json!("n1"));
    assert!(got[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"), "{got:?}");
    assert!(got[0].ends_with("changed: nodeName"));
    let got = update(|p| p["spec"]["tolerations"] = json!([]));
    assert_eq!(
        got,
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let got = update(|p| p["spec"]["containers"] = json!([]));
    assert_eq!(got, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
}

#[test]
fn deletion_waits_only_for_a_node_that_runs_the_pod() {
    let mut pod = created(minimal());
    assert_eq!(Pod.graceful_deletion(&pod, None), None);
    pod["spec"]["nodeName"] = json!("n");
    assert_eq!(Pod.graceful_deletion(&pod, None), Some(30));
    assert_eq!(Pod.graceful_deletion(&pod, Some(5)), Some(5));
    assert_eq!(Pod.graceful_deletion(&pod, Some(0)), None);
    assert_eq!(Pod.graceful_deletion(&pod, Some(-1)), Some(1));
    pod["status"]["phase"] = json!("Succeeded");
    assert_eq!(Pod.graceful_deletion(&pod, None), None);
}

#[test]
fn an_ended_container_stays_ended_unless_the_policy_restarts_it() {
    let mut old = created(minimal());
    old["spec"]["restartPolicy"] = json!("Never");
    old["status"]["containerStatuses"] = json!([{"name": "a", "state": {"terminated": {"exitCode": 1}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    let got = shown(&Pod.validate_status_update(&new, &old));
    assert_eq!(
        got,
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    old["spec"]["restartPolicy"] = json!("OnFailure");
    assert!(Pod.validate_status_update(&new, &old).is_empty());
}
