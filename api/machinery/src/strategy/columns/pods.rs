//! Pods: the status column is a summary of phase, conditions and every container's state.
use super::{AGE, NAME, or_none, shown, since, timestamp, wide};
use crate::meta;
use crate::strategy::view::{flag, has, int, list, text};
use crate::table::Column;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(in crate::strategy) static POD: &[Column] = &[
    NAME,
    shown("Ready", "string", "Ready containers of all containers.", |o, _| {
        let s = summary(o);
        json!(format!("{}/{}", s.ready, s.total))
    }),
    shown("Status", "string", "The state of the pod and its containers in one word.", |o, _| {
        json!(summary(o).reason)
    }),
    shown("Restarts", "string", "How often containers were restarted, and when last.", |o, now| {
        let s = summary(o);
        match s.last_restart {
            Some(t) if s.restarts != 0 => {
                json!(format!("{} ({} ago)", s.restarts, since(&t.to_string(), now)))
            }
            _ => json!(s.restarts.to_string()),
        }
    }),
    AGE,
    wide("IP", "string", "The pod's address.", |o, _| {
        json!(or_none(match text(o, "/status/podIPs/0/ip") {
            "" => text(o, "/status/podIP"),
            ip => ip,
        }))
    }),
    wide("Node", "string", "The node that runs the pod.", |o, _| json!(or_none(text(o, "/spec/nodeName")))),
    wide("Nominated Node", "string", "The node on which the pod waits for others to leave.", |o, _| {
        json!(or_none(text(o, "/status/nominatedNodeName")))
    }),
    wide("Readiness Gates", "string", "Readiness gates that are true, of all.", |o, _| {
        let gates = list(o, "/spec/readinessGates");
        let is_true = |gate: &&Value| {
            let conditions = list(o, "/status/conditions");
            conditions
                .iter()
                .find(|c| c["type"] == gate["conditionType"])
                .is_some_and(|c| c["status"] == "True")
        };
        match gates.len() {
            0 => json!("<none>"),
            n => json!(format!("{}/{n}", gates.iter().filter(is_true).count())),
        }
    }),
];

/// What the columns show of a pod.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += int(container, "/restartCount");
        let finished = timestamp(text(container, "/lastState/terminated/finishedAt"));
        self.last_restart = self.last_restart.max(finished);
    }
}

