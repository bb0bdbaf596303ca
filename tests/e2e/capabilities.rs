//! What components get from their node beside WASI, as a user asks for it: annotations, ConfigMaps, events.
use crate::components::{counts, says_its_colour};
use crate::harness::{Namespace, wait, world};
use std::time::Duration;

/// Puts a component into the registry and gives its reference.
fn pushed(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.wasm");
    std::fs::write(&file, bytes).expect("a file");
    let reference = world().registry.reference(&format!("capabilities/{name}:v1"));
    world().cluster.run(&["push", file.to_str().expect("a path"), &reference]).ok();
    reference
}

fn pod(name: &str, image: &str, annotations: &str, volume: &str) -> String {
    let (mounts, volumes) = match volume {
        "" => (String::new(), String::new()),
        config_map => (
            "volumeMounts: [{name: v, mountPath: /etc/app}]".to_owned(),
            format!("volumes: [{{name: v, configMap: {{name: {config_map}}}}}]"),
        ),
    };
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{{annotations}}}
spec:
  restartPolicy: Never
  {volumes}
  containers:
  - name: main
    image: '{image}'
    {mounts}
"
    )
}

#[track_caller]
fn says(t: &Namespace, pod: &str, text: &str) {
    t.wait(&format!("pod/{pod}"), "jsonpath={.status.phase}=Succeeded");
    assert_eq!(t.ok(&["logs", pod]), text);
}

#[test]
fn a_config_map_reaches_the_guest_as_its_configuration() {
    let t = Namespace::new(&world().cluster, "wasi-config");
    let image = pushed("colour", &says_its_colour());
    t.ok(&["create", "configmap", "app", "--from-literal=colour=blue"]);
    t.apply(&pod("blue", &image, "config.dhow.dev/main: /etc/app", "app"));
    says(&t, "blue", "INFO blue\n");
    t.apply(&pod("unasked", &image, "", "app"));
    t.event("unasked", &["Failed", "annotate the pod with config.dhow.dev/main"]);
}

#[test]
fn a_count_is_kept_for_the_next_pod_of_the_namespace() {
    let t = Namespace::new(&world().cluster, "wasi-keyvalue");
    let image = pushed("counts", &counts("default"));
    for (name, count) in [("one", "INFO 1\n"), ("two", "INFO 2\n")] {
        t.apply(&pod(name, &image, "keyvalue.dhow.dev/main: default", ""));
        says(&t, name, count);
    }
    t.apply(&pod("unasked", &image, "", ""));
    t.event("unasked", &["Failed", "annotate the pod with keyvalue.dhow.dev/main: default"]);
}

const WANTS: &str = r#"(component
    (import "foo:bar/baz@1.0.0" (instance (export "f" (func))))
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $f (result (result)) (canon lift (core func $i "run")))
    (instance $run (export "run" (func $f)))
    (export "wasi:cli/run@0.2.0" (instance $run)))"#;

#[test]
fn an_import_nobody_offers_is_named_before_anything_is_pulled_and_before_scheduling_where_the_pod_says_it() {
    let t = Namespace::new(&world().cluster, "imports");
    let image = pushed("wants", &wat::parse_str(WANTS).expect("a component"));
    t.apply(&pod("wants", &image, "", ""));
    let event = t.event("wants", &["Failed to pull image", "foo:bar/baz@1.0.0"]);
    assert!(event.contains("which this node does not offer; nothing of it was pulled"), "{event}");
    t.apply(&pod("told", &image, "dhow.dev/imports: 'foo:bar/baz@1.0.0'", ""));
    t.event("told", &["FailedScheduling", "1 node(s) didn't offer the import foo:bar/baz@1.0.0"]);
    let refused = t.dhow(&["run", &image]);
    assert!(
        refused.stderr.contains("imports foo:bar/baz@1.0.0, which no node of the cluster offers"),
        "{}",
        refused.told()
    );
    let nodes = t.items(&["get", "nodes"]);
    let offers = nodes[0]["metadata"]["annotations"]["dhow.dev/offers"].as_str().unwrap_or_default();
    assert!(offers.split(',').any(|o| o == "wasi:keyvalue/store@0.2.0-draft"), "{offers}");
}

#[test]
fn what_a_namespace_kept_on_a_node_goes_with_it_and_nothing_else_does() {
    let image = pushed("kept", &counts("default"));
    let file =
        |name: &str| world().cluster.data_dir.join("runtime").join("keyvalue").join(format!("{name}.redb"));
    let (gone, stays) = ("wasi-keyvalue-gone", "wasi-keyvalue-stays");
    let spaces = [gone, stays].map(|name| Namespace::new(&world().cluster, name));
    for t in &spaces {
        t.apply(&pod("one", &image, "keyvalue.dhow.dev/main: default", ""));
        says(t, "one", "INFO 1\n");
        assert!(file(&t.name).is_file(), "{}", file(&t.name).display());
    }
    spaces[1].ok(&["delete", "pod", "one"]);
    spaces[0].ok(&["delete", "namespace", gone]);
    // The kubelet looks once a minute, and must see twice that it is gone.
    wait::within(Duration::from_secs(240), "what it kept is gone", || {
        wait::holds(!file(gone).exists(), file(gone).display().to_string())
    });
    assert!(file(stays).is_file(), "its namespace is there, though no pod is");
}

#[test]
fn an_image_is_pulled_and_compiled_before_its_first_pod() {
    let t = Namespace::new(&world().cluster, "precompile");
    let image = pushed("early", &counts("early"));
    let said = t.dhow(&["pull", "--precompile", &image]).ok();
    assert!(said.contains("pulled and compiled"), "{said}");
    let manifest = pod("early", &image, "keyvalue.dhow.dev/main: early", "");
    t.apply(&manifest.replace("name: main", "name: main\n    imagePullPolicy: Never"));
    says(&t, "early", "INFO 1\n");
    let missing = world().registry.reference("capabilities/none:v1");
    let said = t.dhow(&["pull", "--precompile", &missing]).fails();
    assert!(said.contains("capabilities/none"), "{said}");
}
