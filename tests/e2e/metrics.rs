//! What pods use: `kubectl top`, the kubelet's metrics, and autoscalers that follow them.
use crate::harness::cluster::Options;
use crate::harness::{Cluster, Namespace, environment, http, wait, world};
use serde_json::Value;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A cluster that nobody else keeps busy, and that looks every second. It is not dropped: its guard ends it.
#[track_caller]
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let words = ["--metric-resolution", "1s", "--horizontal-pod-autoscaler-sync-period", "1s"];
    let options = || Options { words: words.map(str::to_owned).to_vec(), ..Options::default() };
    match CLUSTER.get_or_init(|| Cluster::start("metrics", options())) {
        Ok(cluster) => cluster,
        Err(why) => panic!("the cluster could not be made: {why}"),
    }
}

/// An endless loop, as a pod's container.
fn spinning(name: &str, limit: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  containers:
  - {{name: main, image: '{}', args: ['--spin'], resources: {{requests: {{cpu: 50m}}, limits: {limit}}}}}
",
        world().image("hello-cli")
    )
}

/// `12m` as 12.
fn millicores(text: &str) -> f64 {
    text.strip_suffix('m').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no CPU"))
}

/// The row of `name` of a `top`.
fn row(text: &str, name: &str) -> Result<Vec<String>, String> {
    let row = text.lines().find(|l| l.split_whitespace().next() == Some(name));
    row.map(|r| r.split_whitespace().map(str::to_owned).collect()).ok_or_else(|| text.to_owned())
}

