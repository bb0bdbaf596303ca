//! Linux containers beside wasm, as root: what an image is decides who runs it.
use crate::harness::cluster::Options;
use crate::harness::{Cluster, Kubectl, Namespace, environment, http, wait, world};
use serde_json::Value;
use std::time::Duration;

/// A pod of one busybox container that runs a shell script once.
fn pod(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).expect("JSON");
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: '{}'
    command: [sh, -c, {script}]
    {more}
",
        world().busybox()
    )
}

fn address(t: &Namespace, pod: &str) -> String {
    t.json(&["get", "pod", pod])["status"]["podIP"].as_str().expect("an address").to_owned()
}

fn terminated(t: &Namespace, pod: &str) -> Value {
    t.until(&format!("{pod} has ended"), "pod", pod, |pod| {
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        ended.is_object().then(|| ended.clone())
    })
}

#[test]
fn a_linux_container_leaves_its_log_and_its_exit_code() {
    let t = Namespace::new(&world().cluster, "linux-exit");
    t.apply(&pod("seven", "echo out; echo err >&2; exit 7", ""));
    let ended = terminated(&t, "seven");
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&7.into(), &"Error".into()), "{ended}");
    let log = t.ok(&["logs", "seven"]);
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    t.until("the pod has failed", "pod", "seven", |p| (p["status"]["phase"] == "Failed").then_some(()));
    t.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: plain}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: '{}'}}]}}}}", world().busybox()));
    assert_eq!(terminated(&t, "plain")["reason"], "Completed");
    assert_eq!(t.ok(&["logs", "plain"]), "the image's own command\n");
}

#[test]
fn environment_directory_user_and_volumes_reach_a_linux_container() {
    let t = Namespace::new(&world().cluster, "linux-world");
    t.ok(&["create", "configmap", "texts", "--from-literal=file=from a config map"]);
    let script = "echo $FROM_IMAGE $FROM_POD $NAME; pwd; id -u; cat /etc/texts/file; echo; echo x > /data/new && cat /data/new; echo x > /etc/texts/file || echo read-only; echo x > /home/user/scratch && cat /home/user/scratch";
    t.apply(&pod(
        "world",
        script,
        "env: [{name: FROM_POD, value: pod}, {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: texts, mountPath: /etc/texts, readOnly: true}, {name: data, mountPath: /data}]
  volumes: [{name: texts, configMap: {name: texts}}, {name: data, emptyDir: {}}]",
    ));
    let ended = terminated(&t, "world");
    let log = t.ok(&["logs", "world"]);
    assert_eq!(ended["exitCode"], 0, "{log}");
    let lines: Vec<&str> = log.lines().filter(|l| !l.contains("Read-only file system")).collect();
    assert_eq!(lines, ["yes pod world", "/home/user", "0", "from a config map", "x", "read-only", "x"]);
    t.apply(&pod(
        "user",
        "id -u; id -g; echo x > /bin/x || echo refused",
        "securityContext: {runAsUser: 1000, runAsGroup: 1000}",
    ));
    terminated(&t, "user");
    let log = t.ok(&["logs", "user"]);
    let lines: Vec<&str> = log.lines().filter(|l| !l.contains("Permission denied")).collect();
    assert_eq!(lines, ["1000", "1000", "refused"]);
}

#[test]
fn a_linux_container_beyond_its_memory_is_oom_killed() {
    let t = Namespace::new(&world().cluster, "linux-oom");
    // dd takes and fills a buffer of the block size.
    t.apply(&pod(
        "greedy",
        "dd if=/dev/zero of=/dev/null bs=300M count=1",
        "resources: {limits: {memory: 48Mi}}",
    ));
    let ended = terminated(&t, "greedy");
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");
    t.apply(&pod(
        "modest",
        "dd if=/dev/zero of=/dev/null bs=8M count=1",
        "resources: {limits: {memory: 48Mi}}",
    ));
    assert_eq!(terminated(&t, "modest")["exitCode"], 0);
}

