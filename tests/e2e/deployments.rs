//! A Deployment and a Service, from the registry to the answer, with the oldest and the newest kubectl.
use crate::harness::{Kubectl, Namespace, environment, http, wait, world};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

fn manifest(image: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
  labels: {{app: hello}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata:
      labels: {{app: hello}}
    spec:
      containers:
      - name: hello
        image: {image}
        ports: [{{containerPort: 8080, name: web}}]
        env: [{{name: GREETING, value: Hello}}]
        readinessProbe: {{httpGet: {{path: /ready, port: web}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata:
  name: hello
spec:
  selector: {{app: hello}}
  ports: [{{port: 8888, targetPort: web}}]
"#
    )
}

/// The addresses of the pods that are Ready.
fn ready_addresses(kubectl: &Kubectl) -> BTreeSet<String> {
    let pods = kubectl.items(&["get", "pods", "-l", "app=hello"]);
    let ready = |pod: &&serde_json::Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    pods.iter()
        .filter(ready)
        .map(|p| p["status"]["podIP"].as_str().expect("a Ready pod's address").to_owned())
        .collect()
}

fn answer(address: &str, path: &str) -> Result<String, String> {
    let answer = http::get(address, "hello", path)?;
    if answer.status == 200 { Ok(answer.body) } else { Err(format!("{answer:?}")) }
}

/// Ready pods, each with an address of its own that answers, and a Service that answers for them.
fn comes_up(t: &Namespace) -> String {
    let image = world().image("hello-http");
    assert_eq!(t.apply(&manifest(&image, 3)), "deployment.apps/hello created\nservice/hello created\n");
    let said = t.ok(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
    assert!(said.contains("deployment \"hello\" successfully rolled out"), "{said}");
    t.ok(&["wait", "pods", "-l", "app=hello", "--for=condition=Ready", "--timeout=60s"]);
    assert_eq!(t.apply(&manifest(&image, 3)), "deployment.apps/hello unchanged\nservice/hello unchanged\n");

    let addresses = ready_addresses(t);
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in &addresses {
        let said = answer(&format!("{address}:8080"), "/there").expect("an answer of the pod");
        assert_eq!(said, "Hello from WebAssembly: you asked for /there\n");
    }
    let service = t.json(&["get", "service", "hello"]);
    let service = format!("{}:8888", service["spec"]["clusterIP"].as_str().expect("a ClusterIP"));
    wait::until("the Service answers", || answer(&service, "/"));
    service
}

fn is_shown(t: &Namespace) {
    let wide = t.ok(&["get", "pods", "-o", "wide"]);
    let head: Vec<&str> = wide.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(head[..7], ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"], "{wide}");
    for row in wide.lines().skip(1) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..4], ["1/1", "Running", "0"], "{wide}");
        assert!(cells[5].starts_with("127.") && cells[0].starts_with("hello-"), "{wide}");
    }
    assert_eq!(wide.lines().count(), 4, "{wide}");
    let deployment = t.ok(&["get", "deploy", "-o", "wide"]);
    assert!(
        deployment.contains("3/3")
            && deployment.contains("hello-http:v1")
            && deployment.contains("app=hello"),
        "{deployment}"
    );
    let all = t.ok(&["get", "all"]);
    for part in ["pod/hello-", "service/hello ", "deployment.apps/hello ", "replicaset.apps/hello-"] {
        assert!(all.contains(part), "{part} in {all}");
    }
    let described = t.ok(&["describe", "deployment", "hello"]);
    for part in [
        "3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "RollingUpdate",
        "Scaled up replica set hello-",
        "NewReplicaSet",
    ] {
        assert!(described.contains(part), "{part} in {described}");
    }
    // Older kubectls read Endpoints here, which are written apart from the EndpointSlices that made the Service answer.
    wait::until("the Service is described with its addresses", || {
        let described = t.ok(&["describe", "service", "hello"]);
        let all = ready_addresses(t).iter().all(|a| described.contains(&format!("{a}:8080")));
        wait::holds(all, described)
    });
    let described = t.ok(&["describe", "pods", "-l", "app=hello"]);
    for part in [
        "Scheduled",
        "Pulled",
        "Created",
        "Started",
        "Successfully assigned",
        "GREETING:  Hello",
        "Ready             True",
    ] {
        let squeezed = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&described).contains(&squeezed(part)), "{part} in {described}");
    }
}