/// How a container ended, where its status gives no reason.
fn exit(container: &Value) -> String {
    match int(container, "/state/terminated/signal") {
        0 => format!("ExitCode:{}", int(container, "/state/terminated/exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

fn reason_of_termination(container: &Value) -> String {
    match text(container, "/state/terminated/reason") {
        "" => exit(container),
        reason => reason.to_owned(),
    }
}

fn is_sidecar(pod: &Value, name: &Value) -> bool {
    let mut init = list(pod, "/spec/initContainers").iter();
    init.any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    crate::strategy::view::condition_is_true(pod, kind)
}

/// The first init container that is not done, as the status shows it. Counts sidecars' readiness and restarts
/// on the way: into `s` those of all init containers, into `sidecars` those of sidecars alone.
fn initializing(pod: &Value, s: &mut Summary, sidecars: &mut Summary) -> Option<String> {
    let all = list(pod, "/spec/initContainers").len();
    for (i, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(pod, &container["name"]);
        s.count_restarts(container);
        if sidecar {
            sidecars.count_restarts(container);
        }
        if has(container, "/state/terminated") && int(container, "/state/terminated/exitCode") == 0 {
            continue;
        }
        if sidecar && flag(container, "/started") {
            s.ready += usize::from(flag(container, "/ready"));
            continue;
        }
        if has(container, "/state/terminated") {
            return Some(format!("Init:{}", reason_of_termination(container)));
        }
        return Some(match text(container, "/state/waiting/reason") {
            "" | "PodInitializing" => format!("Init:{i}/{all}"),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "/status/phase");
    let total = list(pod, "/spec/containers").len()
        + list(pod, "/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut s = Summary { total, ..Summary::default() };
    s.reason = match text(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if list(pod, "/status/conditions").iter().any(gated) {
        s.reason = "SchedulingGated".to_owned();
    }

    let mut sidecars = Summary::default();
    let waiting = initializing(pod, &mut s, &mut sidecars);
    let still_initializing = waiting.is_some();
    if let Some(reason) = waiting {
        s.reason = reason;
    }
    if !still_initializing || has_condition(pod, "Initialized") {
        (s.restarts, s.last_restart) = (sidecars.restarts, sidecars.last_restart);
        let mut running = false;
        // From the last to the first: the first container's reason wins.
        for container in list(pod, "/status/containerStatuses").iter().rev() {
            s.count_restarts(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                s.reason = waiting.to_owned();
            } else if has(container, "/state/terminated") {
                s.reason = reason_of_termination(container);
            } else if flag(container, "/ready") && has(container, "/state/running") {
                running = true;
                s.ready += 1;
            }
        }
        if s.reason == "Completed" && running {
            s.reason = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if meta::is_terminating(pod) {
        if text(pod, "/status/reason") == "NodeLost" {
            s.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            s.reason = "Terminating".to_owned();
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": status
        })
    }
    fn status_of(p: &Value) -> (String, String, String) {
        let s = |name| cell(POD, name, p, NOW).as_str().unwrap().to_owned();
        (s("Ready"), s("Status"), s("Restarts"))
    }
    fn check(p: &Value, ready: &str, status: &str) {
        let (r, s, _) = status_of(p);
        assert_eq!((r.as_str(), s.as_str()), (ready, status), "{p}");
    }

    #[test]
    fn the_status_names_what_keeps_a_pod_from_running() {
        check(&pod(json!({"phase": "Pending"})), "0/2", "Pending");
        check(
            &pod(
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            ),
            "0/2",
            "SchedulingGated",
        );
        check(
            &pod(json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": {"running": {}}}]})),
            "0/2",
            "Init:1/2",
        );
        check(
            &pod(json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})),
            "0/2",
            "Init:CrashLoopBackOff",
        );
        check(
            &pod(json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 3}}}]})),
            "0/2",
            "Init:ExitCode:3",
        );
        check(
            &pod(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                {"name": "b", "ready": true, "state": {"running": {}}}]})),
            "1/2",
            "CrashLoopBackOff",
        );
        check(
            &pod(json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
                {"name": "b", "state": {"terminated": {"signal": 9}}}]})),
            "0/2",
            "OOMKilled",
        );
        check(&pod(json!({"phase": "Failed", "reason": "Evicted"})), "0/2", "Evicted");
    }

    #[test]
    fn a_pod_with_one_container_done_and_one_running_is_not_completed() {
        let mut p = pod(json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}},
            {"name": "b", "ready": true, "state": {"running": {}}}]}));
        check(&p, "1/2", "NotReady");
        p["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        check(&p, "1/2", "Running");
    }

    #[test]
    fn a_deleted_pod_is_terminating_until_it_has_ended() {
        let mut p = pod(json!({"phase": "Running"}));
        p["metadata"]["deletionTimestamp"] = json!(NOW);
        check(&p, "0/2", "Terminating");
        p["status"]["reason"] = json!("NodeLost");
        check(&p, "0/2", "Unknown");
        p["status"] = json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]});
        check(&p, "0/2", "Completed");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let mut p = pod(json!({"phase": "Running",
            "initContainerStatuses": [
                {"name": "i", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}}},
                {"name": "j", "restartCount": 5, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}},
                {"name": "b", "ready": true, "state": {"running": {}}}]}));
        p["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
        assert_eq!(status_of(&p), ("3/3".into(), "Running".into(), "3".into()));
    }

    #[test]
    fn gates_and_absent_addresses_are_shown_in_the_wide_columns() {
        let mut p = pod(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "a/b", "status": "True"}]}));
        p["spec"]["readinessGates"] = json!([{"conditionType": "a/b"}, {"conditionType": "c/d"}]);
        assert_eq!(cell(POD, "Readiness Gates", &p, NOW), "1/2");
        assert_eq!(cell(POD, "IP", &p, NOW), "10.0.0.1");
        assert_eq!(cell(POD, "Node", &p, NOW), "<none>");
    }
}
