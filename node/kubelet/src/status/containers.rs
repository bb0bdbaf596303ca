//! The `containerStatuses` of a pod.
use super::{Sources, seconds};
use crate::actions::{is_sidecar, restarts};
use crate::observed::{Container, RunState};
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

fn time(t: Option<Timestamp>) -> Option<Time> {
    // A time that never came is the epoch upstream too: `startedAt` of a container that could not start.
    Some(Time(t.map(seconds).unwrap_or(Timestamp::UNIX_EPOCH)))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn waiting(reason: &str, message: &str) -> core::ContainerState {
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: some(reason), message: some(message) }),
        ..Default::default()
    }
}

fn terminated(c: &Container, runtime: &str) -> core::ContainerState {
    let reason = match (c.reason.as_str(), c.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    core::ContainerState {
        terminated: Some(core::ContainerStateTerminated {
            container_id: Some(format!("{runtime}://{}", c.id)),
            exit_code: c.exit_code,
            reason: some(reason),
            message: some(&c.message),
            started_at: time(c.started_at),
            finished_at: time(c.finished_at),
            signal: None,
        }),
        ..Default::default()
    }
}

/// The end of a container nobody can find any more.
fn lost() -> core::ContainerState {
    core::ContainerState {
        terminated: Some(core::ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running"
                    .into(),
            ),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The statuses of `containers`, in the order of the specification.
pub fn statuses(s: &Sources<'_>, containers: &[core::Container], init: bool) -> Vec<core::ContainerStatus> {
    let previous = if init { &s.previous.init_container_statuses } else { &s.previous.container_statuses };
    containers
        .iter()
        .map(|c| status(s, c, init, previous.iter().flatten().find(|p| p.name == c.name)))
        .collect()
}

fn status(
    s: &Sources<'_>,
    c: &core::Container,
    init: bool,
    previous: Option<&core::ContainerStatus>,
) -> core::ContainerStatus {
    let has_inits =
        s.pod.spec.as_ref().is_some_and(|p| p.init_containers.as_ref().is_some_and(|i| !i.is_empty()));
    let default_reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
    let spec_image = c.image.clone().unwrap_or_default();
    let mut out = core::ContainerStatus {
        name: c.name.clone(),
        image: spec_image,
        started: Some(false),
        last_state: Some(core::ContainerState::default()),
        ..Default::default()
    };
    let why = s.waiting.get(&c.name);
    let stopping = s.ended || s.eviction.is_some();

    let Some(newest) = s.observed.newest(&c.name) else {
        let (state, last) = missing(previous, stopping, why, default_reason);
        out.state = Some(state);
        out.last_state = Some(last);
        out.restart_count = previous.map_or(0, |p| p.restart_count);
        if let Some(p) = previous.filter(|_| out.state.as_ref().is_some_and(|st| st.terminated.is_some())) {
            out.container_id = p.container_id.clone();
            out.image_id = p.image_id.clone();
            out.ready = p.ready && init;
        }
        return out;
    };

    out.restart_count = i32::try_from(newest.attempt).unwrap_or(i32::MAX);
    out.container_id = Some(format!("{}://{}", s.runtime_name, newest.id));
    // A runtime that was given the image's id shows the id; people want the name.
    if !newest.image.is_empty() && !newest.image.starts_with("sha256:") {
        out.image = newest.image.clone();
    }
    out.image_id = newest.image_id.clone();
    let older = s.observed.before_newest(&c.name).filter(|o| o.state == RunState::Exited);
    let last = || match older {
        Some(o) => terminated(o, s.runtime_name),
        // The trace of the one before may have been cleaned away; what was known of it stays known.
        None => previous
            .filter(|p| p.restart_count == out.restart_count)
            .and_then(|p| p.last_state.clone())
            .unwrap_or_default(),
    };
    match newest.state {
        RunState::Created => {
            out.last_state = Some(last());
            out.state = Some(match why {
                Some(w) => waiting(w.reason, &w.message),
                None => waiting(default_reason, ""),
            });
        }
        RunState::Running => {
            out.last_state = Some(last());
            out.state = Some(core::ContainerState {
                running: Some(core::ContainerStateRunning { started_at: time(newest.started_at) }),
                ..Default::default()
            });
            let probes = s.probes.get(&newest.id);
            // A probe that has not answered yet says what it said before this process started.
            let before = previous.filter(|p| p.container_id == out.container_id);
            let started = c.startup_probe.is_none()
                || match probes.and_then(|p| p.startup) {
                    Some(ok) => ok,
                    None => before.is_some_and(|p| p.started == Some(true)),
                };
            out.started = Some(started);
            out.ready = (!init || is_sidecar(c))
                && started
                && (c.readiness_probe.is_none()
                    || match probes.and_then(|p| p.readiness) {
                        Some(ok) => ok,
                        None => before.is_some_and(|p| p.ready),
                    });
        }
        RunState::Exited | RunState::Unknown => {
            let mut end = match newest.state {
                RunState::Exited => terminated(newest, s.runtime_name),
                _ => lost(),
            };
            keep_message(&mut end, previous);
            let again = !stopping
                && s.pod.metadata.deletion_timestamp.is_none()
                && restarts(s.pod, c, newest.exit_code)
                && !(init && !is_sidecar(c) && newest.exit_code == 0);
            match why.filter(|_| again) {
                Some(w) => {
                    out.state = Some(waiting(w.reason, &w.message));
                    out.last_state = Some(end);
                }
                None => {
                    out.last_state = Some(last());
                    out.state = Some(end);
                    out.ready = init && newest.exit_code == 0 && newest.state == RunState::Exited;
                }
            }
        }
    }
    out
}

/// The file a message came from may be gone; a message once shown stays.
fn keep_message(end: &mut core::ContainerState, previous: Option<&core::ContainerStatus>) {
    let (Some(end), Some(p)) = (&mut end.terminated, previous) else { return };
    let states = p.state.iter().chain(&p.last_state);
    let shown = states.filter_map(|st| st.terminated.as_ref()).find(|t| t.container_id == end.container_id);
    if end.message.is_none() {
        end.message = shown.and_then(|t| t.message.clone());
    }
}

/// State and last state of a container of which the runtime shows nothing.
fn missing(
    previous: Option<&core::ContainerStatus>,
    stopping: bool,
    why: Option<&super::Waiting>,
    default_reason: &str,
) -> (core::ContainerState, core::ContainerState) {
    let last = previous.and_then(|p| p.last_state.clone()).unwrap_or_default();
    let state = previous.and_then(|p| p.state.clone()).unwrap_or_default();
    if state.terminated.is_some() && why.is_none() {
        // It ended, and its trace was cleaned away.
        return (state, last);
    }
    let was_running = state.running.is_some();
    if stopping && was_running {
        return (lost(), last);
    }
    let last = if was_running {
        lost()
    } else if state.terminated.is_some() {
        state
    } else {
        last
    };
    match why {
        Some(w) => (waiting(w.reason, &w.message), last),
        None => (waiting(default_reason, ""), last),
    }
}
