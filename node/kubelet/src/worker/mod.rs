//! The worker of one pod: it sleeps until something concerns the pod, looks at what is, decides, acts.
//!
//! ```text
//!   mailbox ──► take ──► ending? ──yes──► end: stop, final status, DELETE, remove
//!                           │no
//!                           ▼
//!             observe ─► compute_pod_actions ─► carry out ─► observe …  until there is nothing to do
//!                           └──► compute_pod_status ─► slot (written by a task of its own)
//! ```
//! Dropping a pass anywhere is harmless: the next one starts from what the runtime shows.
mod apply;
mod end;
mod start;
mod volumes;

use crate::actions::{Kill, compute_pod_actions};
use crate::agent::Shared;
use crate::backoff::{Backoff, go_duration};
use crate::mailbox::{Mailbox, reference};
use crate::observe;
use crate::observed::{ObservedPod, RunState};
use crate::probes::attempt::Target;
use crate::probes::task::ProbeTasks;
use crate::probes::{Kind, ProbeResults, wanted};
use crate::status::writer::{Slot, shows};
use crate::status::{Eviction, Sources, Waiting, compute_pod_status, is_terminal};
use client::EventType;
use client::k8s_openapi::api::core::v1 as core;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a status that is not urgent waits for a better one: a wasm pod is Ready sooner than this, and then
/// one write says it all.
const STATUS_DELAY: Duration = Duration::from_millis(20);
/// Passes in one go before the worker looks at its mail again: sandbox, each init container, containers.
const ROUNDS: usize = 16;
/// The wait after a pass that failed at the runtime or the API, doubled up to the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// One pod on this node.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    mail: Arc<Mailbox>,
    slot: Arc<Slot>,
    pod: Arc<core::Pod>,
    /// The object is gone from the API.
    gone: bool,
    uid: String,
    /// The sandboxes known to be this pod's.
    sandboxes: Vec<String>,
    /// A sandbox may have been made without our hearing of it: ask by uid.
    unsure: bool,
    observed: ObservedPod,
    /// Whether `observed` may be old.
    stale: bool,
    waiting: BTreeMap<String, Waiting>,
    backoff: Backoff,
    probes: BTreeMap<String, ProbeResults>,
    probe_tasks: ProbeTasks,
    status: Arc<core::PodStatus>,
    eviction: Option<Eviction>,
    ended: bool,
    /// Passes that failed in a row.
    failures: u32,
    /// Whether volumes were made by this process, and when they are due again.
    volumes_due: Option<Timestamp>,
    /// When its emptyDirs are to be measured again.
    sizes_due: Option<Timestamp>,
    /// When this worker saw its pod first; `None` once it has run.
    seen: Option<Instant>,
}

