//! The loop of one probe of one container. It ends with the [`ProbeTasks`] that own it.
use super::attempt::{Question, Target};
use super::{Kind, Outcome, ProbeState, Timing};
use client::k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Who hears what a probe finds.
pub trait Listener: Send + Sync + 'static {
    /// The verdict on a container changed.
    fn verdict(&self, container_id: &str, kind: Kind, ok: bool);
    /// A failure that counts, for the event.
    fn unhealthy(&self, container_name: &str, kind: Kind, message: &str);
}

/// The probes of one pod. Dropping it ends them.
#[derive(Default)]
pub struct ProbeTasks {
    tasks: JoinSet<()>,
    running: BTreeMap<(String, Kind), AbortHandle>,
}

impl ProbeTasks {
    /// Starts a probe unless it runs. `since_start`: how long the container has been running.
    pub fn ensure(
        &mut self,
        container_name: &str,
        kind: Kind,
        probe: &core::Probe,
        target: Target,
        since_start: Duration,
        listener: Arc<dyn Listener>,
    ) {
        let key = (target.container_id.clone(), kind);
        if self.running.contains_key(&key) {
            return;
        }
        let (question, timing) = (Question::from(probe), Timing::of(probe));
        let name = container_name.to_owned();
        let run = run(name, kind, question, timing, target, since_start, listener);
        self.running.insert(key, self.tasks.spawn(run));
    }

    /// Ends the probes that `keep` does not take.
    pub fn retain(&mut self, keep: impl Fn(&str, Kind) -> bool) {
        self.running.retain(|(id, kind), task| {
            let keep = keep(id, *kind);
            if !keep {
                task.abort();
            }
            keep
        });
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn run(
    name: String,
    kind: Kind,
    question: Question,
    timing: Timing,
    target: Target,
    since_start: Duration,
    listener: Arc<dyn Listener>,
) {
    let mut state = ProbeState::new(kind, timing);
    tokio::time::sleep(state.first_in(since_start)).await;
    let first = Instant::now();
    loop {
        let asked = Instant::now();
        let outcome = target.prober.ask(&question, &target, timing.timeout).await;
        let step = state.step(&outcome, asked.duration_since(first));
        if step.counted_failure
            && let Outcome::Failure(text) = &outcome
        {
            listener.unhealthy(&name, kind, &format!("{} probe failed: {text}", kind.title()));
        }
        if let Some(ok) = step.verdict {
            listener.verdict(&target.container_id, kind, ok);
        }
        match step.again_in {
            // From question to question, however long the answer took.
            Some(wait) => tokio::time::sleep_until((asked + wait).max(Instant::now())).await,
            None => return,
        }
    }
}
