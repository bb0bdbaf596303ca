//! The conditions of a pod.
use super::{Sources, is_terminal, seconds};
use crate::actions::is_sidecar;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

struct Verdict {
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn ok() -> Self {
        Self { ok: true, reason: None, message: None }
    }
    fn no(reason: &'static str, message: String) -> Self {
        Self { ok: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
    }
    fn completed() -> Self {
        Self::no("PodCompleted", String::new())
    }
}

/// Every condition: ours computed, those of others as they were.
pub fn conditions(
    s: &Sources<'_>,
    spec: &core::PodSpec,
    status: &core::PodStatus,
) -> Vec<core::PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let containers_ready = containers_ready(spec, status, phase);
    let ready = ready(s, spec, &containers_ready);
    let sandbox = Verdict {
        ok: s.observed.ready_sandbox().is_some_and(|b| !b.ip.is_empty() || spec.host_network == Some(true)),
        reason: None,
        message: None,
    };
    let ours = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(spec, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::ok()),
    ];
    let before = |kind: &str| {
        let api = s.pod.status.as_ref().and_then(|st| st.conditions.as_ref());
        s.previous
            .conditions
            .iter()
            .flatten()
            .chain(api.into_iter().flatten())
            .find(|c| c.type_ == kind)
            .cloned()
    };
    let mut all: Vec<core::PodCondition> = ours
        .into_iter()
        .map(|(kind, verdict)| {
            let status = if verdict.ok { "True" } else { "False" };
            let since = before(kind)
                .filter(|b| b.status == status)
                .and_then(|b| b.last_transition_time)
                .unwrap_or(Time(seconds(s.now)));
            core::PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.map(str::to_owned),
                message: verdict.message,
                last_transition_time: Some(since),
                last_probe_time: None,
                observed_generation: s.pod.metadata.generation,
            }
        })
        .collect();
    if let Some(e) = s.eviction.filter(|e| e.reason == "Evicted") {
        all.push(core::PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("TerminationByKubelet".into()),
            message: Some(e.message.clone()),
            last_transition_time: Some(Time(seconds(s.now))),
            ..Default::default()
        });
    }
    all
}

fn initialized(spec: &core::PodSpec, status: &core::PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { ok: true, reason: Some("PodCompleted"), message: None };
    }
    let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    let begun = status.container_statuses.iter().flatten().any(|c| {
        let st = c.state.as_ref();
        st.is_some_and(|st| st.running.is_some() || st.terminated.is_some())
    });
    let incomplete: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| {
            let st = statuses.iter().find(|x| x.name == c.name);
            if is_sidecar(c) {
                st.is_none_or(|x| x.started != Some(true)) && !begun
            } else {
                !st.is_some_and(|x| x.ready)
            }
        })
        .map(|c| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        Verdict::ok()
    } else {
        Verdict::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        )
    }
}

fn containers_ready(spec: &core::PodSpec, status: &core::PodStatus, phase: &str) -> Verdict {
    if is_terminal(Some(phase)) {
        return if phase == "Succeeded" {
            Verdict::completed()
        } else {
            Verdict::no("PodFailed", String::new())
        };
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let unready: Vec<&str> = sidecars
        .chain(&spec.containers)
        .filter(|c| {
            let all = status
                .init_container_statuses
                .iter()
                .flatten()
                .chain(status.container_statuses.iter().flatten());
            !all.into_iter().any(|x| x.name == c.name && x.ready)
        })
        .map(|c| c.name.as_str())
        .collect();
    if unready.is_empty() {
        Verdict::ok()
    } else {
        Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    }
}

fn ready(s: &Sources<'_>, spec: &core::PodSpec, containers: &Verdict) -> Verdict {
    if !containers.ok {
        return Verdict { ok: false, reason: containers.reason, message: containers.message.clone() };
    }
    let given = s.pod.status.as_ref().and_then(|st| st.conditions.as_deref()).unwrap_or_default();
    let mut closed = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match given.iter().find(|c| &c.type_ == kind) {
            None => closed
                .push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => closed.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if closed.is_empty() { Verdict::ok() } else { Verdict::no("ReadinessGatesNotReady", closed.join(", ")) }
}
