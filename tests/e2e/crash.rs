//! SIGKILL at any moment: what was acknowledged is there after the restart, and the pods come back.
use crate::harness::cluster::{Options, free_port};
use crate::harness::command::Background;
use crate::harness::{Cluster, Kubectl, environment, http, wait, world};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// As many as the promise was made for.
const KILLS: u32 = 20;
const WRITERS: u32 = 4;

/// A cluster, kubectl for it, and a door to it that takes plain HTTP: `kubectl proxy`.
struct Victim {
    cluster: Cluster,
    kubectl: Kubectl,
    proxy: String,
    _proxy: Background,
}

fn victim(name: &str) -> Victim {
    let cluster = Cluster::start(name, Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let kubectl =
        Kubectl::new(environment::newest_kubectl(), cluster.kubeconfig(), cluster.folder(), "default");
    let port = free_port();
    let process = kubectl.background(&["proxy", "--port", &port.to_string()]);
    process.line(Duration::from_secs(20), |l| l.starts_with("Starting to serve"));
    let deployment = format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec: {{containers: [{{name: hello, image: '{}', ports: [{{containerPort: 8080}}]}}]}}
",
        world().image("hello-http")
    );
    kubectl.apply(&deployment);
    kubectl.ok(&["rollout", "status", "deploy/hello", "--timeout=90s"]);
    Victim { cluster, kubectl, proxy: format!("127.0.0.1:{port}"), _proxy: process }
}

impl Victim {
    /// All three pods are Ready and answer at the address that is told.
    fn serves(&self, round: u32) {
        wait::until(&format!("all pods serve again after kill {round}"), || {
            let path = "/api/v1/namespaces/default/pods?labelSelector=app%3Dhello";
            let list: serde_json::Value =
                serde_json::from_str(&http::get(&self.proxy, "localhost", path)?.body)
                    .map_err(|e| e.to_string())?;
            let pods = list["items"].as_array().ok_or_else(|| list.to_string())?;
            let mut serving = 0;
            for pod in pods {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
                let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
                if ready && http::get(&format!("{ip}:8080"), "x", "/").is_ok_and(|a| a.status == 200) {
                    serving += 1;
                }
            }
            wait::holds(
                serving == 3 && pods.len() == 3,
                format!("{serving} of {} pods serve; {}", pods.len(), self.cluster.logs()),
            )
        });
    }

    /// Creates or changes a ConfigMap; `true` if the server said that it did.
    fn write(&self, name: &str, value: u32, exists: bool) -> bool {
        let object = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "value": value.to_string() } });
        let collection = "/api/v1/namespaces/default/configmaps";
        let (method, path) =
            if exists { ("PUT", format!("{collection}/{name}")) } else { ("POST", collection.to_owned()) };
        let body = object.to_string();
        http::request(
            &self.proxy,
            "localhost",
            method,
            &path,
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )
        .is_ok_and(|answer| answer.status == 200 || answer.status == 201)
    }
}

/// What one writer was told: name → the last value acknowledged, and the last one asked for.
type Told = BTreeMap<String, (u32, u32)>;

fn write_until(
    victim: &Victim,
    writer: u32,
    round: u32,
    acknowledged: &AtomicU32,
    stop: &AtomicBool,
) -> Told {
    let mut told = Told::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("r{round}-w{writer}-{}", n / 3);
        // Each is made and then changed twice.
        let entry = told.entry(name.clone()).or_insert((0, 0));
        entry.1 = n + 1;
        if !victim.write(&name, n + 1, n % 3 != 0) {
            // Whether that one is there is unknown; the server is gone.
            return told;
        }
        entry.0 = n + 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        n += 1;
    }
    told
}

