//! Carrying out a plan.
use super::{Worker, kill_of};
use crate::actions::{Kill, PodActions};
use crate::container_config::sandbox_config;
use crate::mailbox::reference;
use crate::observed::RunState;
use crate::probes::Outcome;
use crate::probes::attempt::Question;
use client::k8s_openapi::api::core::v1 as core;
use client::{EventType, Recorder};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest time a container gets to end (upstream `minimumGracePeriodInSeconds`).
const MIN_GRACE: i64 = 2;
/// The grace when nobody says (`terminationGracePeriodSeconds` default).
const DEFAULT_GRACE: i64 = 30;

/// Why a pass stopped; the next begins anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("the runtime: {0}")]
    Runtime(#[from] cri::Error),
    #[error("the API server")]
    Api(#[source] Box<client::kube::Error>),
    #[error("{0}")]
    Setup(String),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl From<client::kube::Error> for SyncError {
    fn from(e: client::kube::Error) -> Self {
        Self::Api(Box::new(e))
    }
}

/// How a container is stopped, apart from the worker so that several can be at once.
pub(super) struct Stop {
    runtime: std::sync::Arc<dyn cri::RuntimeService>,
    id: String,
    hook: Option<(core::LifecycleHandler, crate::probes::attempt::Target)>,
    grace: i64,
    recorder: Recorder,
    about: core::ObjectReference,
}

impl Stop {
    /// Runs the preStop hook, then asks the container to end, all within the grace.
    pub(super) async fn run(self) -> Result<(), cri::Error> {
        let began = Instant::now();
        if let Some((hook, target)) = &self.hook
            && self.grace > 0
        {
            let limit = Duration::from_secs(self.grace as u64);
            // A hook that fails or takes too long does not keep a container alive.
            if let Ok(Err(e)) = tokio::time::timeout(limit, run_hook(hook, target, limit)).await {
                let text = format!("PreStopHook failed: {e}");
                self.recorder.event_about(self.about.clone(), EventType::Warning, "FailedPreStopHook", text);
            }
        }
        let used = began.elapsed().as_secs() as i64;
        let timeout = (self.grace - used).max(MIN_GRACE);
        self.runtime.stop_container(cri::StopContainerRequest { container_id: self.id, timeout }).await?;
        Ok(())
    }
}

/// Runs a lifecycle hook; the error is what its event says.
pub(super) async fn run_hook(
    hook: &core::LifecycleHandler,
    target: &crate::probes::attempt::Target,
    limit: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    match target.prober.ask(&Question::from(hook), target, limit).await {
        Outcome::Success => Ok(()),
        Outcome::Failure(e) | Outcome::Unknown(e) => Err(e),
    }
}

impl Worker {
    /// Carries out a plan; says whether anything was done that makes another look worth while.
    pub(super) async fn apply(&mut self, plan: PodActions) -> Result<bool, SyncError> {
        if plan.kill_pod {
            self.stop_everything("Stopping container").await?;
            self.stale = true;
            if plan.create_sandbox.is_none() {
                self.observe().await?;
                self.refresh_status();
                return Ok(true);
            }
        }
        if !plan.kill.is_empty() {
            let stops: Vec<Stop> = plan.kill.iter().map(|k| self.stop(k, None)).collect();
            for done in futures::future::join_all(stops.into_iter().map(Stop::run)).await {
                done?;
            }
            self.stale = true;
            if plan.start.is_empty() {
                return Ok(true);
            }
        }
        if let Some(attempt) = plan.create_sandbox {
            self.create_sandbox(attempt).await?;
            // What to start is decided anew, in the sandbox that is there now.
            return Ok(true);
        }
        let mut progress = !plan.kill.is_empty();
        for start in &plan.start {
            progress |= self.start_container(start).await?;
        }
        Ok(progress)
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), SyncError> {
        let shared = self.shared.clone();
        self.ensure_volumes().await?;
        let Some(handler) = self.handler().await? else {
            let class = self.pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone()).unwrap_or_default();
            let text = format!("Failed to create pod sandbox: RuntimeClass {class:?} not found");
            self.event(None, EventType::Warning, "FailedCreatePodSandBox", &text);
            return Err(SyncError::Setup(text));
        };
        let config = sandbox_config(&self.pod, attempt, &shared.logs_dir, &shared.dns);
        // The runtime writes each container's log into a directory of its own, which is for us to make.
        let dir = std::path::PathBuf::from(&config.log_directory);
        let containers =
            self.pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        let dirs: Vec<_> = containers.map(|c| dir.join(&c.name)).collect();
        let made = crate::blocking::blocking(move || dirs.iter().try_for_each(std::fs::create_dir_all)).await;
        made.unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map_err(|source| SyncError::Io { what: format!("cannot make {}", dir.display()), source })?;
        let permit = shared.starts.acquire().await;
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        let made = shared.runtime.run_pod_sandbox(request).await;
        drop(permit);
        match made {
            Ok(answer) => {
                self.sandboxes.push(answer.pod_sandbox_id);
                self.stale = true;
                Ok(())
            }
            Err(e) => {
                let text = format!("Failed to create pod sandbox: {e}");
                self.event(None, EventType::Warning, "FailedCreatePodSandBox", &text);
                Err(e.into())
            }
        }
    }

    /// The handler of the pod's RuntimeClass, empty without one; `None` when there is no such class.
    pub(super) async fn handler(&self) -> Result<Option<String>, SyncError> {
        match self.pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|c| !c.is_empty()) {
            None => Ok(Some(String::new())),
            Some(class) => Ok(self.shared.objects.handler(class).await?),
        }
    }

    /// The grace of the pod: what its deletion says, else what its specification says.
    pub(super) fn grace(&self) -> i64 {
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        if self.gone && meta.deletion_timestamp.is_none() {
            // Taken out of the API by force: nobody waits.
            return MIN_GRACE;
        }
        if self.eviction.as_ref().is_some_and(|e| e.reason == "Evicted") {
            // It has taken more than it may, and would take on (upstream's immediateEvictionGracePeriodSeconds).
            return MIN_GRACE;
        }
        meta.deletion_grace_period_seconds.or(spec).unwrap_or(DEFAULT_GRACE).max(0)
    }

    /// Prepares the stop of a container and tells of it.
    pub(super) fn stop(&self, kill: &Kill, grace: Option<i64>) -> Stop {
        let init = self.is_init(&kill.name);
        self.event(Some((&kill.name, init)), EventType::Normal, "Killing", &kill.message);
        let spec = self.spec_of(&kill.name);
        let hook = spec.and_then(|c| {
            let hook = c.lifecycle.as_ref()?.pre_stop.clone()?;
            Some((hook, self.target(c, &kill.id)))
        });
        Stop {
            runtime: self.shared.runtime.clone(),
            id: kill.id.clone(),
            hook,
            grace: grace.or(kill.grace_seconds).unwrap_or_else(|| self.grace()),
            recorder: self.shared.recorder.clone(),
            about: reference(&self.pod, Some((&kill.name, init))),
        }
    }

    /// Stops every container (sidecars after the others, last one first) and every sandbox.
    pub(super) async fn stop_everything(&mut self, message: &str) -> Result<(), SyncError> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let inits: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
        let running: Vec<_> = self.observed.running().cloned().collect();
        let (sidecars, mains): (Vec<_>, Vec<_>) = running.iter().partition(|c| {
            inits.contains(&c.name.as_str()) && self.spec_of(&c.name).is_some_and(crate::actions::is_sidecar)
        });
        let grace = self.grace();
        let began = Instant::now();
        let stops: Vec<Stop> = mains
            .iter()
            .map(|c| self.stop(&kill_of(c, format!("{message} {}", c.name)), Some(grace)))
            .collect();
        for done in futures::future::join_all(stops.into_iter().map(Stop::run)).await {
            done?;
        }
        let mut sidecars = sidecars;
        sidecars.sort_by_key(|c| std::cmp::Reverse(inits.iter().position(|n| *n == c.name)));
        for c in sidecars {
            let left = (grace - began.elapsed().as_secs() as i64).max(0);
            self.stop(&kill_of(c, format!("{message} {}", c.name)), Some(left)).run().await?;
        }
        for s in self.observed.sandboxes.iter().filter(|s| s.ready) {
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: s.id.clone() };
            self.shared.runtime.stop_pod_sandbox(request).await?;
        }
        if self.observed.containers.iter().any(|c| c.state != RunState::Exited)
            || self.observed.sandboxes.iter().any(|s| s.ready)
        {
            self.stale = true;
        }
        Ok(())
    }
}
