//! What goes wrong gets a clear answer, and goes wrong for nobody else.
use crate::harness::registry::{PASSWORD, USER};
use crate::harness::{Namespace, command, http, wait, world};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// A pod of one container.
fn pod(name: &str, image: &str, args: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: '{image}'
    args: {args}
    {more}
"
    )
}

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a file");
    let path = path.to_str().expect("a path").to_owned();
    (folder, path)
}

/// Why a container does not start: what stands in its status, once it holds all `words`.
#[track_caller]
fn waiting_because(t: &Namespace, pod: &str, reasons: &[&str], words: &[&str]) {
    t.until(&format!("{pod} waits with one of {reasons:?} and {words:?}"), "pod", pod, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let (reason, message) =
            (waiting["reason"].as_str()?, waiting["message"].as_str().unwrap_or_default());
        (reasons.contains(&reason) && words.iter().all(|w| message.contains(w))).then_some(())
    });
}

#[test]
fn what_is_no_wasm_is_refused_by_name() {
    let t = Namespace::new(&world().cluster, "no-wasm");
    let (_folder, path) = file("broken.wasm", b"\0asm\x01\0\0\0 and then nothing sensible");
    let ran = t.dhow(&["run", &path]);
    assert_eq!(ran.code(), Some(125), "{}", ran.told());
    assert!(
        ran.stderr.contains("CreateContainerError") || ran.stderr.contains("RunContainerError"),
        "{}",
        ran.told()
    );
    assert!(
        ran.stderr.to_lowercase().contains("wasm") || ran.stderr.to_lowercase().contains("webassembly"),
        "{}",
        ran.told()
    );
    let ran = t.dhow(&["deploy", &path, "--name", "broken"]);
    assert!(ran.code() == Some(1) && ran.stderr.contains("does not answer HTTP"), "{}", ran.told());
}

