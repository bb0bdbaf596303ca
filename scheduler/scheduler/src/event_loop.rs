//! The loop around the decisions: changes in, requests out.
use crate::Moment;
use crate::binder::{ApiBinder, BindError, Binder, plan_condition};
use crate::framework::{FitError, Framework};
use crate::pod_info::{DEFAULT_SCHEDULER, PodInfo, uid_of};
use crate::queue::QueuedPod;
use crate::state::{Decision, Scheduler};
use client::k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use client::k8s_openapi::api::node::v1::RuntimeClass;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use client::{
    Change, Client, EventType, Informer, Informers, LeaderElector, LeaseTiming, ObjectKey, Recorder,
};
use machinery::ambient::Ambient;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests under way at once: as many as the store commits together. Deciding waits when there are more.
const REQUESTS: usize = 64;

/// How a scheduler is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `schedulerName` of the pods it looks after, and the name in its events.
    pub scheduler_name: String,
    /// `percentageOfNodesToScore`; 0 lets the number of nodes decide.
    pub percentage_of_nodes_to_score: usize,
    /// The name to stand for election with (`--leader-elect`), or None to work at once.
    pub leader_identity: Option<String>,
    pub lease_timing: LeaseTiming,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            percentage_of_nodes_to_score: 0,
            leader_identity: None,
            lease_timing: LeaseTiming::default(),
        }
    }
}

/// Schedules pods until `shutdown`.
pub async fn run(
    config: Config,
    client: Client,
    informers: Informers,
    ambient: Ambient,
    shutdown: CancellationToken,
) {
    let recorder =
        Recorder::new(client.clone(), ambient.clone(), &config.scheduler_name, "", shutdown.clone());
    let binder: Arc<dyn Binder> = Arc::new(ApiBinder::new(client.clone()));
    loop {
        let schedule = |stop: CancellationToken| {
            let parts = (binder.clone(), recorder.clone(), ambient.clone());
            EventLoop::new(&config, parts, &informers).run(stop)
        };
        let Some(identity) = &config.leader_identity else {
            schedule(shutdown.clone()).await;
            break;
        };
        let elector =
            LeaderElector::new(client.clone(), "kube-system", "kube-scheduler", identity, ambient.clone())
                .with_timing(config.lease_timing)
                .with_recorder(recorder.clone());
        // A scheduler that lost its Lease stands for election again: all it knows comes from the informers.
        if elector.lead(shutdown.clone(), schedule).await {
            break;
        }
    }
    recorder.ended().await;
}

/// What a request came to.
enum Outcome {
    Bound { queued: QueuedPod, node: String, result: Result<(), BindError> },
    Explained { result: Result<(), BindError> },
}

struct EventLoop {
    scheduler: Scheduler,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    classes: Informer<RuntimeClass>,
    namespaces: Informer<Namespace>,
    binder: Arc<dyn Binder>,
    recorder: Recorder,
    ambient: Ambient,
    start: Instant,
    requests: JoinSet<Outcome>,
}

