//! The phase of a pod, from the states its containers show (kubelet `getPhase`).
use crate::actions::{is_sidecar, restart_policy};
use client::k8s_openapi::api::core::v1 as core;

/// The exit code of a container that has ended: in `state`, or in `lastState` while it waits to run again.
fn ended(s: &core::ContainerStatus) -> Option<i32> {
    let of = |st: &Option<core::ContainerState>| {
        st.as_ref().and_then(|x| x.terminated.as_ref()).map(|t| t.exit_code)
    };
    match &s.state {
        Some(st) if st.terminated.is_some() => of(&s.state),
        Some(st) if st.waiting.is_some() => of(&s.last_state),
        _ => None,
    }
}

/// Decides the phase. `stopped`: the pod is being ended and nothing of it runs any more, so whether its
/// containers would restart no longer matters.
pub fn phase(
    pod: &core::Pod,
    inits: &[core::ContainerStatus],
    containers: &[core::ContainerStatus],
    stopped: bool,
) -> &'static str {
    let Some(spec) = &pod.spec else { return "Pending" };
    let policy = restart_policy(pod);

    let (mut pending_inits, mut failed_inits) = (0usize, 0usize);
    for (c, s) in spec.init_containers.iter().flatten().zip(inits) {
        if is_sidecar(c) {
            pending_inits += usize::from(s.started != Some(true) && ended(s).is_none());
            continue;
        }
        match ended(s) {
            Some(0) => {}
            Some(_) => failed_inits += 1,
            None => pending_inits += 1,
        }
    }
    let (mut waiting, mut running, mut succeeded, mut failed) = (0usize, 0usize, 0usize, 0usize);
    for s in containers {
        let is_running = s.state.as_ref().is_some_and(|st| st.running.is_some());
        match ended(s) {
            _ if is_running => running += 1,
            Some(0) => succeeded += 1,
            Some(_) => failed += 1,
            None => waiting += 1,
        }
    }
    if stopped && running == 0 {
        // What never ran has not failed; but a pod that ended before all of it ran has.
        return if failed == 0 && waiting == 0 && failed_inits == 0 && succeeded > 0 {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if failed_inits > 0 && policy == "Never" {
        return "Failed";
    }
    let begun = running + succeeded + failed > 0;
    if (pending_inits > 0 || failed_inits > 0) && !begun {
        return "Pending";
    }
    match (waiting, running) {
        (1.., _) => "Pending",
        (0, 1..) => "Running",
        (0, 0) if !begun => "Pending",
        (0, 0) => {
            // Each container by its own policy: one that is to run again keeps the pod alive.
            let again = spec
                .containers
                .iter()
                .zip(containers)
                .any(|(c, s)| ended(s).is_some_and(|code| crate::actions::restarts(pod, c, code)));
            match (again, failed) {
                (true, _) => "Running",
                (false, 0) => "Succeeded",
                (false, _) => "Failed",
            }
        }
    }
}