#[test]
fn a_linux_container_is_asked_to_end_before_it_is_ended() {
    let t = Namespace::new(&world().cluster, "linux-grace");
    t.apply(&pod("polite", "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done", ""));
    t.wait("pod/polite", "condition=Ready");
    let follow = t.background(&["logs", "-f", "polite"]);
    follow.line(Duration::from_secs(20), |l| l == "up");
    t.ok(&["delete", "pod", "polite"]);
    assert_eq!(follow.end(Duration::from_secs(30)).1, "up\nbye");
    t.apply(&pod("stubborn", "trap '' TERM; echo up; while true; do sleep 0.1; done", ""));
    t.wait("pod/stubborn", "condition=Ready");
    t.ok(&["delete", "pod", "stubborn", "--grace-period=1", "--timeout=30s"]);
}

#[test]
fn one_deployment_is_wasm_and_the_next_linux_with_no_word_about_it() {
    let t = Namespace::new(&world().cluster, "linux-and-wasm");
    let deployment = |name: &str, image: &str, words: &str| {
        format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: '{image}'
        ports: [{{containerPort: 8080}}]
        env: [{{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
        {words}
"
        )
    };
    t.apply(&deployment("wasm", &world().image("hello-http"), ""));
    let serve = r#"args: [sh, -c, "echo Linux at $IP > index.html; exec httpd -f -p $IP:8080"]"#;
    t.apply(&deployment("linux", &world().busybox(), serve));
    for name in ["wasm", "linux"] {
        t.ok(&["rollout", "status", &format!("deploy/{name}"), "--timeout=90s"]);
    }
    let pods = t.items(&["get", "pods"]);
    assert_eq!(pods.len(), 4);
    for pod in pods {
        let ip = pod["status"]["podIP"].as_str().expect("an address");
        let answer = http::get(&format!("{ip}:8080"), "x", "/").expect("an answer");
        let wanted = if pod["metadata"]["labels"]["app"] == "wasm" {
            "Hello".to_owned()
        } else {
            format!("Linux at {ip}")
        };
        assert!(answer.status == 200 && answer.body.starts_with(&wanted), "{answer:?}");
    }
}

#[test]
fn wasm_and_linux_share_one_pod_its_address_and_its_volumes() {
    let t = Namespace::new(&world().cluster, "linux-in-wasm-pod");
    let (http_image, cli, busybox) =
        (world().image("hello-http"), world().image("hello-cli"), world().busybox());
    t.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: mixed}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: writer, image: '{busybox}', command: [sh, -c, "echo written by Linux > /shared/file"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  - {{name: reader, image: '{cli}', args: ["--cat", "/shared/file"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  containers:
  - {{name: web, image: '{http_image}', ports: [{{containerPort: 8080}}]}}
  - name: sidecar
    image: '{busybox}'
    command: [sh, -c, "until wget -qO- http://$IP:8080/sidecar; do sleep 0.1; done; exec sleep 1000"]
    env: [{{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]
  volumes: [{{name: shared, emptyDir: {{}}}}]
"#
    ));
    t.wait("pod/mixed", "condition=Ready");
    assert_eq!(t.ok(&["logs", "mixed", "-c", "reader"]), "written by Linux\n");
    wait::until("the sidecar heard the component", || {
        let log = t.ok(&["logs", "mixed", "-c", "sidecar"]);
        wait::holds(log.contains("Hello from WebAssembly: you asked for /sidecar"), log)
    });
    assert!(http::get(&format!("{}:8080", address(&t, "mixed")), "x", "/").is_ok());
}

#[test]
fn a_runtime_class_forces_the_shim() {
    let t = Namespace::new(&world().cluster, "linux-class");
    let with_class = |name: &str, image: &str, class: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, runtimeClassName: {class}, containers: [{{name: main, image: '{image}', args: [echo, hello]}}]}}}}"
        )
    };
    t.apply(&with_class("fits", &world().busybox(), "runc"));
    assert_eq!(terminated(&t, "fits")["exitCode"], 0);
    t.apply(&with_class("fits-wasm", &world().image("hello-cli"), "wasmtime"));
    assert_eq!(terminated(&t, "fits-wasm")["exitCode"], 0);
    t.apply(&with_class("wrong", &world().busybox(), "wasmtime"));
    let event = t.event("wrong", &["Failed", "wasmtime"]);
    assert!(event.contains("Linux"), "{event}");
    let refused =
        t.run_with(&["create", "-f", "-"], &with_class("none", &world().busybox(), "no-such-class")).fails();
    assert!(refused.contains("no-such-class"), "{refused}");
}

