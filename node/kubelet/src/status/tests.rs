use super::*;
use crate::observed::{Container, RunState, Sandbox, spec_hash};
use serde_json::{Value, json};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + s).unwrap()
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        ip: if ready { "127.42.0.2".into() } else { String::new() },
        more_ips: Vec::new(),
        created_at: at(0),
    }
}

/// `name attempt state [code [reason]]`
fn container(text: &str) -> Container {
    let w: Vec<&str> = text.split(' ').collect();
    let state = match w[2] {
        "created" => RunState::Created,
        "running" => RunState::Running,
        "exited" => RunState::Exited,
        _ => RunState::Unknown,
    };
    Container {
        id: format!("{}{}", w[0], w[1]),
        name: w[0].into(),
        attempt: w[1].parse().unwrap(),
        sandbox_id: "s0".into(),
        state,
        created_at: at(0),
        started_at: (state != RunState::Created).then(|| at(1)),
        finished_at: (state == RunState::Exited).then(|| at(2)),
        exit_code: w.get(3).map_or(0, |c| c.parse().unwrap()),
        reason: w.get(4).unwrap_or(&"").to_string(),
        message: String::new(),
        image: "img".into(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
        hash: spec_hash(w[0], "img"),
    }
}

fn pod(policy: &str, extra: Value) -> core::Pod {
    let mut spec = json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "img" }] });
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(
        json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": spec }),
    )
    .unwrap()
}

#[derive(Default)]
struct World {
    containers: Vec<Container>,
    waiting: BTreeMap<String, Waiting>,
    probes: BTreeMap<String, ProbeResults>,
    previous: core::PodStatus,
    eviction: Option<Eviction>,
    ended: bool,
    no_sandbox: bool,
}

impl World {
    fn of(list: &[&str]) -> Self {
        Self { containers: list.iter().map(|t| container(t)).collect(), ..Default::default() }
    }

    fn status(&self, pod: &core::Pod) -> core::PodStatus {
        let mut observed = ObservedPod {
            sandboxes: if self.no_sandbox { vec![] } else { vec![sandbox(0, true)] },
            containers: self.containers.clone(),
        };
        observed.sort();
        compute_pod_status(&Sources {
            pod,
            previous: &self.previous,
            observed: &observed,
            waiting: &self.waiting,
            probes: &self.probes,
            eviction: self.eviction.as_ref(),
            ended: self.ended,
            host_ip: "127.0.0.1",
            runtime_name: "dhow",
            now: at(100),
        })
    }
}

/// A line for a status: phase, then each container as `name:state(reason or code) r<restarts> [ready] [started]`.
fn show(s: &core::PodStatus) -> String {
    let one = |c: &core::ContainerStatus| {
        let st = |x: &Option<core::ContainerState>| {
            let x = x.clone().unwrap_or_default();
            if let Some(w) = x.waiting {
                format!("waiting({})", w.reason.unwrap_or_default())
            } else if let Some(t) = x.terminated {
                format!("terminated({} {})", t.exit_code, t.reason.unwrap_or_default())
            } else if x.running.is_some() {
                "running".into()
            } else {
                "-".into()
            }
        };
        let mut out = format!("{}:{} last:{} r{}", c.name, st(&c.state), st(&c.last_state), c.restart_count);
        if c.ready {
            out += " ready";
        }
        if c.started == Some(true) {
            out += " started";
        }
        out
    };
    let all = s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten());
    let parts: Vec<String> = all.map(one).collect();
    format!("{} | {}", s.phase.clone().unwrap_or_default(), parts.join(" | "))
}

fn condition(s: &core::PodStatus, kind: &str) -> String {
    let c = s.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
    format!(
        "{} {} {}",
        c.status,
        c.reason.clone().unwrap_or("-".into()),
        c.message.clone().unwrap_or("-".into())
    )
}

#[test]
fn a_pod_goes_from_pending_over_running_to_its_end() {
    let always = pod("Always", json!({}));
    let never = pod("Never", json!({}));
    let on_failure = pod("OnFailure", json!({}));
    let cases: &[(&core::Pod, &[&str], &str)] = &[
        (&always, &[], "Pending | c:waiting(ContainerCreating) last:- r0"),
        (&always, &["c 0 created"], "Pending | c:waiting(ContainerCreating) last:- r0"),
        (&always, &["c 0 running"], "Running | c:running last:- r0 ready started"),
        (&always, &["c 0 exited 1"], "Running | c:terminated(1 Error) last:- r0"),
        (&always, &["c 0 exited 0"], "Running | c:terminated(0 Completed) last:- r0"),
        (
            &always,
            &["c 0 exited 137 OOMKilled", "c 1 running"],
            "Running | c:running last:terminated(137 OOMKilled) r1 ready started",
        ),
        (&never, &["c 0 exited 0"], "Succeeded | c:terminated(0 Completed) last:- r0"),
        (&never, &["c 0 exited 3"], "Failed | c:terminated(3 Error) last:- r0"),
        (&on_failure, &["c 0 exited 3"], "Running | c:terminated(3 Error) last:- r0"),
        (
            &on_failure,
            &["c 0 exited 3", "c 1 exited 0"],
            "Succeeded | c:terminated(0 Completed) last:terminated(3 Error) r1",
        ),
    ];
    for (pod, containers, wanted) in cases {
        assert_eq!(show(&World::of(containers).status(pod)), *wanted, "{containers:?}");
    }
}