fn node(t: &Namespace) -> String {
    t.items(&["get", "nodes"])[0]["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// A text of the kubelet.
fn scrape(t: &Namespace, path: &str) -> String {
    t.ok(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy{path}", node(t))])
}

/// The value of a series.
fn series(text: &str, start: &str, labels: &[&str]) -> Option<f64> {
    let line = text.lines().find(|l| l.starts_with(start) && labels.iter().all(|label| l.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn top_shows_what_a_busy_pod_uses_with_each_kubectl() {
    for (age, program) in
        [("oldest", environment::oldest_kubectl()), ("newest", environment::newest_kubectl())]
    {
        let t = Namespace::with(cluster(), &format!("top-{age}"), program);
        t.apply(&spinning("busy", "{cpu: 300m}"));
        let shown = wait::until("its CPU is near its limit", || {
            let ran = t.run(&["top", "pod", "busy"]);
            if !ran.status.success() {
                return Err(ran.told());
            }
            let cells = row(&ran.stdout, "busy")?;
            let cpu = millicores(&cells[1]);
            wait::holds((270.0..=330.0).contains(&cpu), &ran.stdout).map(|()| cells)
        });
        assert!(shown[2].ends_with("Mi"), "{shown:?}");
        let all = t.ok(&["top", "pod", "-A", "--sort-by=cpu"]);
        assert!(row(&all, &t.name).is_ok(), "{all}");
        let containers = t.ok(&["top", "pod", "--containers"]);
        assert_eq!(row(&containers, "busy").expect("a row")[1], "main", "{containers}");
        let labelled = t.ok(&["top", "pod", "-l", "app=busy", "--no-headers"]);
        assert_eq!(labelled.lines().count(), 1, "{labelled}");
        let nodes = t.ok(&["top", "node"]);
        let cells = row(&nodes, &node(&t)).expect("a row");
        assert!(
            millicores(&cells[1]) > 0.0 && cells[2].ends_with('%') && cells[3].ends_with("Mi"),
            "{nodes}"
        );
        let error = t.fails(&["top", "pod", "missing"]);
        assert!(error.contains("\"missing\" not found"), "{error}");
        t.ok(&["delete", "pod", "busy", "--grace-period=0", "--wait=false"]);
    }
}

/// CPU time of the threads that run guests, from the kernel.
fn guest_threads_seconds(pid: i32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the runtime runs");
    let ticks = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        if !["(wasm-guest", "(wasm-requested", "(wasm-background"].iter().any(|n| name.contains(n)) {
            return None;
        }
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    ticks.sum::<u64>() as f64 / 100.0
}

#[test]
fn the_cpu_counter_is_what_the_kernel_counts() {
    // Alone in a cluster: every guest's thread works for this pod.
    let cluster: &'static Cluster =
        Box::leak(Box::new(Cluster::start("counter", Options::default()).expect("a cluster")));
    let t = Namespace::new(cluster, "counter");
    t.apply(&spinning("busy", "{}"));
    let pid = cluster.runtime_pid().expect("a runtime");
    let both = || {
        let before = guest_threads_seconds(pid);
        let text = scrape(&t, "/metrics/resource");
        let after = guest_threads_seconds(pid);
        let counter =
            series(&text, "container_cpu_usage_seconds_total", &["namespace=\"counter\"", "pod=\"busy\""]);
        counter.map(|counter| (counter, before, after)).ok_or(text)
    };
    let first = wait::until("it runs", || both().and_then(|b| wait::holds(b.0 > 0.1, "idle").map(|()| b)));
    let last = wait::until("five seconds of CPU", || {
        both().and_then(|b| wait::holds(b.0 - first.0 > 5.0, b.0.to_string()).map(|()| b))
    });
    let counted = last.0 - first.0;
    // The kernel's figures are read before and after the counter; the truth lies between.
    let (least, most) = (last.1 - first.2, last.2 - first.1);
    println!("counted {counted:.3} s of CPU; the kernel says {least:.2} to {most:.2} s");
    assert!(counted > least * 0.98 - 0.02 && counted < most * 1.02 + 0.02, "{counted} of {least}..{most}");
}

#[test]
fn the_kubelet_tells_requests_instances_and_its_own_work() {
    let t = Namespace::new(cluster(), "figures");
    t.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - {{name: main, image: '{}', ports: [{{containerPort: 8080}}]}}
",
        world().image("hello-http")
    ));
    t.wait("pod/web", "condition=Ready");
    let ip = t.json(&["get", "pod", "web"])["status"]["podIP"].as_str().expect("an address").to_owned();
    for _ in 0..3 {
        assert_eq!(http::get(&format!("{ip}:8080"), "web", "/").expect("an answer").status, 200);
    }
    let text = scrape(&t, "/metrics/cadvisor");
    let of = ["container=\"main\"", "namespace=\"figures\"", "pod=\"web\""];
    let value = |name: &str| series(&text, name, &of);
    assert_eq!(
        series(&text, "dhow_container_requests_total", &[&of[..], &["code=\"2xx\""]].concat()),
        Some(3.0),
        "{text}"
    );
    assert_eq!(value("dhow_container_request_duration_seconds_count"), Some(3.0));
    assert_eq!(value("dhow_container_instances_started_total"), Some(3.0));
    assert_eq!(
        (value("dhow_container_traps_total"), value("dhow_container_timeouts_total")),
        (Some(0.0), Some(0.0))
    );
    assert!(value("container_memory_max_usage_bytes").is_some_and(|v| v > 0.0), "{text}");
    let summary: Value = serde_json::from_str(&scrape(&t, "/stats/summary")).expect("JSON");
    let pods = summary["pods"].as_array().expect("pods");
    let pod = pods.iter().find(|p| p["podRef"]["namespace"] == "figures").expect("the pod");
    assert_eq!(pod["containers"][0]["name"], "main");
    assert!(pod["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|n| n > 0), "{pod}");
    let own = scrape(&t, "/metrics");
    assert!(series(&own, "kubelet_running_pods", &[]).is_some_and(|n| n >= 1.0), "{own}");
    assert!(series(&own, "kubelet_pod_start_duration_seconds_count", &[]).is_some_and(|n| n >= 1.0), "{own}");
    let starts = ["operation_type=\"start_container\""];
    assert!(series(&own, "kubelet_runtime_operations_total", &starts).is_some_and(|n| n >= 1.0), "{own}");
    let server = t.ok(&["get", "--raw", "/metrics"]);
    assert!(server.contains("apiserver_request_total{verb="), "{server}");
}

/// A Deployment that answers HTTP behind a Service, and its autoscaler.
fn scaled() -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: main, image: '{}', ports: [{{containerPort: 8080}}], resources: {{requests: {{cpu: 100m}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: web}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}
  minReplicas: 1
  maxReplicas: 4
  metrics:
  - type: Pods
    pods: {{metric: {{name: requests_per_second}}, target: {{type: AverageValue, averageValue: '5'}}}}
  - type: Resource
    resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 80}}}}
  behavior: {{scaleDown: {{stabilizationWindowSeconds: 2}}}}
",
        world().image("hello-http")
    )
}

#[test]
fn an_autoscaler_follows_the_load_up_and_down() {
    let t = Namespace::new(cluster(), "autoscale");
    t.apply(&scaled());
    t.wait("deployment/web", "condition=Available");
    let address =
        t.json(&["get", "service", "web"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let replicas = |h: &Value| h["status"]["currentReplicas"].as_i64();
    let (stop, answered) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        // A failed assertion must not leave the load running: the scope would wait for it.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let stopper = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // While pods come and go a connection may fail; what counts is that most are answered.
                    if http::get(&format!("{address}:80"), "web", "/").is_ok_and(|a| a.status == 200) {
                        answered.fetch_add(1, Relaxed);
                    }
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            });
        }
        t.until("four pods under load", "hpa", "web", |h| (replicas(h) == Some(4)).then_some(()));
        t.event("web", &["SuccessfulRescale", "pods metric requests_per_second above target"]);
        let shown = t.ok(&["get", "hpa", "web"]);
        assert!(
            shown.contains("Deployment/web") && shown.contains("cpu: ") && shown.contains("/80%"),
            "{shown}"
        );
        drop(stopper);
    });
    assert!(answered.load(Relaxed) > 0);
    t.until("one pod when it is quiet", "hpa", "web", |h| (replicas(h) == Some(1)).then_some(()));
    t.event("web", &["SuccessfulRescale", "All metrics below target"]);
    let conditions = t.json(&["get", "hpa", "web"])["status"]["conditions"].clone();
    let conditions = conditions.as_array().expect("conditions");
    for kind in ["AbleToScale", "ScalingActive", "ScalingLimited"] {
        assert!(conditions.iter().any(|c| c["type"] == kind), "{conditions:?}");
    }
}