#[test]
fn without_root_a_linux_pod_waits_and_says_what_is_missing() {
    environment::root_is_needed("becoming another user");
    let image = world().busybox();
    let cluster = crate::startup::cluster_of_nobody("rootless");
    let kubectl =
        Kubectl::new(environment::newest_kubectl(), cluster.kubeconfig(), cluster.folder(), "default");
    wait::until("the default service account", || {
        kubectl.find("serviceaccount", "default").ok_or("none".into())
    });
    kubectl.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: linux}}, spec: {{containers: [{{name: main, image: '{image}', args: [sleep, '1000']}}]}}}}"));
    kubectl.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: wasm}}, spec: {{containers: [{{name: main, image: '{}'}}]}}}}", world().image("hello-http")));
    kubectl.wait("pod/wasm", "condition=Ready");
    let event = kubectl.event("linux", &["root"]);
    assert!(event.starts_with("Failed"), "{event}");
    assert_eq!(kubectl.json(&["get", "pod", "linux"])["status"]["phase"], "Pending");
    let ip =
        kubectl.json(&["get", "pod", "wasm"])["status"]["podIP"].as_str().expect("an address").to_owned();
    assert!(http::get(&format!("{ip}:8080"), "x", "/").is_ok_and(|a| a.status == 200));
    assert!(cluster.stop().success());
}

#[test]
fn a_linux_container_runs_on_while_everything_else_is_killed() {
    environment::root_is_needed("a Linux container");
    let cluster = Cluster::start("linux-survives", Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let kubectl =
        Kubectl::new(environment::newest_kubectl(), cluster.kubeconfig(), cluster.folder(), "default");
    wait::until("the default service account", || {
        kubectl.find("serviceaccount", "default").ok_or("none".into())
    });
    // It counts, so that a second life would show.
    let script = "n=0; trap 'echo bye; exit 9' TERM; while true; do n=$((n+1)); echo $n; sleep 0.1; done";
    kubectl.apply(&pod("counts", script, ""));
    kubectl.wait("pod/counts", "condition=Ready");
    let status = || kubectl.json(&["get", "pod", "counts"])["status"]["containerStatuses"][0].clone();
    let id = status()["containerID"].clone();
    let last =
        || kubectl.ok(&["logs", "counts", "--tail=1"]).trim().parse::<u32>().map_err(|e| e.to_string());
    let before = wait::until("it counts", last);
    cluster.kill_all();
    cluster.up().unwrap_or_else(|e| panic!("{e}"));
    wait::until("it goes on to count, and its log is still read", || {
        let n = last()?;
        wait::holds(n > before + 20, format!("{n} after {before}"))
    });
    wait::until("it is Ready as the container that it was", || {
        let now = status();
        wait::holds(
            now["containerID"] == id && now["ready"] == true && now["restartCount"] == 0,
            now.to_string(),
        )
    });
    let follow = kubectl.background(&["logs", "-f", "counts", "--tail=1"]);
    follow.line(Duration::from_secs(20), |l| l.parse::<u32>().is_ok());
    kubectl.ok(&["delete", "pod", "counts", "--timeout=60s"]);
    assert!(follow.end(Duration::from_secs(30)).1.ends_with("bye"));
    // Ctrl-C ends Linux containers too.
    kubectl.apply(&pod("stays", "exec sleep 987654", ""));
    kubectl.wait("pod/stays", "condition=Ready");
    assert!(cluster.stop().success(), "{}", cluster.logs());
    let sleeps = || {
        let processes =
            std::fs::read_dir("/proc").expect("/proc").filter_map(|e| Some(e.ok()?.path().join("cmdline")));
        processes.filter_map(|p| std::fs::read(p).ok()).any(|line| line == b"sleep\x00987654\x00")
    };
    wait::until("no container is left", || wait::holds(!sleeps(), cluster.logs()));
}