fn scales(t: &Namespace, service: &str) {
    for replicas in ["5", "1"] {
        assert_eq!(
            t.ok(&["scale", "deploy/hello", "--replicas", replicas]),
            "deployment.apps/hello scaled\n"
        );
        t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
        t.wait("deploy/hello", &format!("jsonpath={{.status.readyReplicas}}={replicas}"));
        let wanted: usize = replicas.parse().expect("a number");
        wait::until("as many pods as wanted", || {
            let addresses = ready_addresses(t);
            wait::holds(addresses.len() == wanted, format!("{addresses:?}"))
        });
    }
    // It follows the pods that are left.
    wait::until("the Service answers after scaling", || answer(service, "/"));
    let refused = t.fails(&["scale", "deploy/hello", "--current-replicas=7", "--replicas=2"]);
    assert!(refused.contains("Expected replicas to be 7, was 1"), "{refused}");
}

fn rolls_out_and_back(t: &Namespace, service: &str) {
    t.ok(&["scale", "deploy/hello", "--replicas", "2"]);
    t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
    t.ok(&["set", "env", "deploy/hello", "GREETING=Goodbye"]);
    let said = t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
    assert!(said.contains("successfully rolled out"), "{said}");
    let says = |greeting: &str| {
        wait::until(&format!("the Service says {greeting}"), || {
            let said = answer(service, "/")?;
            wait::holds(said.starts_with(greeting), said)
        });
    };
    says("Goodbye");
    let history = t.ok(&["rollout", "history", "deploy/hello"]);
    let revisions: Vec<&str> = history.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(revisions, ["1", "2"], "{history}");
    assert_eq!(t.ok(&["rollout", "undo", "deploy/hello"]), "deployment.apps/hello rolled back\n");
    t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
    says("Hello");
    let history = t.ok(&["rollout", "history", "deploy/hello"]);
    let revisions: Vec<&str> = history.lines().skip(2).filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(revisions, ["2", "3"], "{history}");
    t.ok(&["rollout", "restart", "deploy/hello"]);
    t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
    says("Hello");
}

/// An image that is not there never takes the pods away that serve.
fn a_bad_rollout_leaves_the_old_pods(t: &Namespace, service: &str) {
    t.ok(&[
        "set",
        "image",
        "deploy/hello",
        &format!("hello={}", world().registry.reference("samples/none:v1")),
    ]);
    let said = t.fails(&["rollout", "status", "deploy/hello", "--timeout=3s"]);
    assert!(said.contains("timed out"), "{said}");
    answer(service, "/").expect("the old pods serve");
    t.ok(&["rollout", "undo", "deploy/hello"]);
    t.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
}

fn goes_away(t: &Namespace, service: &str) {
    assert_eq!(
        t.ok(&["delete", "deployment/hello", "service/hello"]),
        "deployment.apps \"hello\" deleted\nservice \"hello\" deleted\n"
    );
    t.ok(&["wait", "pods", "-l", "app=hello", "--for=delete", "--timeout=60s"]);
    wait::until("replica sets and pods are gone", || {
        let left = t.ok(&["get", "rs,pods,endpointslices", "-o", "name"]);
        wait::holds(left.trim().is_empty(), left)
    });
    wait::until("the Service's address is silent", || match http::connect(service) {
        Err(_) => Ok(()),
        Ok(_) => Err("it still takes connections".to_owned()),
    });
}