#[test]
fn kubectl_autoscale_makes_an_autoscaler_with_each_kubectl() {
    for (age, program) in
        [("oldest", environment::oldest_kubectl()), ("newest", environment::newest_kubectl())]
    {
        let t = Namespace::with(cluster(), &format!("by-hand-{age}"), program);
        t.ok(&["create", "deployment", "web", "--image=registry.invalid/web:1", "--replicas=3"]);
        let said = t.ok(&["autoscale", "deployment", "web", "--min=1", "--max=2", "--cpu-percent=50"]);
        assert!(said.contains("horizontalpodautoscaler.autoscaling/web autoscaled"), "{said}");
        let made = t.json(&["get", "hpa", "web"]);
        assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50, "{made}");
        t.until("no more than may be", "deployment", "web", |d| (d["spec"]["replicas"] == 2).then_some(()));
        t.until("it says what is missing", "hpa", "web", |h| {
            let conditions = h["status"]["conditions"].as_array()?;
            let active = conditions.iter().find(|c| c["type"] == "ScalingActive")?;
            (active["reason"] == "FailedGetResourceMetric").then_some(())
        });
        let described = t.ok(&["describe", "hpa", "web"]);
        assert!(described.contains("FailedGetResourceMetric"), "{described}");
        let error = t.fails(&["autoscale", "deployment", "web", "--min=3", "--max=2", "--name=bad"]);
        assert!(error.contains("--max"), "{error}");
    }
}
