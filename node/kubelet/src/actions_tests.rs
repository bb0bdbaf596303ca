use super::*;
use crate::observed::Sandbox;
use serde_json::{Value, json};

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + s).unwrap()
}

fn pod(policy: &str, extra: Value) -> core::Pod {
    let mut spec = json!({ "restartPolicy": policy, "containers": [{ "name": "c", "image": "img" }] });
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(json!({ "metadata": { "name": "p", "uid": "u" }, "spec": spec })).unwrap()
}

/// Sandboxes as `attempt ready|dead`, containers as `name attempt state [code] [@sandbox attempt]`.
fn world(sandboxes: &[&str], containers: &[&str]) -> ObservedPod {
    let mut out = ObservedPod::default();
    for text in sandboxes {
        let (attempt, state) = text.split_once(' ').unwrap();
        out.sandboxes.push(Sandbox {
            id: format!("s{attempt}"),
            attempt: attempt.parse().unwrap(),
            ready: state == "ready",
            ip: if state == "ready" { "127.42.0.2".into() } else { String::new() },
            more_ips: vec![],
            created_at: at(0),
        });
    }
    for text in containers {
        let (text, sandbox) = text.split_once(" @").unwrap_or((text, "0"));
        let w: Vec<&str> = text.split(' ').collect();
        let state = match w[2] {
            "created" => RunState::Created,
            "running" => RunState::Running,
            "exited" => RunState::Exited,
            _ => RunState::Unknown,
        };
        out.containers.push(Container {
            id: format!("{}{}", w[0], w[1]),
            name: w[0].into(),
            attempt: w[1].parse().unwrap(),
            sandbox_id: format!("s{sandbox}"),
            state,
            created_at: at(0),
            started_at: Some(at(0)),
            finished_at: (state == RunState::Exited).then(|| at(1)),
            exit_code: w.get(3).map_or(0, |c| c.parse().unwrap()),
            reason: String::new(),
            message: String::new(),
            image: "img".into(),
            image_id: String::new(),
            log_path: String::new(),
            hash: spec_hash(w[0], "img"),
        });
    }
    out.sort();
    out
}

fn show(plan: &PodActions) -> String {
    let mut out = Vec::new();
    if plan.kill_pod {
        out.push("kill-pod".to_owned());
    }
    out.extend(plan.create_sandbox.map(|a| format!("sandbox {a}")));
    out.extend(plan.kill.iter().map(|k| format!("kill {}", k.id)));
    for s in &plan.start {
        let how = s.existing.as_ref().map_or(String::new(), |id| format!(" as {id}"));
        out.push(format!("{} {}#{}{how}", if s.init { "init" } else { "start" }, s.name, s.attempt));
    }
    out.extend(plan.waiting.iter().map(|w| format!("wait {}", w.name)));
    out.join(", ")
}

fn plan(pod: &core::Pod, sandboxes: &[&str], containers: &[&str]) -> String {
    show(&compute_pod_actions(
        pod,
        &world(sandboxes, containers),
        &BTreeMap::new(),
        &Backoff::default(),
        at(10),
    ))
}

#[test]
fn what_is_done_follows_from_what_is_there() {
    let always = pod("Always", json!({}));
    let on_failure = pod("OnFailure", json!({}));
    let never = pod("Never", json!({}));
    let cases: &[(&core::Pod, &[&str], &[&str], &str)] = &[
        (&always, &[], &[], "sandbox 0, start c#0"),
        (&always, &["0 ready"], &[], "start c#0"),
        (&always, &["0 ready"], &["c 0 created"], "start c#0 as c0"),
        (&always, &["0 ready"], &["c 0 running"], ""),
        (&always, &["0 ready"], &["c 0 exited 0"], "start c#1"),
        // It may be running: it is not to run twice.
        (&always, &["0 ready"], &["c 0 unknown"], "kill c0, start c#1"),
        (&on_failure, &["0 ready"], &["c 0 exited 1"], "start c#1"),
        (&on_failure, &["0 ready"], &["c 0 exited 0"], "kill-pod"),
        (&never, &["0 ready"], &["c 0 exited 1"], "kill-pod"),
        // The machine restarted: the sandbox is dead, its containers with it.
        (&always, &["0 dead"], &["c 0 exited 255"], "kill-pod, sandbox 1, start c#1"),
        (&never, &["0 dead"], &["c 0 exited 255"], "kill-pod"),
        (&on_failure, &["0 dead"], &["c 0 exited 0"], "kill-pod"),
        (&always, &["1 ready", "0 dead"], &["c 0 exited 255"], "start c#1"),
        (&always, &["1 ready", "0 ready"], &["c 0 running"], "kill-pod, sandbox 2, start c#1"),
    ];
    for (pod, sandboxes, containers, wanted) in cases {
        assert_eq!(plan(pod, sandboxes, containers), *wanted, "{sandboxes:?} {containers:?}");
    }
}

