//! What to do next for a pod: a pure decision over the pod, what the runtime shows, what the probes say and the
//! time. Whoever carries it out may die between any two steps; the next decision starts from what is there.
use crate::backoff::Backoff;
use crate::observed::{Container, ObservedPod, RunState, spec_hash};
use crate::probes::ProbeResults;
use client::k8s_openapi::api::core::v1 as core;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// A container to stop, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    /// As the Killing event words it.
    pub message: String,
    /// A grace period of its own, from the probe that failed.
    pub grace_seconds: Option<i64>,
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Index into `spec.initContainers` or `spec.containers`.
    pub index: usize,
    pub init: bool,
    pub name: String,
    /// A container that was made and not yet started; it only needs the start.
    pub existing: Option<String>,
    /// The `restartCount` of the container to make.
    pub attempt: u32,
    /// When the one before it ended by itself.
    pub after: Option<Timestamp>,
}

/// A container that has to wait before it starts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InBackoff {
    pub name: String,
    pub init: bool,
    pub until: Timestamp,
    /// The length of the whole wait.
    pub delay: SignedDuration,
}

/// The plan for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodActions {
    /// Stop every container and every sandbox first.
    pub kill_pod: bool,
    /// Make a sandbox, the how-many-eth of this pod.
    pub create_sandbox: Option<u32>,
    pub kill: Vec<Kill>,
    /// In order.
    pub start: Vec<Start>,
    pub waiting: Vec<InBackoff>,
    /// Whether all init containers are through.
    pub initialized: bool,
    /// Why things are as they are, for the log.
    pub why: Vec<String>,
}

impl PodActions {
    /// Whether there is nothing to do now.
    pub fn is_empty(&self) -> bool {
        !self.kill_pod && self.create_sandbox.is_none() && self.kill.is_empty() && self.start.is_empty()
    }
}

