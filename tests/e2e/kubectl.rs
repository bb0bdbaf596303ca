//! What people type: create, explain, apply, patch, label, get -w, auth can-i — with the oldest and the newest kubectl.
use crate::harness::{Kubectl, Namespace, environment, http, wait, world};
use std::time::Duration;

/// Does the same with each kubectl, in a namespace of its own.
fn with_each(name: &str, test: impl Fn(&Namespace)) {
    for (age, program) in
        [("oldest", environment::oldest_kubectl()), ("newest", environment::newest_kubectl())]
    {
        test(&Namespace::with(&world().cluster, &format!("{name}-{age}"), program));
    }
}

#[test]
fn objects_are_created_by_name() {
    with_each("create", |t| {
        assert_eq!(
            t.ok(&["create", "configmap", "texts", "--from-literal=a=1"]),
            "configmap/texts created\n"
        );
        assert_eq!(t.json(&["get", "cm", "texts"])["data"]["a"], "1");
        assert_eq!(
            t.ok(&["create", "secret", "generic", "hidden", "--from-literal=word=open"]),
            "secret/hidden created\n"
        );
        assert_eq!(t.json(&["get", "secret", "hidden"])["data"]["word"], "b3Blbg==");
        t.ok(&[
            "create",
            "secret",
            "docker-registry",
            "login",
            "--docker-server=r",
            "--docker-username=u",
            "--docker-password=p",
        ]);
        assert_eq!(t.json(&["get", "secret", "login"])["type"], "kubernetes.io/dockerconfigjson");
        assert_eq!(
            t.ok(&["create", "deployment", "web", "--image=registry.invalid/web:1", "--replicas=0"]),
            "deployment.apps/web created\n"
        );
        assert_eq!(
            t.ok(&["create", "service", "clusterip", "web", "--tcp=80:8080"]),
            "service/web created\n"
        );
        assert_eq!(t.ok(&["create", "serviceaccount", "robot"]), "serviceaccount/robot created\n");
        assert_eq!(
            t.ok(&["create", "job", "once", "--image=registry.invalid/once:1"]),
            "job.batch/once created\n"
        );
        t.ok(&["expose", "deployment", "web", "--port=81", "--name=exposed"]);
        assert_eq!(t.json(&["get", "svc", "exposed"])["spec"]["selector"]["app"], "web");
        let error = t.fails(&["create", "configmap", "texts"]);
        assert!(error.contains("configmaps \"texts\" already exists"), "{error}");
        let error = t.fails(&["create", "configmap", "Bad_Name"]);
        assert!(error.contains("metadata.name") && error.contains("Bad_Name"), "{error}");
        let error = t.fails(&["get", "configmap", "missing"]);
        assert_eq!(error, "Error from server (NotFound): configmaps \"missing\" not found\n");
        t.ok(&["run", "alone", "--image=registry.invalid/alone:1", "--dry-run=server"]);
        assert!(t.find("pod", "alone").is_none(), "a dry run leaves nothing");
        let account = wait::until("the default service account", || {
            t.find("serviceaccount", "default").ok_or("none".into())
        });
        assert_eq!(account["metadata"]["namespace"], t.name.as_str());
    });
}

#[test]
fn explain_tells_the_fields_and_their_meaning() {
    with_each("explain", |t| {
        let said = t.ok(&["explain", "deploy.spec"]);
        for part in ["replicas", "<integer>", "selector", "strategy", "template", "progressDeadlineSeconds"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(t.ok(&["explain", "pod.spec.containers.livenessProbe", "--recursive"]).contains("httpGet"));
        assert!(t.ok(&["explain", "job.spec.backoffLimit"]).contains("integer"));
        assert!(t.ok(&["explain", "functions.spec"]).contains("image"));
        let error = t.fails(&["explain", "deploy.spec.replica"]);
        assert!(error.contains("replica"), "{error}");
    });
}

#[test]
fn a_misspelt_field_is_refused_and_named() {
    with_each("misspelt", |t| {
        let manifest = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replica: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'web:1', imagePullpolicy: Never}]}
";
        for words in [&["apply", "-f", "-"][..], &["create", "-f", "-"]] {
            let error = t.run_with(words, manifest).fails();
            assert!(error.contains("unknown field \"spec.replica\""), "{error}");
            assert!(
                error.contains("unknown field \"spec.template.spec.containers[0].imagePullpolicy\""),
                "{error}"
            );
        }
        assert!(t.find("deployment", "web").is_none());
        // The server itself refuses: kubectl's own check is off.
        let ran = t.run_with(&["apply", "--validate=warn", "-f", "-"], manifest);
        assert!(ran.stderr.contains("unknown field \"spec.replica\""), "{}", ran.told());
        ran.ok();
        t.ok(&["delete", "deployment", "web"]);
        let double = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1"},"data":{"b":"2"}}"#;
        let path = format!("/api/v1/namespaces/{}/configmaps?fieldValidation=Strict", t.name);
        let error = t.run_with(&["create", "--raw", &path, "-f", "-"], double).fails();
        assert!(error.contains("duplicate field \"data\""), "{error}");
    });
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_path() {
    let t = Namespace::new(&world().cluster, "invalid");
    let no_match = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: other}}
    spec: {containers: [{name: web, image: 'web:1'}]}