#[test]
fn a_pod_whose_sandbox_died_before_anything_ran_gets_another_even_if_it_never_restarts() {
    let never = pod("Never", json!({}));
    assert_eq!(plan(&never, &["0 dead"], &[]), "kill-pod, sandbox 1, start c#0");
    assert_eq!(plan(&never, &["0 dead"], &["c 0 created"]), "kill-pod, sandbox 1, start c#1");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let inits =
        json!({ "initContainers": [{ "name": "a", "image": "img" }, { "name": "b", "image": "img" }] });
    let always = pod("Always", inits.clone());
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&[], &[], "sandbox 0, init a#0"),
        (&["0 ready"], &[], "init a#0"),
        (&["0 ready"], &["a 0 running"], ""),
        (&["0 ready"], &["a 0 exited 1"], "init a#1"),
        (&["0 ready"], &["a 0 exited 0"], "init b#0"),
        (&["0 ready"], &["a 0 exited 0", "b 0 exited 0"], "start c#0"),
        // Once begun, what became of the init containers does not matter.
        (&["0 ready"], &["c 0 exited 1"], "start c#1"),
        // In a new sandbox they run again.
        (&["1 ready", "0 dead"], &["a 0 exited 0", "b 0 exited 0", "c 0 exited 255"], "init a#1"),
    ];
    for (sandboxes, containers, wanted) in cases {
        assert_eq!(plan(&always, sandboxes, containers), *wanted, "{sandboxes:?} {containers:?}");
    }
    assert_eq!(plan(&pod("Never", inits), &["0 ready"], &["a 0 exited 1"]), "kill-pod");
}

#[test]
fn a_sidecar_starts_before_and_runs_beside_and_ends_with_the_others() {
    let side = json!({ "initContainers": [{ "name": "s", "image": "img", "restartPolicy": "Always" },
                                          { "name": "a", "image": "img" }] });
    let never = pod("Never", side);
    assert_eq!(plan(&never, &["0 ready"], &[]), "init s#0");
    assert_eq!(plan(&never, &["0 ready"], &["s 0 running"]), "init a#0");
    assert_eq!(plan(&never, &["0 ready"], &["s 0 running", "a 0 exited 0"]), "start c#0");
    assert_eq!(plan(&never, &["0 ready"], &["s 0 exited 1", "a 0 exited 0", "c 0 running"]), "init s#1");
    assert_eq!(plan(&never, &["0 ready"], &["s 0 running", "a 0 exited 0", "c 0 exited 0"]), "kill-pod");
}

#[test]
fn a_container_that_failed_its_probe_is_killed_and_then_started_again() {
    let p = pod(
        "Always",
        json!({ "containers": [{ "name": "c", "image": "img", "livenessProbe": { "terminationGracePeriodSeconds": 7 } }] }),
    );
    let w = world(&["0 ready"], &["c 0 running"]);
    let probes =
        BTreeMap::from([("c0".to_owned(), ProbeResults { liveness: Some(false), ..Default::default() })]);
    let plan = compute_pod_actions(&p, &w, &probes, &Backoff::default(), at(10));
    assert_eq!(
        plan.kill,
        [Kill {
            id: "c0".into(),
            name: "c".into(),
            message: "Container c failed liveness probe, will be restarted".into(),
            grace_seconds: Some(7)
        }]
    );
    assert!(!plan.kill_pod && plan.start.is_empty());
}

#[test]
fn a_changed_image_restarts_the_container_whatever_the_policy() {
    let p = pod("Never", json!({ "containers": [{ "name": "c", "image": "new" }] }));
    assert_eq!(plan(&p, &["0 ready"], &["c 0 running"]), "kill c0");
    assert_eq!(plan(&p, &["0 ready"], &["c 0 exited 0"]), "start c#1");
}

#[test]
fn a_container_that_went_with_its_runtime_starts_at_once_however_often_that_happens() {
    let p = pod("Always", json!({}));
    let mut w = world(&["0 ready"], &["c 3 exited 255"]);
    let mut backoff = Backoff::default();
    backoff.next("c", at(0), at(0));
    let waits = compute_pod_actions(&p, &w, &BTreeMap::new(), &backoff, at(2));
    assert_eq!(show(&waits), "wait c", "a program may end with 255 itself");
    w.containers[0].reason = "Unknown".into();
    let plan = compute_pod_actions(&p, &w, &BTreeMap::new(), &backoff, at(2));
    assert_eq!(show(&plan), "start c#4");
    assert_eq!(plan.start[0].after, None, "and the next wait is not longer for it");
}

#[test]
fn a_crashed_container_waits_its_backoff_while_others_go_on() {
    let p = pod(
        "Always",
        json!({ "containers": [{ "name": "c", "image": "img" }, { "name": "d", "image": "img" }] }),
    );
    let mut backoff = Backoff::default();
    backoff.next("c", at(0), at(0));
    let w = world(&["0 ready"], &["c 1 exited 1"]);
    let early = compute_pod_actions(&p, &w, &BTreeMap::new(), &backoff, at(5));
    assert_eq!(show(&early), "start d#0, wait c");
    assert_eq!(early.waiting[0].until, at(11));
    let late = compute_pod_actions(&p, &w, &BTreeMap::new(), &backoff, at(11));
    assert_eq!(show(&late), "start c#2, start d#0");
}

#[test]
fn restart_rules_override_the_policy() {
    let rules = json!({ "containers": [{ "name": "c", "image": "img", "restartPolicy": "Never",
        "restartPolicyRules": [{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }] }] });
    let p = pod("Never", rules);
    assert_eq!(plan(&p, &["0 ready"], &["c 0 exited 42"]), "start c#1");
    assert_eq!(plan(&p, &["0 ready"], &["c 0 exited 1"]), "kill-pod");
}

#[test]
fn two_dead_containers_of_a_name_are_kept_and_no_more() {
    let w =
        world(&["0 ready"], &["c 0 exited 1", "c 1 exited 1", "c 2 exited 1", "c 3 running", "d 0 exited 0"]);
    assert_eq!(w.surplus(), ["c1", "c0"]);
}