#[test]
fn an_import_nobody_provides_is_named() {
    let t = Namespace::new(&world().cluster, "unknown-import");
    let (_folder, path) = file(
        "wants.wat",
        br#"(module (import "env" "mystery" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let ran = t.dhow(&["run", &path]);
    assert_eq!(ran.code(), Some(125), "{}", ran.told());
    assert!(ran.stderr.contains("env") && ran.stderr.contains("mystery"), "{}", ran.told());
}

#[test]
fn an_image_that_is_not_there_is_told_in_an_event() {
    let t = Namespace::new(&world().cluster, "no-image");
    let world = world();
    let missing = world.registry.reference("samples/none:v1");
    t.apply(&pod("missing", &missing, "[]", ""));
    let wrong = world.registry.reference(&format!("samples/hello-cli@sha256:{}", "0".repeat(64)));
    t.apply(&pod("digest", &wrong, "[]", ""));
    t.apply(&pod("down", "127.0.0.1:1/samples/hello-cli:v1", "[]", ""));
    t.apply(&pod("name", "UPPER CASE", "[]", ""));
    let pull = ["ErrImagePull", "ImagePullBackOff"];
    waiting_because(&t, "missing", &pull, &["samples/none"]);
    waiting_because(&t, "digest", &pull, &["sha256:0000"]);
    waiting_because(&t, "down", &pull, &["127.0.0.1:1"]);
    waiting_because(&t, "name", &["InvalidImageName"], &["UPPER CASE"]);
    t.event("missing", &["Failed", "samples/none:v1", "is not in its registry"]);
    t.event("digest", &["Failed", "sha256:0000"]);
    t.event("down", &["Failed", "127.0.0.1:1", "refused"]);
    waiting_because(&t, "missing", &["ImagePullBackOff"], &["samples/none"]);
    t.event("missing", &["BackOff"]);
    assert_eq!(t.json(&["get", "pod", "missing"])["status"]["phase"], "Pending");
    // What comes later is found without anybody's help.
    let back_off = Instant::now();
    command::run(
        world
            .cluster
            .dhow(&["push"])
            .arg(crate::harness::environment::guest("hello-http"))
            .arg(world.registry.reference("samples/late:v1")),
    )
    .ok();
    t.apply(&pod("late", &world.registry.reference("samples/late:v1"), "[]", ""));
    t.wait("pod/late", "condition=Ready");
    assert!(back_off.elapsed() < wait::LONG);
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let t = Namespace::new(&world().cluster, "corrupt");
    let world = world();
    // A module of its own, so that its blob is nobody else's: a custom section named "own", of no meaning.
    let (_folder, wasm) = file("own.wasm", &[&b"\0asm\x01\0\0\0\0\x10\x03own"[..], &[7; 12]].concat());
    let reference = world.registry.reference("samples/corrupt:v1");
    world.cluster.run(&["push", &wasm, &reference]).ok();
    let sum = command::run(Command::new("sha256sum").arg(&wasm)).ok();
    let blob = world.registry.blob(sum.split_whitespace().next().expect("a digest"));
    let mut content = std::fs::read(&blob).expect("the registry's blob");
    *content.last_mut().expect("bytes") ^= 1;
    std::fs::write(&blob, content).expect("spoiling the blob");
    t.apply(&pod("corrupt", &reference, "[]", ""));
    waiting_because(&t, "corrupt", &["ErrImagePull", "ImagePullBackOff"], &["digest"]);
    t.event("corrupt", &["Failed", "digest"]);
}

#[test]
fn a_wrong_password_is_told_and_the_right_one_pulls() {
    let t = Namespace::new(&world().cluster, "password");
    let registry = &world().secure;
    let image = registry.reference("samples/hello-cli:v1");
    for (name, password) in [("right", PASSWORD), ("wrong", "not-the-password")] {
        let words = [
            &format!("--docker-server={}", registry.address),
            &format!("--docker-username={USER}"),
            &format!("--docker-password={password}"),
        ];
        t.ok(&[&["create", "secret", "docker-registry", name][..], &words.map(String::as_str)].concat());
        t.apply(&pod(
            name,
            &image,
            "[x, --stdin]",
            // The other pods would find the image here.
            &format!("stdin: true\n    imagePullPolicy: Always\n  imagePullSecrets: [{{name: {name}}}]"),
        ));
    }
    t.apply(&pod("none", &image, "[x]", "imagePullPolicy: Always"));
    t.wait("pod/right", "condition=Ready");
    for name in ["wrong", "none"] {
        waiting_because(&t, name, &["ErrImagePull", "ImagePullBackOff"], &[&registry.address]);
        let event = t.event(name, &["Failed", &registry.address]);
        assert!(
            ["password", "credential", "unauthorized", "log in"]
                .iter()
                .any(|w| event.to_lowercase().contains(w)),
            "{event}"
        );
        assert!(!event.contains("not-the-password"), "{event}");
    }
}

#[test]
fn a_trap_leaves_its_message_and_backtrace_in_the_log_and_backs_off() {
    let t = Namespace::new(&world().cluster, "trap");
    t.apply(&pod("trapper", &world().image("hello-cli"), "[before, --trap]", ""));
    t.container_state("trapper", "waiting", "CrashLoopBackOff");
    let log = wait::until("the log of a run", || {
        let ran = t.run(&["logs", "trapper", "--previous"]);
        if ran.status.success() { Ok(ran.stdout) } else { Err(ran.stderr) }
    });
    for part in ["Hello, before!", "unreachable", "backtrace", "hello_cli"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    let row = t.ok(&["get", "pod", "trapper", "--no-headers"]);
    assert!(row.contains("CrashLoopBackOff") || row.contains("Error"), "{row}");
    t.event("trapper", &["BackOff", "restarting failed container"]);
    // A request handler that traps answers 500 and goes on serving: see the shim's own tests. Here: the node is well.
    t.apply(&pod("neighbour", &world().image("hello-http"), "[]", ""));
    t.wait("pod/neighbour", "condition=Ready");
}

#[test]
fn an_endless_loop_starves_no_neighbour_and_can_be_ended() {
    let t = Namespace::new(&world().cluster, "endless");
    for name in ["spin-1", "spin-2", "spin-3", "spin-4"] {
        t.apply(&pod(name, &world().image("hello-cli"), "[--spin]", ""));
    }
    t.ok(&["wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"]);
    t.apply(&pod("neighbour", &world().image("hello-http"), "[]", ""));
    t.wait("pod/neighbour", "condition=Ready");
    let ip = t.json(&["get", "pod", "neighbour"])["status"]["podIP"].as_str().expect("an address").to_owned();
    let begin = Instant::now();
    for _ in 0..50 {
        assert_eq!(http::get(&format!("{ip}:8080"), "x", "/").expect("an answer").status, 200);
    }
    // 50 answers take some 50 ms on an idle machine; here four loops and other tests share two cores.
    assert!(begin.elapsed() < Duration::from_secs(15), "50 answers took {:?}", begin.elapsed());
    t.ok(&["delete", "pods", "--all", "--timeout=60s"]);
}

#[test]
fn a_cpu_limit_holds_an_endless_loop_down() {
    let t = Namespace::new(&world().cluster, "cpu-limit");
    t.apply(&pod("limited", &world().image("hello-cli"), "[--spin]", "resources: {limits: {cpu: 100m}}"));
    t.wait("pod/limited", "condition=Ready");
    t.ok(&["delete", "pod", "limited", "--timeout=60s"]);
}

#[test]
fn memory_beyond_the_limit_is_oom_killed() {
    let t = Namespace::new(&world().cluster, "memory");
    let limited = "resources: {limits: {memory: 64Mi}}\n  restartPolicy: Never";
    t.apply(&pod("greedy", &world().image("hello-cli"), "[--eat, '256']", limited));
    let ended = t.container_state("greedy", "terminated", "OOMKilled");
    assert_eq!(ended["exitCode"], 137, "{ended}");
    t.apply(&pod("modest", &world().image("hello-cli"), "[--eat, '16']", limited));
    t.container_state("modest", "terminated", "Completed");
    assert_eq!(t.ok(&["logs", "modest"]), "ate 16 MiB\n");
}

/// A function and the pod behind it.
fn function(t: &Namespace) -> (String, String) {
    let url = t.dhow(&["deploy", &world().image("hello-http"), "--name", "target"]).ok();
    let pods = t.items(&["get", "pods"]);
    let ip = pods[0]["status"]["podIP"].as_str().expect("an address");
    (url.trim().trim_start_matches("http://").to_owned(), format!("{ip}:8080"))
}

#[test]
fn a_body_of_100_mb_harms_nobody() {
    let t = Namespace::new(&world().cluster, "large-body");
    let (host, pod) = function(&t);
    let gateway = world().cluster.gateway();
    let body = vec![b'x'; 100_000_000];
    for address in [&pod, &gateway] {
        // The function does not read it: it may answer, or whoever stands before it may refuse.
        let answer = http::request(address, &host, "POST", "/upload", &[], &body);
        if let Ok(answer) = answer {
            assert!([200, 413, 502].contains(&answer.status), "{answer:?}");
        }
        let after = http::get(address, &host, "/after").expect("an answer");
        assert_eq!(
            (after.status, after.body.as_str()),
            (200, "Hello from WebAssembly: you asked for /after\n")
        );
    }
    // The API server takes 3 MiB, as upstream.
    let large = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "large" }, "data": { "x": "x".repeat(4 << 20) } });
    let error = t.run_with(&["create", "-f", "-"], &large.to_string()).fails();
    assert!(error.contains("RequestEntityTooLarge") || error.contains("limit"), "{error}");
    assert_eq!(t.items(&["get", "pods"])[0]["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn slow_clients_are_dropped_and_keep_nobody_waiting() {
    let t = Namespace::new(&world().cluster, "slow");
    let (host, pod) = function(&t);
    let gateway = world().cluster.gateway();
    let api = format!("127.0.0.1:{}", world().cluster.port);
    let slow = |address: &str| -> Vec<TcpStream> {
        (0..100)
            .map(|_| {
                let mut stream = http::connect(address).expect("a connection");
                stream.write_all(b"GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: ").expect("a piece of a request");
                stream
            })
            .collect()
    };
    let mut held: Vec<TcpStream> = [&pod, &gateway, &api].into_iter().flat_map(|a| slow(a)).collect();
    for address in [&pod, &gateway] {
        assert_eq!(http::get(address, &host, "/").expect("an answer").status, 200);
    }
    t.ok(&["get", "pods"]);
    // Nobody waits for them for ever.
    for (n, stream) in held.iter_mut().enumerate().step_by(33) {
        wait::within(Duration::from_secs(90), &format!("slow connection {n} is closed"), || {
            let mut answer = [0; 512];
            match stream.read(&mut answer) {
                Ok(0) => Ok(()),
                Ok(_) => Err("it is answered".to_owned()),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        });
    }
}

#[test]
fn a_wrong_type_and_broken_yaml_are_told_where() {
    let t = Namespace::new(&world().cluster, "types");
    let wrong = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: w}, spec: {replicas: three, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}";
    let error = t.run_with(&["create", "--validate=false", "-f", "-"], wrong).fails();
    assert!(error.contains("replicas"), "{error}");
    let (_folder, path) = file("wrong.yaml", wrong.as_bytes());
    let error = t.dhow(&["apply", "-f", &path]).fails();
    assert!(error.contains("replicas") && error.lines().count() == 1, "{error}");
    let (_folder, path) =
        file("broken.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a\ndata: [\n");
    let error = t.dhow(&["apply", "-f", &path]).fails();
    assert!(error.contains("broken.yaml") && error.contains("line"), "{error}");
    let (_folder, path) =
        file("misspelt.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatta: {a: b}\n");
    let error = t.dhow(&["apply", "-f", &path]).fails();
    assert!(error.contains("datta"), "{error}");
    let (_folder, path) = file("kind.yaml", b"apiVersion: v1\nkind: ConfigMapp\nmetadata: {name: a}\n");
    let error = t.dhow(&["apply", "-f", &path]).fails();
    assert!(error.contains("ConfigMapp"), "{error}");
    assert!(
        t.run_with(
            &["create", "--raw", &format!("/api/v1/namespaces/{}/configmaps", t.name), "-f", "-"],
            "not json"
        )
        .fails()
        .contains("BadRequest")
    );
}

#[test]
fn an_object_over_the_limit_is_refused() {
    let t = Namespace::new(&world().cluster, "large-object");
    let text = "x".repeat(1_100_000);
    let object = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "over" }, "data": { "x": &text } });
    let error = t.run_with(&["create", "-f", "-"], &object.to_string()).fails();
    assert!(error.contains("Too long") && error.contains("1048576"), "{error}");
    let containers: Vec<_> = (0..2)
        .map(|n| serde_json::json!({ "name": format!("c{n}"), "image": "x", "args": [&text] }))
        .collect();
    let object = serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "over" }, "spec": { "containers": containers } });
    let error = t.run_with(&["create", "-f", "-"], &object.to_string()).fails();
    assert!(error.contains("too large") || error.contains("TooLarge") || error.contains("limit"), "{error}");
    assert!(t.find("pod", "over").is_none());
}