#[test]
fn a_container_that_waits_to_run_again_shows_why_and_how_it_ended() {
    let mut w = World::of(&["c 2 exited 1"]);
    w.waiting.insert("c".into(), Waiting { reason: "CrashLoopBackOff", message: "back-off 20s".into() });
    let s = w.status(&pod("Always", json!({})));
    assert_eq!(show(&s), "Running | c:waiting(CrashLoopBackOff) last:terminated(1 Error) r2");
    assert_eq!(condition(&s, "Ready"), "False ContainersNotReady containers with unready status: [c]");
    let state = s.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().message.unwrap(), "back-off 20s");
}

#[test]
fn an_image_that_cannot_be_pulled_shows_in_a_pending_pod() {
    let mut w = World::of(&[]);
    w.waiting.insert("c".into(), Waiting { reason: "ErrImagePull", message: "no".into() });
    assert_eq!(show(&w.status(&pod("Always", json!({})))), "Pending | c:waiting(ErrImagePull) last:- r0");
}

#[test]
fn init_containers_come_first_and_a_failed_one_fails_a_pod_that_never_restarts() {
    let inits =
        json!({ "initContainers": [{ "name": "a", "image": "img" }, { "name": "b", "image": "img" }] });
    let p = pod("Never", inits.clone());
    let s = World::of(&["a 0 running"]).status(&p);
    assert_eq!(
        show(&s),
        "Pending | a:running last:- r0 started | b:waiting(PodInitializing) last:- r0 | c:waiting(PodInitializing) last:- r0"
    );
    assert_eq!(
        condition(&s, "Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [a b]"
    );
    let s = World::of(&["a 0 exited 1"]).status(&p);
    assert!(show(&s).starts_with("Failed | a:terminated(1 Error)"), "{}", show(&s));
    let s = World::of(&["a 0 exited 1"]).status(&pod("Always", inits.clone()));
    assert!(show(&s).starts_with("Pending | a:terminated(1 Error)"), "{}", show(&s));
    let s = World::of(&["a 0 exited 0", "b 0 exited 0", "c 0 running"]).status(&p);
    assert!(show(&s).starts_with("Running | a:terminated(0 Completed) last:- r0 ready"), "{}", show(&s));
    assert_eq!(condition(&s, "Initialized"), "True - -");
    assert_eq!(condition(&s, "Ready"), "True - -");
}

#[test]
fn readiness_follows_the_probes_and_a_startup_probe_comes_before() {
    let probe = json!({ "tcpSocket": { "port": 80 } });
    let containers = |p: Value| json!({ "containers": [p] });
    let ready = pod("Always", containers(json!({ "name": "c", "image": "img", "readinessProbe": probe })));
    let mut w = World::of(&["c 0 running"]);
    assert_eq!(show(&w.status(&ready)), "Running | c:running last:- r0 started");
    w.probes.insert("c0".into(), ProbeResults { readiness: Some(true), ..Default::default() });
    assert_eq!(show(&w.status(&ready)), "Running | c:running last:- r0 ready started");
    let startup = pod("Always", containers(json!({ "name": "c", "image": "img", "startupProbe": probe })));
    let mut w = World::of(&["c 0 running"]);
    assert_eq!(show(&w.status(&startup)), "Running | c:running last:- r0");
    w.probes.insert("c0".into(), ProbeResults { startup: Some(true), ..Default::default() });
    assert_eq!(show(&w.status(&startup)), "Running | c:running last:- r0 ready started");
}

#[test]
fn after_a_restart_of_the_kubelet_a_ready_container_stays_ready_until_its_probe_speaks() {
    let probe = json!({ "tcpSocket": { "port": 80 } });
    let p =
        pod("Always", json!({ "containers": [{ "name": "c", "image": "img", "readinessProbe": probe }] }));
    let mut w = World::of(&["c 0 running"]);
    w.probes.insert("c0".into(), ProbeResults { readiness: Some(true), ..Default::default() });
    let before = w.status(&p);
    w.probes.clear();
    w.previous = before.clone();
    assert_eq!(w.status(&p), before);
}

#[test]
fn a_deleted_pod_ends_as_its_containers_did_whatever_its_policy() {
    let p = pod("Always", json!({}));
    for (list, wanted) in [(&["c 0 exited 0"], "Succeeded"), (&["c 0 exited 143"], "Failed")] {
        let mut w = World::of(list);
        w.ended = true;
        assert_eq!(w.status(&p).phase.as_deref(), Some(wanted));
    }
}

#[test]
fn an_end_is_final_though_the_containers_are_gone() {
    let p = pod("Never", json!({}));
    let mut w = World::of(&["c 0 exited 0"]);
    w.previous = w.status(&p);
    w.containers.clear();
    w.no_sandbox = true;
    let s = w.status(&p);
    assert_eq!(show(&s), "Succeeded | c:terminated(0 Completed) last:- r0");
    assert_eq!(condition(&s, "Ready"), "False PodCompleted -");
    assert_eq!(condition(&s, "Initialized"), "True PodCompleted -");
    assert_eq!(s.pod_ip.as_deref(), Some("127.42.0.2"));
}

#[test]
fn an_evicted_pod_has_failed_and_says_why() {
    let mut w = World::of(&["c 0 running"]);
    w.eviction = Some(Eviction { reason: "DeadlineExceeded".into(), message: "too long".into() });
    let s = w.status(&pod("Always", json!({})));
    assert_eq!(
        (s.phase.as_deref(), s.reason.as_deref(), s.message.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"), Some("too long"))
    );
    assert_eq!(condition(&s, "ContainersReady"), "False PodFailed -");
}

#[test]
fn conditions_keep_the_time_of_their_last_change() {
    let p = pod("Always", json!({}));
    let mut w = World::of(&["c 0 running"]);
    let mut before = w.status(&p);
    for c in before.conditions.iter_mut().flatten() {
        c.last_transition_time = Some(Time(at(5)));
    }
    w.previous = before;
    let since = |s: &core::PodStatus, kind: &str| {
        let c = s.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        c.last_transition_time.clone().unwrap().0
    };
    let same = w.status(&p);
    assert_eq!(since(&same, "Ready"), at(5));
    w.containers = vec![container("c 0 exited 1")];
    let changed = w.status(&p);
    assert_eq!((since(&changed, "Ready"), since(&changed, "PodScheduled")), (at(100), at(5)));
}

#[test]
fn a_readiness_gate_keeps_a_pod_unready() {
    let p = pod("Always", json!({ "readinessGates": [{ "conditionType": "x/y" }] }));
    let s = World::of(&["c 0 running"]).status(&p);
    assert_eq!(condition(&s, "ContainersReady"), "True - -");
    assert_eq!(
        condition(&s, "Ready"),
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist."
    );
}

#[test]
fn container_ids_carry_the_runtimes_name_and_ends_carry_their_facts() {
    let s = World::of(&["c 0 exited 137 OOMKilled"]).status(&pod("Never", json!({})));
    let c = &s.container_statuses.unwrap()[0];
    assert_eq!(c.container_id.as_deref(), Some("dhow://c0"));
    assert_eq!(c.image_id, "sha256:1");
    let t = c.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(
        (t.exit_code, t.reason.as_deref(), t.container_id.as_deref()),
        (137, Some("OOMKilled"), Some("dhow://c0"))
    );
    assert_eq!((t.started_at.as_ref().unwrap().0, t.finished_at.as_ref().unwrap().0), (at(1), at(2)));
}

#[test]
fn a_container_that_vanished_is_shown_as_lost() {
    let p = pod("Always", json!({}));
    let mut w = World::of(&["c 0 running"]);
    w.previous = w.status(&p);
    w.containers.clear();
    assert_eq!(
        show(&w.status(&p)),
        "Pending | c:waiting(ContainerCreating) last:terminated(137 ContainerStatusUnknown) r0"
            .replace("Pending", "Running")
    );
}

#[test]
fn the_patch_replaces_what_is_ours_and_nulls_what_is_no_more() {
    let s = World::of(&["c 0 running"]).status(&pod("Always", json!({})));
    let patch = writer::status_patch("u", &s);
    assert_eq!(patch["metadata"]["uid"], "u");
    assert_eq!(patch["status"]["reason"], Value::Null);
    assert!(patch["status"].as_object().unwrap().contains_key("reason"));
    assert_eq!(patch["status"]["podIPs"], json!([{ "$patch": "replace" }, { "ip": "127.42.0.2" }]));
    assert!(writer::shows(&s, &s));
}

#[test]
fn the_class_of_service_follows_requests_and_limits() {
    let class = |r: Value| {
        let p = pod("Always", json!({ "containers": [{ "name": "c", "resources": r }] }));
        qos::qos_class(p.spec.as_ref().unwrap())
    };
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({ "limits": { "cpu": "1", "memory": "1Gi" } })), "Guaranteed");
    assert_eq!(class(json!({ "limits": { "memory": "1Gi" } })), "Burstable");
    assert_eq!(
        class(json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } })),
        "Burstable"
    );
}
