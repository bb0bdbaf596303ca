//! Reading the runtime's world.
use crate::container_config::{CONTAINER_HASH, POD_UID};
use crate::observed::{Container, ObservedPod, RunState, Sandbox};
use cri::RuntimeService;
use jiff::Timestamp;
use std::collections::BTreeMap;

fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn optional_time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| time(nanos))
}

/// A sandbox from its CRI status.
pub fn sandbox(s: &cri::PodSandboxStatus) -> Sandbox {
    let network = s.network.as_ref();
    Sandbox {
        id: s.id.clone(),
        attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: s.state == cri::PodSandboxState::Ready as i32,
        ip: network.map(|n| n.ip.clone()).unwrap_or_default(),
        more_ips: network
            .map(|n| n.additional_ips.iter().map(|i| i.ip.clone()).collect())
            .unwrap_or_default(),
        created_at: time(s.created_at),
    }
}

/// A container from its CRI status.
pub fn container(s: &cri::ContainerStatus, sandbox_id: &str) -> Container {
    let image = s.image.clone().unwrap_or_default();
    Container {
        id: s.id.clone(),
        name: s.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default(),
        attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
        sandbox_id: sandbox_id.to_owned(),
        state: match cri::ContainerState::try_from(s.state) {
            Ok(cri::ContainerState::Created) => RunState::Created,
            Ok(cri::ContainerState::Running) => RunState::Running,
            Ok(cri::ContainerState::Exited) => RunState::Exited,
            _ => RunState::Unknown,
        },
        created_at: time(s.created_at),
        started_at: optional_time(s.started_at),
        finished_at: optional_time(s.finished_at),
        exit_code: s.exit_code,
        reason: s.reason.clone(),
        message: s.message.clone(),
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_id: if s.image_ref.is_empty() { s.image_id.clone() } else { s.image_ref.clone() },
        log_path: s.log_path.clone(),
        hash: s.annotations.get(CONTAINER_HASH).cloned().unwrap_or_default(),
    }
}

/// Looks at the sandboxes of one pod by id. One that is gone is left out.
pub async fn observe_sandboxes(
    runtime: &dyn RuntimeService,
    ids: &[String],
) -> Result<ObservedPod, cri::Error> {
    let mut out = ObservedPod::default();
    for id in ids {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let answer = match runtime.pod_sandbox_status(request).await {
            Ok(a) => a,
            Err(e) if e.is_not_found() => continue,
            Err(e) => return Err(e),
        };
        if let Some(status) = &answer.status {
            out.sandboxes.push(sandbox(status));
        }
        if !answer.containers_statuses.is_empty() || answer.timestamp > 0 {
            out.containers.extend(answer.containers_statuses.iter().map(|c| container(c, id)));
        } else {
            // A runtime that does not send the containers along is asked for them.
            out.containers.extend(containers_of(runtime, id).await?);
        }
    }
    out.sort();
    Ok(out)
}

async fn containers_of(runtime: &dyn RuntimeService, sandbox_id: &str) -> Result<Vec<Container>, cri::Error> {
    let filter = cri::ContainerFilter { pod_sandbox_id: sandbox_id.to_owned(), ..Default::default() };
    let list = runtime.list_containers(cri::ListContainersRequest { filter: Some(filter) }).await?;
    let mut out = Vec::new();
    for c in list.containers {
        let request = cri::ContainerStatusRequest { container_id: c.id, verbose: false };
        match runtime.container_status(request).await {
            Ok(a) => out.extend(a.status.as_ref().map(|s| container(s, sandbox_id))),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// The sandboxes of one pod, by asking for its uid.
pub async fn sandboxes_of(runtime: &dyn RuntimeService, uid: &str) -> Result<Vec<String>, cri::Error> {
    let filter = cri::PodSandboxFilter {
        label_selector: BTreeMap::from([(POD_UID.to_owned(), uid.to_owned())]),
        ..Default::default()
    };
    let list = runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) }).await?;
    Ok(list.items.into_iter().map(|s| s.id).collect())
}