#[test]
fn killed_under_writes_it_loses_no_acknowledged_one_and_pods_come_back() {
    let victim = victim("killed");
    let told: Mutex<Told> = Mutex::default();
    let begin = Instant::now();
    for round in 0..KILLS {
        let (acknowledged, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (victim, told, acknowledged, stop) = (&victim, &told, &acknowledged, &stop);
                scope.spawn(move || {
                    let mine = write_until(victim, writer, round, acknowledged, stop);
                    told.lock().expect("lock").extend(mine);
                });
            }
            // A different moment each time: after so many writes.
            wait::until("writes are acknowledged", || {
                let n = acknowledged.load(Ordering::Relaxed);
                wait::holds(n > 20 + 7 * round, format!("{n} writes; {}", victim.cluster.logs()))
            });
            victim.cluster.kill_all();
            stop.store(true, Ordering::Relaxed);
        });
        victim.cluster.up().unwrap_or_else(|e| panic!("after kill {round}: {e}"));
        let path = "/api/v1/namespaces/default/configmaps";
        let list = wait::until("the server answers", || {
            http::get(&victim.proxy, "localhost", path)
                .and_then(|a| if a.status == 200 { Ok(a.body) } else { Err(a.body) })
        });
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let there: BTreeMap<&str, u32> = list["items"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|i| {
                Some((i["metadata"]["name"].as_str()?, i["data"]["value"].as_str()?.parse().ok()?))
            })
            .collect();
        for (name, (acknowledged, asked)) in told.lock().expect("lock").iter().filter(|(_, (a, _))| *a > 0) {
            let value = there.get(name.as_str()).copied();
            assert!(
                value.is_some_and(|v| v == *acknowledged || v == *asked),
                "kill {round}: {name} was acknowledged with {acknowledged} (asked: {asked}), and holds {value:?}"
            );
        }
        victim.serves(round);
    }
    let written: usize = told.lock().expect("lock").len();
    println!("{KILLS} kills, {written} objects, {:?}", begin.elapsed());
    assert_eq!(victim.kubectl.items(&["get", "pods"]).len(), 3, "no pod more than wanted");
    assert!(victim.cluster.stop().success(), "{}", victim.cluster.logs());
}

#[test]
fn pods_run_on_while_everything_but_the_runtime_is_killed() {
    let victim = victim("survivors");
    let containers = || -> Vec<(String, u64)> {
        let pods = victim.kubectl.items(&["get", "pods", "-l", "app=hello"]);
        let mut of: Vec<_> = pods
            .iter()
            .map(|p| &p["status"]["containerStatuses"][0])
            .map(|s| {
                (
                    s["containerID"].as_str().unwrap_or_default().to_owned(),
                    s["restartCount"].as_u64().unwrap_or(99),
                )
            })
            .collect();
        of.sort();
        of
    };
    let before = containers();
    let ip =
        victim.kubectl.items(&["get", "pods"])[0]["status"]["podIP"].as_str().expect("an address").to_owned();
    let answers = || http::get(&format!("{ip}:8080"), "x", "/").is_ok_and(|a| a.status == 200);
    for round in 0..3 {
        victim.cluster.kill_up();
        assert!(answers(), "the pod answers while nobody looks after it");
        victim.cluster.up().unwrap_or_else(|e| panic!("{e}"));
        victim.serves(round);
        assert!(answers());
    }
    assert_eq!(containers(), before, "no container was started again");
    assert!(victim.cluster.stop().success());
}

#[test]
fn a_killed_runtime_is_started_again_and_its_pods_with_it() {
    let victim = victim("runtime-killed");
    let pid = victim.cluster.runtime_pid().expect("a runtime");
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait::until("another runtime", || {
        let now = victim.cluster.runtime_pid();
        wait::holds(now.is_some_and(|now| now != pid), format!("{now:?}"))
    });
    victim.serves(0);
    wait::until("the restarts are counted", || {
        let pods = victim.kubectl.items(&["get", "pods"]);
        let counts: Vec<_> =
            pods.iter().map(|p| p["status"]["containerStatuses"][0]["restartCount"].as_u64()).collect();
        wait::holds(counts == [Some(1); 3], format!("{counts:?}"))
    });
    assert!(victim.cluster.stop().success());
}