fn whole_life(name: &str, kubectl: PathBuf) {
    let t = Namespace::with(&world().cluster, name, kubectl);
    let service = comes_up(&t);
    is_shown(&t);
    scales(&t, &service);
    rolls_out_and_back(&t, &service);
    a_bad_rollout_leaves_the_old_pods(&t, &service);
    goes_away(&t, &service);
}

#[test]
fn a_deployment_lives_its_life_under_the_oldest_kubectl() {
    whole_life("life-oldest", environment::oldest_kubectl());
}

#[test]
fn a_deployment_lives_its_life_under_the_newest_kubectl() {
    whole_life("life-newest", environment::newest_kubectl());
}

#[test]
fn logs_are_followed_until_the_program_ends() {
    for (name, kubectl) in
        [("logs-oldest", environment::oldest_kubectl()), ("logs-newest", environment::newest_kubectl())]
    {
        let t = Namespace::with(&world().cluster, name, kubectl);
        // It greets, then reads its input, which never ends.
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: talker}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{}', args: [one, two, three, --stdin], stdin: true}}]}}}}",
            world().image("hello-cli")
        );
        t.apply(&pod);
        t.wait("pod/talker", "condition=Ready");
        let follow = t.background(&["logs", "-f", "talker"]);
        for word in ["one", "two", "three"] {
            follow.line(Duration::from_secs(20), |l| l == format!("Hello, {word}!"));
        }
        assert_eq!(t.ok(&["logs", "talker", "--tail=1"]), "Hello, three!\n");
        let stamped = t.ok(&["logs", "talker", "--timestamps", "--tail=1"]);
        assert!(stamped.starts_with("20") && stamped.ends_with("Z Hello, three!\n"), "{stamped}");
        assert_eq!(t.ok(&["logs", "talker", "--limit-bytes=5"]), "Hello");
        let error = t.fails(&["logs", "talker", "-c", "other"]);
        assert!(error.contains("other") && error.contains("talker"), "{error}");
        t.ok(&["delete", "pod", "talker"]);
        let (_, said) = follow.end(Duration::from_secs(30));
        assert_eq!(said, "Hello, one!\nHello, two!\nHello, three!");
    }
}

#[test]
fn a_second_container_and_an_init_container_run_in_one_wasm_pod() {
    let t = Namespace::new(&world().cluster, "two-containers");
    let (http_image, cli) = (world().image("hello-http"), world().image("hello-cli"));
    t.apply(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: texts}}
data: {{greeting: "from a config map", file: "text in a file\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hidden}}
stringData: {{word: "from a secret"}}
---
apiVersion: v1
kind: Pod
metadata: {{name: both, labels: {{app: both}}}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: first, image: '{cli}', args: ["init"]}}
  containers:
  - name: web
    image: '{http_image}'
    ports: [{{containerPort: 8081}}]
    env:
    - name: GREETING
      valueFrom: {{configMapKeyRef: {{name: texts, key: greeting}}}}
  - name: tool
    image: '{cli}'
    args: ["--cat", "/etc/texts/file", "$(POD_NAME) on $(WORD)", "--stdin"]
    stdin: true
    env:
    - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: WORD, valueFrom: {{secretKeyRef: {{name: hidden, key: word}}}}}}
    volumeMounts: [{{name: texts, mountPath: /etc/texts}}]
  volumes: [{{name: texts, configMap: {{name: texts}}}}]
"#
    ));
    t.wait("pod/both", "condition=Ready");
    assert_eq!(t.ok(&["logs", "both", "-c", "first"]), "Hello, init!\n");
    wait::until("the tool has spoken", || {
        let log = t.ok(&["logs", "both", "-c", "tool"]);
        wait::holds(log == "text in a file\nHello, both on from a secret!\n", log)
    });
    let address = t.json(&["get", "pod", "both"])["status"]["podIP"].as_str().expect("an address").to_owned();
    assert_eq!(
        answer(&format!("{address}:8081"), "/").expect("an answer"),
        "from a config map from WebAssembly: you asked for /\n"
    );
}