";
    let error = t.run_with(&["apply", "-f", "-"], no_match).fails();
    assert!(error.contains("spec.template.metadata.labels") && error.contains("is invalid"), "{error}");
    let bare = "{apiVersion: v1, kind: Pod, metadata: {name: bare}, spec: {containers: [{name: UPPER, image: ''}, {name: b, image: x, ports: [{containerPort: 70000}]}]}}";
    let error = t.run_with(&["apply", "-f", "-"], bare).fails();
    for part in
        ["spec.containers[0].name", "spec.containers[0].image", "spec.containers[1].ports[0].containerPort"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
    t.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, immutable: true, data: {a: '1'}}");
    let error = t.fails(&["patch", "cm", "fixed", "-p", r#"{"data":{"a":"2"}}"#]);
    assert!(error.contains("immutable"), "{error}");
    let error = t.fails(&["create", "configmap", "lost", "-n", "no-such-namespace"]);
    assert!(error.contains("namespaces \"no-such-namespace\" not found"), "{error}");
    t.ok(&["create", "deployment", "web", "--image=registry.invalid/web:1", "--replicas=0"]);
    let error = t.fails(&[
        "patch",
        "deploy",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"selector":{"matchLabels":{"app":"b"}}}}"#,
    ]);
    assert!(error.contains("field is immutable"), "{error}");
}

#[test]
fn objects_are_patched_in_three_ways() {
    with_each("patch", |t| {
        t.ok(&["create", "deployment", "web", "--image=registry.invalid/web:1", "--replicas=0"]);
        let env =
            |t: &Kubectl| t.json(&["get", "deploy", "web"])["spec"]["template"]["spec"]["containers"].clone();
        t.ok(&["patch", "deploy", "web", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"registry.invalid/web:2"}]"#]);
        assert_eq!(env(t)[0]["image"], "registry.invalid/web:2");
        let failed = t.fails(&[
            "patch",
            "deploy",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"test","path":"/spec/paused","value":true}]"#,
        ]);
        assert!(failed.contains("/spec/paused") || failed.contains("test"), "{failed}");
        t.ok(&[
            "patch",
            "deploy",
            "web",
            "--type=merge",
            "-p",
            r#"{"metadata":{"annotations":{"a":"1"}},"spec":{"minReadySeconds":4}}"#,
        ]);
        t.ok(&["patch", "deploy", "web", "--type=merge", "-p", r#"{"metadata":{"annotations":{"a":null}}}"#]);
        let object = t.json(&["get", "deploy", "web"]);
        assert_eq!(
            (&object["spec"]["minReadySeconds"], object["metadata"]["annotations"]["a"].is_null()),
            (&serde_json::json!(4), true)
        );
        // Lists with a merge key are merged by it.
        t.ok(&[
            "patch",
            "deploy",
            "web",
            "-p",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"second","image":"x:1"}]}}}}"#,
        ]);
        let containers = env(t);
        let names: Vec<_> = containers
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["name"].as_str().expect("a name"))
            .collect();
        assert!(names.len() == 2 && names.contains(&"web") && names.contains(&"second"), "{names:?}");
        t.ok(&[
            "patch",
            "deploy",
            "web",
            "-p",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"second","$patch":"delete"}]}}}}"#,
        ]);
        assert_eq!(env(t).as_array().map(Vec::len), Some(1));
        assert_eq!(
            t.ok(&["patch", "deploy", "web", "-p", r#"{"spec":{"minReadySeconds":4}}"#]),
            "deployment.apps/web patched (no change)\n"
        );
    });
}