#[test]
fn a_pod_no_node_can_take_says_why() {
    let t = Namespace::new(&world().cluster, "unschedulable");
    let image = world().image("hello-cli");
    t.apply(&pod("huge", &image, "[]", "resources: {requests: {memory: 900Ti}}"));
    t.apply(&pod("elsewhere", &image, "[]", "stdin: true\n  nodeSelector: {disk: ssd}"));
    for (name, why) in [("huge", "Insufficient memory"), ("elsewhere", "node affinity/selector")] {
        t.event(name, &["FailedScheduling", "0/1 nodes are available", why]);
        let status = t.json(&["get", "pod", name])["status"].clone();
        assert_eq!(status["phase"], "Pending", "{status}");
    }
    // It is looked at again when a node changes.
    let node = t.items(&["get", "nodes"])[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    t.ok(&["label", "node", &node, "disk=ssd"]);
    t.wait("pod/elsewhere", "condition=PodScheduled");
    t.ok(&["label", "node", &node, "disk-"]);
}

#[test]
fn missing_references_keep_a_container_waiting_and_are_named() {
    let t = Namespace::new(&world().cluster, "references");
    t.apply(&pod(
        "wants",
        &world().image("hello-http"),
        "[]",
        "env: [{name: GREETING, valueFrom: {configMapKeyRef: {name: later, key: word}}}]",
    ));
    waiting_because(&t, "wants", &["CreateContainerConfigError"], &["later"]);
    t.ok(&["create", "configmap", "later", "--from-literal=word=Finally"]);
    t.wait("pod/wants", "condition=Ready");
}