/// What a pass wants next.
enum Next {
    /// Nothing until mail comes.
    Mail,
    At(Timestamp),
    /// The pod is gone for good.
    Done,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        mail: Arc<Mailbox>,
        pod: Arc<core::Pod>,
        sandboxes: Vec<String>,
        eviction: Option<Eviction>,
    ) -> Self {
        let meta = &pod.metadata;
        let uid = meta.uid.clone().unwrap_or_default();
        let slot = shared.statuses.slot(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            &uid,
        );
        let fresh = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_none_or(|p| p == "Pending");
        Self {
            status: Arc::new(pod.status.clone().unwrap_or_default()),
            seen: fresh.then(Instant::now),
            shared,
            mail,
            slot,
            pod,
            gone: false,
            uid,
            stale: !sandboxes.is_empty(),
            sandboxes,
            unsure: false,
            observed: ObservedPod::default(),
            waiting: BTreeMap::new(),
            backoff: Backoff::default(),
            probes: BTreeMap::new(),
            probe_tasks: ProbeTasks::default(),
            eviction,
            ended: false,
            failures: 0,
            volumes_due: None,
            sizes_due: None,
        }
    }

    /// Runs until the pod is gone or the agent shuts down; containers outlive the latter.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_mail();
            // The pass is boxed so that a sleeping worker is small.
            let next = tokio::select! {
                biased;
                _ = shutdown.cancelled() => return,
                next = Box::pin(self.pass()) => next,
            };
            let wait = match next {
                Next::Done => return,
                Next::Mail => None,
                Next::At(at) => Some(self.shared.until(at)),
            };
            let mail = self.mail.clone();
            tokio::select! {
                biased;
                _ = shutdown.cancelled() => return,
                _ = mail.any() => {}
                _ = sleep_or_never(wait) => {}
            }
        }
    }

    fn take_mail(&mut self) {
        let mail = self.mail.take();
        if let Some(pod) = mail.pod {
            self.pod = pod;
            self.reconcile_shown();
        }
        self.gone |= mail.gone;
        self.stale |= mail.runtime;
        for id in mail.sandboxes {
            if !self.sandboxes.contains(&id) {
                self.sandboxes.push(id);
                self.stale = true;
            }
        }
        if mail.resync {
            self.stale = true;
        }
        for ((id, kind), ok) in mail.verdicts {
            self.probes.entry(id).or_default().set(kind, ok);
        }
    }

    /// Writes our status again if somebody has written another over it.
    fn reconcile_shown(&mut self) {
        let Some(api) = &self.pod.status else { return };
        let settled = self.slot.settled_at(self.pod.metadata.resource_version.as_deref());
        if settled && self.status.phase.is_some() && !shows(api, &self.status) {
            self.slot.set(self.status.clone(), STATUS_DELAY);
        }
    }

    fn is_ending(&self) -> bool {
        self.gone
            || self.pod.metadata.deletion_timestamp.is_some()
            || self.eviction.is_some()
            || is_terminal(self.status.phase.as_deref())
    }

    /// One pass: towards running, or towards its end.
    async fn pass(&mut self) -> Next {
        if !self.is_ending() {
            let mail = self.mail.clone();
            let deadline = self.deadline().map(|d| self.shared.until(d));
            let synced = tokio::select! {
                biased;
                _ = mail.ending() => None,
                _ = sleep_or_never(deadline) => None,
                next = self.sync() => Some(next),
            };
            match synced {
                Some(next) if !self.is_ending() => return self.sooner(next),
                Some(_) => {}
                None => {
                    // Dropped in the middle: whatever was under way may have happened.
                    self.unsure = true;
                    self.stale = true;
                    self.take_mail();
                    if self.deadline().is_some_and(|d| d <= self.shared.ambient.now()) && !self.is_ending() {
                        self.eviction = Some(Eviction {
                            reason: "DeadlineExceeded".into(),
                            message: "Pod was active on the node longer than the specified deadline".into(),
                        });
                        self.event(
                            None,
                            EventType::Normal,
                            "DeadlineExceeded",
                            "Pod was active on the node longer than the specified deadline",
                        );
                    }
                }
            }
        }
        match self.end().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(pod = self.name(), error = %error, "cannot end a pod, trying again");
                self.unsure = true;
                self.retry()
            }
        }
    }

    /// The earlier of a pass's wish and the pod's deadline.
    fn sooner(&self, next: Next) -> Next {
        match (next, self.deadline()) {
            (Next::At(a), Some(b)) => Next::At(a.min(b)),
            (Next::Mail, Some(b)) => Next::At(b),
            (next, None) => next,
            (Next::Done, _) => Next::Done,
        }
    }

    /// When the pod has been active for `activeDeadlineSeconds`.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?;
        start.0.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
    }

    fn retry(&mut self) -> Next {
        let wait = (RETRY_MIN * 2u32.saturating_pow(self.failures.min(10))).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = jiff::SignedDuration::try_from(wait).unwrap_or(jiff::SignedDuration::from_secs(1));
        Next::At(self.shared.ambient.now().saturating_add(wait).unwrap_or(Timestamp::MAX))
    }

    fn name(&self) -> String {
        let m = &self.pod.metadata;
        format!("{}/{}", m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default())
    }

    /// The pod as messages name it: `web_default(uid)`.
    fn full_name(&self) -> String {
        let m = &self.pod.metadata;
        let (name, namespace) =
            (m.name.as_deref().unwrap_or_default(), m.namespace.as_deref().unwrap_or_default());
        format!("{name}_{namespace}({})", self.uid)
    }

    /// Tells of the pod, or of a container (name, whether an init container).
    fn event(&self, container: Option<(&str, bool)>, kind: EventType, reason: &str, message: &str) {
        self.shared.recorder.event_about(reference(&self.pod, container), kind, reason, message);
    }

    fn is_init(&self, name: &str) -> bool {
        self.pod.spec.as_ref().is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name))
    }

    fn spec_of(&self, name: &str) -> Option<&core::Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
    }

    /// One pass towards running.
    async fn sync(&mut self) -> Next {
        match self.try_sync().await {
            Ok(next) => {
                self.failures = 0;
                next
            }
            Err(error) => {
                tracing::debug!(pod = self.name(), error = %error, "a pass failed, trying again");
                self.publish();
                self.unsure = true;
                self.stale = true;
                self.retry()
            }
        }
    }

    async fn try_sync(&mut self) -> Result<Next, apply::SyncError> {
        for _ in 0..ROUNDS {
            self.observe().await?;
            self.refresh_status();
            if self.is_ending() {
                return Ok(Next::Mail);
            }
            let now = self.shared.ambient.now();
            let plan = compute_pod_actions(&self.pod, &self.observed, &self.probes, &self.backoff, now);
            tracing::trace!(pod = self.name(), why = ?plan.why, "planned");
            self.note_waiting(&plan.waiting);
            if plan.is_empty() {
                break;
            }
            self.publish();
            if !self.apply(plan).await? {
                break;
            }
        }
        self.ensure_probes();
        self.publish();
        self.remove_surplus().await;
        self.refresh_volumes().await;
        self.check_sizes().await;
        Ok(self.next_wake())
    }

    /// When something is due without anything happening.
    fn next_wake(&self) -> Next {
        let now = self.shared.ambient.now();
        let plan = compute_pod_actions(&self.pod, &self.observed, &self.probes, &self.backoff, now);
        let waits = plan.waiting.iter().map(|w| w.until);
        // A container that could not start and is not among those waits: its image.
        let images = plan.start.iter().filter_map(|s| self.image_wait(s, now));
        match waits.chain(images).chain(self.volumes_due).chain(self.sizes_due).min() {
            Some(at) => Next::At(at),
            None => Next::Mail,
        }
    }

    /// Looks at the pod's sandboxes and containers.
    async fn observe(&mut self) -> Result<(), cri::Error> {
        if self.unsure {
            self.sandboxes = observe::sandboxes_of(&*self.shared.runtime, &self.uid).await?;
            self.unsure = false;
            self.stale = true;
        }
        if !self.stale {
            return Ok(());
        }
        // It is never closed.
        let _turn = self.shared.observations.acquire().await;
        // What happens while we look comes as mail and makes it stale again.
        self.stale = false;
        let observed = observe::observe_sandboxes(&*self.shared.runtime, &self.sandboxes).await;
        let mut observed = match observed {
            Ok(o) => o,
            Err(e) => {
                self.stale = true;
                return Err(e);
            }
        };
        self.sandboxes = observed.sandboxes.iter().map(|s| s.id.clone()).collect();
        self.add_messages(&mut observed).await;
        self.probes.retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
        self.observed = observed;
        Ok(())
    }

    /// The last words of containers that have just ended: the runtime's message, else what they wrote into their
    /// file, else, if the pod wants it, the end of the log.
    async fn add_messages(&self, observed: &mut ObservedPod) {
        for c in &mut observed.containers {
            if c.state != RunState::Exited || !c.message.is_empty() {
                continue;
            }
            if let Some(known) = self.observed.containers.iter().find(|k| k.id == c.id && k.state == c.state)
            {
                c.message = known.message.clone();
                continue;
            }
            c.message = volumes::last_words(&self.shared.root_dir, &self.uid, &c.name, c.attempt).await;
            let policy = self.spec_of(&c.name).and_then(|s| s.termination_message_policy.as_deref());
            if c.message.is_empty()
                && c.exit_code != 0
                && !c.log_path.is_empty()
                && policy == Some("FallbackToLogsOnError")
            {
                c.message = crate::server::logs::last_lines(&c.log_path).await;
            }
        }
    }

    /// Shows containers that wait for their next try as such.
    fn note_waiting(&mut self, list: &[crate::actions::InBackoff]) {
        for w in list {
            let crashed = self.observed.newest(&w.name).is_some_and(|o| o.state == RunState::Exited);
            let known = self.waiting.get(&w.name).map(|k| k.reason);
            if !crashed
                || matches!(known, Some("CrashLoopBackOff" | "RunContainerError" | "PostStartHookError"))
            {
                continue;
            }
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(w.delay),
                w.name,
                self.full_name()
            );
            self.waiting.insert(w.name.clone(), Waiting { reason: "CrashLoopBackOff", message });
            let text = format!("Back-off restarting failed container {} in pod {}", w.name, self.full_name());
            self.event(Some((&w.name, w.init)), EventType::Warning, "BackOff", &text);
        }
    }

    /// Computes the status from what is known now.
    fn refresh_status(&mut self) {
        let status = compute_pod_status(&Sources {
            pod: &self.pod,
            previous: &self.status,
            observed: &self.observed,
            waiting: &self.waiting,
            probes: &self.probes,
            eviction: self.eviction.as_ref(),
            ended: self.ended,
            host_ip: &self.shared.host_ip,
            runtime_name: &self.shared.runtime_name,
            now: self.shared.ambient.now(),
        });
        if *self.status != status {
            self.status = Arc::new(status);
        }
    }

    /// Shows the status, at once if it is Ready or final.
    fn publish(&mut self) {
        self.refresh_status();
        if self.gone {
            return;
        }
        let before = self.mail.shown();
        if *before == *self.status {
            return;
        }
        let ready = |s: &core::PodStatus| {
            s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let urgent = ready(&self.status) || ready(&before) || is_terminal(self.status.phase.as_deref());
        if self.status.phase.as_deref() == Some("Running")
            && let Some(seen) = self.seen.take()
        {
            self.shared.metrics.pod_started(seen.elapsed());
        }
        self.mail.show(self.status.clone());
        self.slot.set(self.status.clone(), if urgent { Duration::ZERO } else { STATUS_DELAY });
    }

    /// Starts the probes that should run and ends the others.
    fn ensure_probes(&mut self) {
        let now = self.shared.ambient.now();
        let mut keep: Vec<(String, Kind)> = Vec::new();
        let Some(spec) = &self.pod.spec else { return };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| crate::actions::is_sidecar(c));
        for c in spec.containers.iter().chain(sidecars) {
            let Some(o) = self.observed.newest(&c.name).filter(|o| o.state == RunState::Running) else {
                continue;
            };
            let results = self.probes.get(&o.id).copied().unwrap_or_default();
            for (kind, probe) in wanted(c, results) {
                keep.push((o.id.clone(), kind));
                let since = o.started_at.map(|s| now.duration_since(s)).unwrap_or_default();
                let target = self.target(c, &o.id);
                self.probe_tasks.ensure(
                    &c.name,
                    kind,
                    probe,
                    target,
                    Duration::try_from(since).unwrap_or_default(),
                    self.mail.clone(),
                );
            }
        }
        self.probe_tasks.retain(|id, kind| keep.iter().any(|(i, k)| i == id && *k == kind));
    }

    /// What a probe or hook of a container needs to know.
    fn target(&self, c: &core::Container, id: &str) -> Target {
        let ip = self.observed.ready_sandbox().map(|s| s.ip.clone()).filter(|ip| !ip.is_empty());
        Target {
            prober: self.shared.prober.clone(),
            runtime: self.shared.runtime.clone(),
            container_id: id.to_owned(),
            pod_ip: ip.unwrap_or_else(|| self.shared.host_ip.clone()),
            ports: c
                .ports
                .iter()
                .flatten()
                .map(|p| (p.name.clone().unwrap_or_default(), p.container_port))
                .collect(),
        }
    }

    /// Removes dead containers and sandboxes nobody needs any more.
    async fn remove_surplus(&mut self) {
        for id in self.observed.surplus() {
            if self
                .shared
                .runtime
                .remove_container(cri::RemoveContainerRequest { container_id: id })
                .await
                .is_ok()
            {
                self.stale = true;
            }
        }
        // A dead sandbox is kept while a container to be remembered lies in it.
        let old: Vec<String> = self
            .observed
            .sandboxes
            .iter()
            .skip(1)
            .filter(|s| !s.ready && !self.observed.containers.iter().any(|c| c.sandbox_id == s.id))
            .map(|s| s.id.clone())
            .collect();
        for id in old {
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
            if self.shared.runtime.remove_pod_sandbox(request).await.is_ok() {
                self.stale = true;
            }
        }
    }
}

/// Sleeps, or waits for ever.
async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(d) => tokio::time::sleep(d).await,
        None => std::future::pending().await,
    }
}

/// The kill of a container for a reason of its own.
fn kill_of(o: &crate::observed::Container, message: String) -> Kill {
    Kill { id: o.id.clone(), name: o.name.clone(), message, grace_seconds: None }
}