impl EventLoop {
    fn new(
        config: &Config,
        (binder, recorder, ambient): (Arc<dyn Binder>, Recorder, Ambient),
        informers: &Informers,
    ) -> Self {
        Self {
            scheduler: Scheduler::new(
                &config.scheduler_name,
                Framework::default(),
                config.percentage_of_nodes_to_score,
            ),
            pods: informers.get(),
            nodes: informers.get(),
            classes: informers.get(),
            namespaces: informers.get(),
            binder,
            recorder,
            ambient,
            start: Instant::now(),
            requests: JoinSet::new(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let synced = async {
            let rest = self.classes.synced().await && self.namespaces.synced().await;
            rest && self.nodes.synced().await && self.pods.synced().await
        };
        if !matches!(stop.run_until_cancelled(synced).await, Some(true)) {
            return;
        }
        let mut pods = self.pods.subscribe();
        let mut nodes = self.nodes.subscribe();
        let mut classes = self.classes.subscribe();
        let mut namespaces = self.namespaces.subscribe();
        // What happens comes before what is decided, and nodes before pods: a pod decided about before the nodes
        // are known would only wait in vain.
        loop {
            let now = self.now();
            let may_decide = self.requests.len() < REQUESTS && self.scheduler.is_ready(now);
            let timer = self.scheduler.next_timer().map(|at| self.start + at);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                change = classes.next() => match change {
                    Some(change) => self.on_class(change),
                    None => break,
                },
                change = namespaces.next() => match change {
                    Some(change) => self.on_namespace(change),
                    None => break,
                },
                change = nodes.next() => match change {
                    Some(change) => self.on_node(change),
                    None => break,
                },
                change = pods.next() => match change {
                    Some(change) => self.on_pod(change),
                    None => break,
                },
                Some(done) = self.requests.join_next() => self.on_outcome(done),
                () = std::future::ready(()), if may_decide => {
                    self.decide();
                    // Others want to run, too: their requests and answers are what this waits for.
                    tokio::task::yield_now().await;
                }
                () = sleep_until(timer.unwrap_or(self.start)), if timer.is_some() && !may_decide => self.on_timer(),
            }
        }
        // Requests under way are let finish: a binding the API server took is one, whoever hears of it.
        while self.requests.join_next().await.is_some() {}
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    fn on_pod(&mut self, change: Change<Pod>) {
        let now = self.now();
        match change {
            Change::Applied(pod) => self.scheduler.apply_pod(pod, now),
            Change::Deleted(pod) => self.scheduler.delete_pod(&uid_of(&pod), now),
            Change::Resync => {
                let present = self.pods.list().iter().map(|p| uid_of(p)).collect();
                self.scheduler.retain_pods(&present, now);
            }
        }
    }

    fn on_node(&mut self, change: Change<Node>) {
        let now = self.now();
        match change {
            Change::Applied(node) => self.scheduler.apply_node(node, now),
            Change::Deleted(node) => self.scheduler.delete_node(&ObjectKey::of(&*node).name, now),
            Change::Resync => {
                let present = self.nodes.list().iter().map(|n| ObjectKey::of(&**n).name).collect();
                self.scheduler.retain_nodes(&present, now);
            }
        }
    }

    fn on_class(&mut self, change: Change<RuntimeClass>) {
        let now = self.now();
        match change {
            Change::Applied(class) => {
                self.scheduler.apply_runtime_class(&ObjectKey::of(&*class).name, Some(&class.handler), now);
            }
            Change::Deleted(class) => {
                self.scheduler.apply_runtime_class(&ObjectKey::of(&*class).name, None, now);
            }
            Change::Resync => {
                let present: BTreeSet<String> =
                    self.classes.list().iter().map(|c| ObjectKey::of(&**c).name).collect();
                for name in self.scheduler.cache().runtime_classes() {
                    if !present.contains(&name) {
                        self.scheduler.apply_runtime_class(&name, None, now);
                    }
                }
            }
        }
    }

    fn on_namespace(&mut self, change: Change<Namespace>) {
        let now = self.now();
        match change {
            Change::Applied(ns) => {
                let labels = ns.metadata.labels.clone().unwrap_or_default();
                self.scheduler.apply_namespace(&ObjectKey::of(&*ns).name, Some(labels), now);
            }
            Change::Deleted(ns) => self.scheduler.apply_namespace(&ObjectKey::of(&*ns).name, None, now),
            Change::Resync => {
                let known: Vec<String> =
                    self.scheduler.cache().snapshot().namespaces().keys().cloned().collect();
                for name in known.iter().filter(|n| self.namespaces.get("", n).is_none()) {
                    self.scheduler.apply_namespace(name, None, now);
                }
            }
        }
    }

    fn on_timer(&mut self) {
        let now = self.now();
        for pod in self.scheduler.tick(now) {
            tracing::warn!(pod = %pod.key, "the binding of an assumed pod was never seen");
            if let Some(latest) = self.latest(&pod) {
                self.scheduler.apply_pod(latest, now);
            }
        }
    }

    /// The pod as the watch shows it, if it is still the same one.
    fn latest(&self, pod: &PodInfo) -> Option<Arc<Pod>> {
        self.pods.get(&pod.key.namespace, &pod.key.name).filter(|p| uid_of(p) == pod.uid)
    }

    fn decide(&mut self) {
        let now = self.now();
        let ambient = self.ambient.clone();
        match self.scheduler.decide(now, &mut || ambient.random()) {
            None => {}
            Some(Decision::Bind { queued, placement }) => {
                tracing::debug!(
                    pod = %queued.pod.key, node = placement.node, looked_at = placement.looked_at,
                    feasible = placement.feasible, attempts = queued.attempts, "binding"
                );
                let binder = self.binder.clone();
                self.requests.spawn(async move {
                    let result = binder.bind(&queued.pod, &placement.node).await;
                    Outcome::Bound { queued, node: placement.node, result }
                });
            }
            Some(Decision::Explain { pod, error }) => self.explain(&pod, &error),
        }
    }

    fn explain(&mut self, pod: &Arc<PodInfo>, error: &FitError) {
        let message = error.to_string();
        tracing::debug!(pod = %pod.key, message, "no node fits");
        self.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", message.clone());
        let Some(latest) = self.latest(pod) else { return };
        if let Some(condition) = plan_condition(&latest, "Unschedulable", &message, Time(self.ambient.now()))
        {
            let (binder, pod) = (self.binder.clone(), pod.clone());
            self.requests
                .spawn(async move { Outcome::Explained { result: binder.explain(&pod, condition).await } });
        }
    }

    fn on_outcome(&mut self, done: Result<Outcome, tokio::task::JoinError>) {
        let now = self.now();
        match done {
            Ok(Outcome::Bound { queued, node, result: Ok(()) }) => {
                let pod = &queued.pod;
                self.scheduler.binding_succeeded(&pod.uid, now);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&*pod.pod, EventType::Normal, "Scheduled", message);
            }
            Ok(Outcome::Bound { queued, node, result: Err(error) }) => {
                let latest = self.latest(&queued.pod);
                let text = client::error_chain(&error);
                tracing::warn!(pod = %queued.pod.key, node, error = text, "binding failed");
                if !matches!(error, BindError::Gone { .. }) {
                    let message = format!("binding rejected: {text}");
                    self.recorder.event(&*queued.pod.pod, EventType::Warning, "FailedScheduling", message);
                }
                self.scheduler.binding_failed(queued, latest, now);
            }
            Ok(Outcome::Explained { result: Ok(()) | Err(BindError::Gone { .. }) }) => {}
            Ok(Outcome::Explained { result: Err(error) }) => {
                // The next attempt says it again.
                tracing::warn!(error = client::error_chain(&error), "cannot say why a pod has no node");
            }
            // A binder that panics is a defect; the pod it had expires from nothing but a restart, so stop here.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[cfg(test)]
#[path = "event_loop_tests.rs"]
mod tests;
