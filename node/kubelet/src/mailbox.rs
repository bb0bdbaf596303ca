//! What a pod's worker is woken by. The latest of each kind is kept, so it never grows.
use crate::probes::Kind;
use crate::probes::task::Listener;
use client::k8s_openapi::api::core::v1 as core;
use client::{EventType, Recorder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// What came in since the worker last looked.
#[derive(Default)]
pub struct Mail {
    /// The newest state of the pod's object.
    pub pod: Option<Arc<core::Pod>>,
    /// The object is gone from the API.
    pub gone: bool,
    /// Something happened in the runtime.
    pub runtime: bool,
    /// Sandboxes of this pod that a list showed.
    pub sandboxes: Vec<String>,
    /// Verdicts by container and probe.
    pub verdicts: BTreeMap<(String, Kind), bool>,
    /// Look at everything again.
    pub resync: bool,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.pod.is_none()
            && !self.gone
            && !self.runtime
            && !self.resync
            && self.sandboxes.is_empty()
            && self.verdicts.is_empty()
    }

    /// Whether the pod is to end, and within how many seconds.
    fn ending(&self) -> bool {
        self.gone || self.pod.as_ref().is_some_and(|p| p.metadata.deletion_timestamp.is_some())
    }
}

/// The mailbox of one pod.
pub struct Mailbox {
    mail: Mutex<Mail>,
    changed: Notify,
    /// What the pod's status says; the HTTPS server reads it.
    shown: Mutex<Arc<core::PodStatus>>,
    about: core::ObjectReference,
    recorder: Recorder,
}

impl Mailbox {
    pub fn new(pod: &core::Pod, recorder: Recorder) -> Self {
        Self {
            mail: Mutex::default(),
            changed: Notify::new(),
            shown: Mutex::new(Arc::new(pod.status.clone().unwrap_or_default())),
            about: reference(pod, None),
            recorder,
        }
    }

    /// Puts something in and wakes the worker.
    pub fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock());
        self.changed.notify_waiters();
    }

    /// Takes everything out.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut self.mail.lock())
    }

    /// Waits until there is something.
    pub async fn any(&self) {
        self.until(|m| !m.is_empty()).await;
    }

    /// Waits until the pod is to end.
    pub async fn ending(&self) {
        self.until(Mail::ending).await;
    }

    /// Waits until the pod is to end within less than `grace` seconds.
    pub async fn shorter_grace(&self, grace: i64) {
        self.until(|m| {
            m.gone && m.pod.is_none() && grace > 2
                || m.pod
                    .as_ref()
                    .and_then(|p| p.metadata.deletion_grace_period_seconds)
                    .is_some_and(|g| g < grace)
        })
        .await;
    }

    async fn until(&self, wanted: impl Fn(&Mail) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if wanted(&self.mail.lock()) {
                return;
            }
            changed.await;
        }
    }

    pub fn shown(&self) -> Arc<core::PodStatus> {
        self.shown.lock().clone()
    }

    pub fn show(&self, status: Arc<core::PodStatus>) {
        *self.shown.lock() = status;
    }
}

impl Listener for Mailbox {
    fn verdict(&self, container_id: &str, kind: Kind, ok: bool) {
        self.put(|m| {
            m.verdicts.insert((container_id.to_owned(), kind), ok);
        });
    }

    fn unhealthy(&self, container_name: &str, _: Kind, message: &str) {
        let mut about = self.about.clone();
        about.field_path = Some(format!("spec.containers{{{container_name}}}"));
        self.recorder.event_about(about, EventType::Warning, "Unhealthy", message);
    }
}

/// A reference to a pod, or to one of its containers (`containers{web}`, `initContainers{db}`).
pub fn reference(pod: &core::Pod, container: Option<(&str, bool)>) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: container.map(|(name, init)| {
            let list = if init { "initContainers" } else { "containers" };
            format!("spec.{list}{{{name}}}")
        }),
    }
}
