//! Writing a pod's status to the API: the latest wins, one write of a pod at a time, again until it is there.
use client::k8s_openapi::api::core::v1 as core;
use client::kube::api::{Api, Patch, PatchParams};
use client::{Client, is_conflict, is_not_found};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The first wait after a failed write, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Where statuses go. Cheap to clone.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl StatusWriter {
    /// Writes are made by tasks of `tasks` until `shutdown`.
    pub fn new(client: Client, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { client, tasks, shutdown }
    }

    /// The slot of one pod.
    pub fn slot(&self, namespace: &str, name: &str, uid: &str) -> Arc<Slot> {
        Arc::new(Slot {
            writer: self.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            state: Mutex::default(),
            changed: Notify::new(),
            idle: Notify::new(),
        })
    }
}

#[derive(Default)]
struct State {
    pending: Option<(Arc<core::PodStatus>, Instant)>,
    sending: bool,
    /// The pod is gone from the API: nothing is written any more.
    gone: bool,
    /// The revision our last write made.
    written: Option<u64>,
}

enum Todo {
    Nothing,
    Wait(Instant),
    Send(Arc<core::PodStatus>),
}

/// One pod's status on its way.
pub struct Slot {
    writer: StatusWriter,
    namespace: String,
    name: String,
    uid: String,
    state: Mutex<State>,
    /// Something was set, or is to be sent sooner.
    changed: Notify,
    /// Everything set was sent.
    idle: Notify,
}

impl Slot {
    /// Writes `status`, no sooner than `delay` from now: what comes within that time replaces it. A later call may
    /// hasten the write and never puts it off, so a status that changes all the time is written all the same.
    pub fn set(self: &Arc<Self>, status: Arc<core::PodStatus>, delay: Duration) {
        let mut state = self.state.lock();
        if state.gone {
            return;
        }
        let due = Instant::now() + delay;
        let due = state.pending.as_ref().map_or(due, |(_, earlier)| due.min(*earlier));
        state.pending = Some((status, due));
        if !state.sending {
            state.sending = true;
            let slot = self.clone();
            let shutdown = self.writer.shutdown.clone();
            self.writer.tasks.spawn(async move { shutdown.run_until_cancelled(slot.send()).await });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until everything set so far is written, or the pod is gone.
    pub async fn flushed(&self) {
        if let Some((_, at)) = &mut self.state.lock().pending {
            *at = Instant::now();
        }
        self.changed.notify_waiters();
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if !self.state.lock().sending {
                return;
            }
            idle.await;
        }
    }

    /// Whether nothing is on its way and the API's object is at least as new as what was written last.
    pub fn settled_at(&self, resource_version: Option<&str>) -> bool {
        let state = self.state.lock();
        !state.sending
            && match (state.written, resource_version.and_then(|v| v.parse::<u64>().ok())) {
                (Some(written), Some(seen)) => seen >= written,
                _ => true,
            }
    }

    /// What the sender does next. `Nothing` means it ends: a later status starts another.
    fn todo(&self) -> Todo {
        let mut state = self.state.lock();
        if state.gone {
            state.pending = None;
        }
        match state.pending.take() {
            None => {
                state.sending = false;
                Todo::Nothing
            }
            Some((status, at)) if at <= Instant::now() => Todo::Send(status),
            Some((status, at)) => {
                state.pending = Some((status, at));
                Todo::Wait(at)
            }
        }
    }

    async fn send(self: Arc<Self>) {
        let api: Api<core::Pod> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        let mut retry = RETRY_MIN;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let status = match self.todo() {
                Todo::Nothing => {
                    self.idle.notify_waiters();
                    return;
                }
                Todo::Wait(at) => {
                    tokio::select! {
                        _ = tokio::time::sleep_until(at) => {}
                        _ = changed => {}
                    }
                    continue;
                }
                Todo::Send(status) => status,
            };
            let patch = status_patch(&self.uid, &status);
            match api.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(pod) => {
                    retry = RETRY_MIN;
                    self.state.lock().written = pod.metadata.resource_version.and_then(|v| v.parse().ok());
                }
                // Another pod has the name now, or none has.
                Err(e) if is_not_found(&e) || is_conflict(&e) => self.state.lock().gone = true,
                Err(e) => {
                    tracing::warn!(pod = self.name, namespace = self.namespace, error = %e, "cannot write a pod's status, trying again");
                    {
                        let mut state = self.state.lock();
                        state.pending.get_or_insert((status, Instant::now()));
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// The strategic merge patch that makes the API's status ours: conditions of others stay, lists that are ours are
/// replaced whole, what is no more becomes null.
pub fn status_patch(uid: &str, status: &core::PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for field in ["reason", "message", "podIP"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    // Addresses merge by themselves as the key: without the directive an old one would stay.
    for field in ["podIPs", "hostIPs"] {
        let mut list = vec![json!({ "$patch": "replace" })];
        if let Some(Value::Array(items)) = value.get_mut(field) {
            list.append(items);
        }
        value[field] = Value::Array(list);
    }
    json!({ "metadata": { "uid": uid }, "status": value })
}

/// Whether the API shows what we want to show; conditions of others do not matter.
pub fn shows(api: &core::PodStatus, ours: &core::PodStatus) -> bool {
    let conditions = ours.conditions.iter().flatten().all(|c| {
        let found = api.conditions.iter().flatten().find(|a| a.type_ == c.type_);
        found.is_some_and(|a| {
            (&a.status, &a.reason, &a.message, &a.last_transition_time)
                == (&c.status, &c.reason, &c.message, &c.last_transition_time)
        })
    });
    conditions
        && api.phase == ours.phase
        && api.reason == ours.reason
        && api.message == ours.message
        && api.pod_ip == ours.pod_ip
        && api.host_ip == ours.host_ip
        && api.start_time == ours.start_time
        && api.container_statuses == ours.container_statuses
        && api.init_container_statuses == ours.init_container_statuses
}