/// Whether a container runs for the pod's whole life beside the others (a sidecar in `initContainers`).
pub fn is_sidecar(c: &core::Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn restart_policy(pod: &core::Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` is to run again.
pub fn restarts(pod: &core::Pod, c: &core::Container, exit_code: i32) -> bool {
    for rule in c.restart_policy_rules.iter().flatten() {
        let Some(on) = &rule.exit_codes else { continue };
        let listed = on.values.iter().flatten().any(|v| *v == exit_code);
        if rule.action == "Restart" && listed == (on.operator == "In") {
            return true;
        }
    }
    match c.restart_policy.as_deref().unwrap_or(restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the pod would be started again after all of it is gone.
fn may_restart(pod: &core::Pod) -> bool {
    restart_policy(pod) != "Never"
}

/// Decides what to do for a pod that should run. (One that should end is stopped whole; there is nothing to
/// decide.)
pub fn compute_pod_actions(
    pod: &core::Pod,
    observed: &ObservedPod,
    probes: &BTreeMap<String, ProbeResults>,
    backoff: &Backoff,
    now: Timestamp,
) -> PodActions {
    let Some(spec) = &pod.spec else { return PodActions::default() };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let mut plan = PodActions::default();

    if let Some(attempt) = needs_sandbox(pod, observed, &mut plan.why) {
        plan.kill_pod = !observed.sandboxes.is_empty();
        // What was made and never started has run nothing: it may be made again.
        let has_run = observed.containers.iter().any(|o| o.state != RunState::Created);
        if !may_restart(pod) && attempt != 0 && has_run {
            plan.why.push("the sandbox is gone and restartPolicy is Never".into());
            return plan;
        }
        let to_start: Vec<usize> = (0..spec.containers.len())
            .filter(|i| {
                let c = &spec.containers[*i];
                observed
                    .newest(&c.name)
                    .is_none_or(|o| o.state != RunState::Exited || restarts(pod, c, o.exit_code))
            })
            .collect();
        if to_start.is_empty() {
            plan.why.push("every container has ended and none is to run again".into());
            return plan;
        }
        plan.create_sandbox = Some(attempt);
        plan.initialized = inits.is_empty();
        if !inits.is_empty() {
            // A new sandbox has nothing of the old one: initialization starts from the first.
            start_or_wait(&mut plan, observed, &inits[0], 0, true, backoff, now, false);
            return plan;
        }
        for i in to_start {
            start_or_wait(&mut plan, observed, &spec.containers[i], i, false, backoff, now, false);
        }
        return plan;
    }

    let sandbox = observed.sandbox().map(|s| s.id.as_str()).unwrap_or_default();
    plan.initialized = plan_init_containers(pod, inits, observed, sandbox, probes, backoff, now, &mut plan);
    if plan.kill_pod || !plan.initialized {
        return plan;
    }

    let mut kept = 0;
    for (i, c) in spec.containers.iter().enumerate() {
        match observed.newest(&c.name) {
            Some(o) if o.state == RunState::Running => match failing(c, o, probes) {
                Some((message, grace, changed)) => {
                    let again = changed || restarts(pod, c, 1);
                    let message = if again { format!("{message}, will be restarted") } else { message };
                    plan.kill.push(Kill {
                        id: o.id.clone(),
                        name: c.name.clone(),
                        message,
                        grace_seconds: grace,
                    });
                    kept += 1;
                }
                None => kept += 1,
            },
            Some(o) if o.state == RunState::Exited && !restarts(pod, c, o.exit_code) && !changed(c, o) => {}
            o => {
                plan.kill.extend(o.and_then(kill_unknown));
                start_or_wait(&mut plan, observed, c, i, false, backoff, now, true);
                kept += 1;
            }
        }
    }
    if kept == 0 {
        plan.kill_pod = true;
        plan.start.clear();
        plan.why.push("every container has ended and none is to run again".into());
    }
    plan
}

/// The attempt number of the sandbox to make, if one is needed.
fn needs_sandbox(pod: &core::Pod, observed: &ObservedPod, why: &mut Vec<String>) -> Option<u32> {
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let Some(newest) = observed.sandbox() else {
        why.push("the pod has no sandbox".into());
        return Some(0);
    };
    if observed.sandboxes.iter().filter(|s| s.ready).count() > 1 {
        why.push("the pod has more than one ready sandbox".into());
    } else if !newest.ready {
        why.push("the sandbox is not ready".into());
    } else if newest.ip.is_empty() && !host_network {
        why.push("the sandbox has no address".into());
    } else {
        return None;
    }
    Some(newest.attempt + 1)
}

/// Whether the container was made from another definition.
fn changed(c: &core::Container, o: &Container) -> bool {
    !o.hash.is_empty() && o.hash != spec_hash(&c.name, c.image.as_deref().unwrap_or_default())
}

/// Why a running container must be stopped: the message, a grace of its own, and whether its definition changed.
fn failing(
    c: &core::Container,
    o: &Container,
    probes: &BTreeMap<String, ProbeResults>,
) -> Option<(String, Option<i64>, bool)> {
    if changed(c, o) {
        return Some((format!("Container {} definition changed", c.name), None, true));
    }
    let results = probes.get(&o.id)?;
    let grace = |p: &Option<core::Probe>| p.as_ref().and_then(|p| p.termination_grace_period_seconds);
    if results.liveness == Some(false) {
        return Some((
            format!("Container {} failed liveness probe", c.name),
            grace(&c.liveness_probe),
            false,
        ));
    }
    if results.startup == Some(false) {
        return Some((format!("Container {} failed startup probe", c.name), grace(&c.startup_probe), false));
    }
    None
}

/// A container of which the runtime lost track may be running: it is stopped before another takes its place.
fn kill_unknown(o: &Container) -> Option<Kill> {
    (o.state == RunState::Unknown).then(|| Kill {
        id: o.id.clone(),
        name: o.name.clone(),
        message: "Container is in \"unknown\" state, try killing it before restart".into(),
        grace_seconds: None,
    })
}

/// Plans the start of a container, or its wait.
#[allow(clippy::too_many_arguments)]
fn start_or_wait(
    plan: &mut PodActions,
    observed: &ObservedPod,
    c: &core::Container,
    index: usize,
    init: bool,
    backoff: &Backoff,
    now: Timestamp,
    resume: bool,
) {
    let newest = observed.newest(&c.name);
    // What its runtime took with it has not crashed: it starts at once, however often that happens. (A guest cannot say
    // so of itself; whoever starts the runtime again waits in between.)
    let lost = newest.is_some_and(Container::is_lost);
    // A failed start leaves no exit time; the failure itself set the wait.
    let failed_at = newest.and_then(|o| o.finished_at).filter(|_| !lost);
    let crashed = || backoff.until(&c.name, failed_at.unwrap_or(Timestamp::UNIX_EPOCH), now);
    let wait = if lost { None } else { crashed() }.or_else(|| {
        let key = failed_start_key(&c.name);
        backoff.failed_until(&key, now)
    });
    if let Some(until) = wait {
        let delay = backoff.delay(&c.name).max(backoff.delay(&failed_start_key(&c.name)));
        plan.waiting.push(InBackoff { name: c.name.clone(), init, until, delay });
        return;
    }
    let hash = spec_hash(&c.name, c.image.as_deref().unwrap_or_default());
    let existing = newest
        .filter(|o| resume && o.state == RunState::Created && o.hash == hash)
        .filter(|o| observed.sandbox().is_some_and(|s| s.id == o.sandbox_id));
    plan.start.push(Start {
        index,
        init,
        name: c.name.clone(),
        attempt: match (&existing, newest) {
            (Some(e), _) => e.attempt,
            (None, Some(o)) => o.attempt + 1,
            (None, None) => 0,
        },
        existing: existing.map(|e| e.id.clone()),
        after: failed_at,
    });
}

/// The key under which failures to make or start a container wait.
pub fn failed_start_key(name: &str) -> String {
    format!("start/{name}")
}

/// Plans init containers in order; says whether all are through.
#[allow(clippy::too_many_arguments)]
fn plan_init_containers(
    pod: &core::Pod,
    inits: &[core::Container],
    observed: &ObservedPod,
    sandbox: &str,
    probes: &BTreeMap<String, ProbeResults>,
    backoff: &Backoff,
    now: Timestamp,
    plan: &mut PodActions,
) -> bool {
    let Some(spec) = &pod.spec else { return false };
    // Once a container proper was made in this sandbox, initialization is over for good; only sidecars are
    // looked after. Their init containers may have been cleaned away since.
    let over = spec
        .containers
        .iter()
        .any(|c| observed.containers.iter().any(|o| o.name == c.name && o.sandbox_id == sandbox));
    for (i, c) in inits.iter().enumerate() {
        let sidecar = is_sidecar(c);
        if over && !sidecar {
            continue;
        }
        let here = observed.newest(&c.name).filter(|o| o.sandbox_id == sandbox);
        let through = match here {
            Some(o) if o.state == RunState::Running => match failing(c, o, probes) {
                Some((message, grace_seconds, _)) if sidecar => {
                    plan.kill.push(Kill {
                        id: o.id.clone(),
                        name: c.name.clone(),
                        message: format!("{message}, will be restarted"),
                        grace_seconds,
                    });
                    false
                }
                _ if sidecar => {
                    c.startup_probe.is_none() || probes.get(&o.id).is_some_and(|p| p.startup == Some(true))
                }
                _ => false,
            },
            Some(o) if o.state == RunState::Exited && !sidecar => {
                if o.exit_code == 0 {
                    true
                } else if may_restart(pod) {
                    start_or_wait(plan, observed, c, i, true, backoff, now, true);
                    false
                } else {
                    plan.kill_pod = true;
                    plan.why.push(format!("init container {} failed and restartPolicy is Never", c.name));
                    return false;
                }
            }
            o => {
                plan.kill.extend(o.and_then(kill_unknown));
                start_or_wait(plan, observed, c, i, true, backoff, now, true);
                false
            }
        };
        if !through && !over {
            plan.why.push(format!("init container {} is not through", c.name));
            return false;
        }
    }
    true
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