#[test]
fn labels_and_annotations_are_set_and_selected_by() {
    with_each("label", |t| {
        for name in ["one", "two", "three"] {
            t.ok(&["create", "configmap", name]);
        }
        assert_eq!(
            t.ok(&["label", "cm", "one", "two", "tier=front"]),
            "configmap/one labeled\nconfigmap/two labeled\n"
        );
        let error = t.fails(&["label", "cm", "one", "tier=back"]);
        assert!(error.contains("overwrite"), "{error}");
        t.ok(&["label", "cm", "two", "tier=back", "--overwrite"]);
        let names = |words: &[&str]| {
            let said = t.ok(&[&["get", "cm", "-o", "name"][..], words].concat());
            let mut names: Vec<String> =
                said.lines().filter(|l| !l.contains("kube-root-ca")).map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(names(&["-l", "tier=front"]), ["configmap/one"]);
        assert_eq!(names(&["-l", "tier in (front, back)"]), ["configmap/one", "configmap/two"]);
        assert_eq!(names(&["-l", "!tier"]), ["configmap/three"]);
        assert_eq!(names(&["--field-selector", "metadata.name=three"]), ["configmap/three"]);
        assert_eq!(names(&["--chunk-size=1"]), ["configmap/one", "configmap/three", "configmap/two"]);
        t.ok(&["label", "cm", "one", "tier-"]);
        assert_eq!(names(&["-l", "tier"]), ["configmap/two"]);
        // The oldest says `annotate`.
        assert!(t.ok(&["annotate", "cm", "one", "why=because"]).starts_with("configmap/one annotate"));
        t.ok(&["delete", "cm", "-l", "tier=back"]);
        assert_eq!(names(&[]), ["configmap/one", "configmap/three"]);
    });
}

#[test]
fn changes_are_seen_as_they_happen() {
    with_each("watch", |t| {
        let watch = t.background(&[
            "get",
            "configmaps",
            "-w",
            "--no-headers",
            "--output-watch-events",
            "-l",
            "watched",
        ]);
        let limit = Duration::from_secs(20);
        for name in ["first", "second"] {
            t.apply(&format!(
                "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{watched: 'yes'}}}}}}"
            ));
            watch.line(limit, |l| l.starts_with("ADDED") && l.contains(name));
        }
        t.ok(&["patch", "cm", "first", "-p", r#"{"data":{"a":"1"}}"#]);
        watch.line(limit, |l| l.starts_with("MODIFIED") && l.contains("first"));
        // What no longer fits the selector leaves the watch.
        t.ok(&["label", "cm", "second", "watched-"]);
        watch.line(limit, |l| l.starts_with("DELETED") && l.contains("second"));
        t.ok(&["delete", "cm", "first"]);
        watch.line(limit, |l| l.starts_with("DELETED") && l.contains("first"));
    });
}

#[test]
fn the_server_tells_what_it_serves_and_who_may() {
    with_each("discovery", |t| {
        let resources = t.ok(&["api-resources"]);
        for (name, short, version, kind) in [
            ("pods", "po", "v1", "Pod"),
            ("deployments", "deploy", "apps/v1", "Deployment"),
            ("jobs", "", "batch/v1", "Job"),
            ("endpointslices", "", "discovery.k8s.io/v1", "EndpointSlice"),
            ("leases", "", "coordination.k8s.io/v1", "Lease"),
            ("ingresses", "ing", "networking.k8s.io/v1", "Ingress"),
            ("ingressclasses", "", "networking.k8s.io/v1", "IngressClass"),
            ("networkpolicies", "netpol", "networking.k8s.io/v1", "NetworkPolicy"),
            ("runtimeclasses", "", "node.k8s.io/v1", "RuntimeClass"),
            ("functions", "fn", "dhow.dev/v1alpha1", "Function"),
            ("revisions", "rev", "dhow.dev/v1alpha1", "Revision"),
        ] {
            let found = resources.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).any(|cells| {
                cells.first() == Some(&name)
                    && cells.contains(&version)
                    && cells.contains(&kind)
                    && (short.is_empty() || cells.contains(&short))
            });
            assert!(found, "{name} in {resources}");
        }
        let versions = t.ok(&["api-versions"]);
        assert!(
            versions.lines().any(|l| l == "apps/v1") && versions.lines().any(|l| l == "dhow.dev/v1alpha1"),
            "{versions}"
        );
        assert_eq!(t.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
        assert!(
            t.json(&["version"])["serverVersion"]["gitVersion"]
                .as_str()
                .is_some_and(|v| v.starts_with("v1."))
        );
        assert!(t.ok(&["cluster-info"]).contains("is running at"));
        let nodes = t.items(&["get", "nodes"]);
        assert_eq!(nodes.len(), 1);
        let node = nodes[0]["metadata"]["name"].as_str().expect("a name");
        let described = t.ok(&["describe", "node", node]);
        for part in ["Ready", "KubeletReady", "Allocatable", "Container Runtime Version"] {
            assert!(described.contains(part), "{part} in {described}");
        }
        assert_eq!(t.ok(&["get", "--raw", "/readyz"]), "ok");
    });
}

#[test]
fn anonymous_callers_see_only_that_the_server_lives() {
    let port = world().cluster.port;
    let ask = |path: &str, header: &str| http::get_with_tls(port, path, header);
    assert_eq!(ask("/livez", "").body, "ok");
    assert!(ask("/version", "").body.contains("gitVersion"));
    let refused = ask("/api/v1/pods", "");
    assert!(refused.status == 403 && refused.body.contains("system:anonymous"), "{refused:?}");
    let refused = ask("/api/v1/pods", "Authorization: Bearer not-a-token\r\n");
    assert!(refused.status == 401 && refused.body.contains("Unauthorized"), "{refused:?}");
    // Plain HTTP at the TLS port gets nothing.
    let plain = http::get(&format!("127.0.0.1:{port}"), "x", "/api/v1/pods");
    assert!(!plain.is_ok_and(|a| a.status == 200));
}

#[test]
fn apply_prunes_what_was_taken_out_and_keeps_what_others_set() {
    with_each("apply", |t| {
        t.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}");
        t.ok(&["patch", "cm", "c", "-p", r#"{"data":{"other":"x"}}"#]);
        assert_eq!(
            t.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '3'}}"),
            "configmap/c configured\n"
        );
        let data = t.json(&["get", "cm", "c"])["data"].clone();
        assert_eq!(data, serde_json::json!({ "a": "3", "other": "x" }));
        let diff = t.run_with(
            &["diff", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '4'}}",
        );
        assert!(diff.code() == Some(1) && diff.stdout.contains("+  a: \"4\""), "{}", diff.told());
        t.ok(&["get", "cm", "c", "-o", "yaml"]);
        let replaced = t
            .run_with(
                &["replace", "-f", "-"],
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {z: '1'}}",
            )
            .ok();
        assert_eq!(replaced, "configmap/c replaced\n");
        assert_eq!(t.json(&["get", "cm", "c"])["data"], serde_json::json!({ "z": "1" }));
        let stale =
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, resourceVersion: '1'}, data: {z: '2'}}";
        let error = t.run_with(&["replace", "-f", "-"], stale).fails();
        assert!(error.contains("Conflict") && error.contains("the object has been modified"), "{error}");
    });
}

#[test]
fn a_namespace_goes_with_all_it_holds() {
    let t = Namespace::new(&world().cluster, "going-outer");
    t.ok(&["create", "namespace", "going"]);
    t.ok(&["-n", "going", "create", "configmap", "texts"]);
    t.ok(&[
        "-n",
        "going",
        "create",
        "deployment",
        "web",
        &format!("--image={}", world().image("hello-http")),
    ]);
    t.ok(&["-n", "going", "wait", "deploy/web", "--for=condition=Available", "--timeout=60s"]);
    assert_eq!(t.ok(&["delete", "namespace", "going", "--timeout=90s"]), "namespace \"going\" deleted\n");
    assert!(t.find("namespace", "going").is_none());
    let left = t.ok(&[
        "get",
        "pods,configmaps,deployments",
        "-A",
        "-o",
        "jsonpath={.items[?(@.metadata.namespace==\"going\")].metadata.name}",
    ]);
    assert_eq!(left, "");
}
