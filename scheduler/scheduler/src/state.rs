//! The scheduler without its requests: takes in what happens, gives out what to do.
//!
//! Invariant: a pod that waits for this scheduler is in the queue, or assumed in the cache with a request
//! under way that [`Scheduler::binding_succeeded`] or [`Scheduler::binding_failed`] will report.
use crate::Moment;
use crate::cache::Cache;
use crate::decide::{Placement, Sampling, schedule_one};
use crate::framework::{ClusterEvent, FitError, Framework};
use crate::pod_info::{PodInfo, is_terminal, node_of, uid_of, waits_for};
use crate::queue::{Pending, Queue, QueuedPod};
use client::k8s_openapi::api::core::v1::{Node, Pod};
use client::selector::Labels;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What came of a decision. The pod has been assumed or put back already.
#[derive(Debug)]
pub enum Decision {
    Bind { queued: QueuedPod, placement: Placement },
    Explain { pod: Arc<PodInfo>, error: FitError },
}

/// Queue, cache and framework.
pub struct Scheduler {
    name: String,
    framework: Framework,
    queue: Queue,
    cache: Cache,
    sampling: Sampling,
}

impl Scheduler {
    /// A scheduler for the pods that ask for `name`. `percentage` of nodes to score; 0 lets the number of
    /// nodes decide.
    pub fn new(name: &str, framework: Framework, percentage: usize) -> Self {
        Self {
            name: name.to_owned(),
            framework,
            queue: Queue::default(),
            cache: Cache::default(),
            sampling: Sampling { start: 0, percentage },
        }
    }

    pub fn pending(&self) -> Pending {
        self.queue.pending()
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A pod was added or changed.
    pub fn apply_pod(&mut self, pod: Arc<Pod>, now: Moment) {
        let uid = uid_of(&pod);
        if is_terminal(&pod) {
            self.delete_pod(&uid, now);
        } else if let Some(node) = node_of(&pod).map(str::to_owned) {
            self.queue.remove(&uid);
            let before = self.cache.get(&uid).filter(|_| !self.cache.is_assumed(&uid)).cloned();
            let pod = Arc::new(PodInfo::new(pod));
            self.cache.add(pod.clone(), &node);
            self.tell_of_change(before.as_deref(), &pod, now);
        } else if waits_for(&pod, &self.name) {
            if self.cache.contains(&uid) {
                return; // Its binding is under way.
            }
            let changed = self.queue.get(&uid).is_some_and(|held| {
                held.pod.spec != pod.spec || held.pod.metadata.labels != pod.metadata.labels
            });
            let pod = Arc::new(PodInfo::new(pod));
            if !changed || !self.queue.update(pod.clone(), now) {
                self.queue.add(pod);
            }
        } else {
            self.queue.remove(&uid);
        }
    }

    /// A pod is gone, or has ended.
    pub fn delete_pod(&mut self, uid: &str, now: Moment) {
        self.queue.remove(uid);
        if let Some(pod) = self.cache.remove(uid) {
            self.room_came_free(&pod, now);
        }
    }

    /// Only these pods are there: drops all others.
    pub fn retain_pods(&mut self, present: &BTreeSet<String>, now: Moment) {
        for uid in self.cache.uids().into_iter().chain(self.queue.uids()) {
            if !present.contains(&uid) {
                self.delete_pod(&uid, now);
            }
        }
    }

    /// A node was added or changed.
    pub fn apply_node(&mut self, node: Arc<Node>, now: Moment) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let change = self.cache.set_node(node);
        if change.is_none() {
            return;
        }
        if let Some(node) = self.cache.snapshot().node(&name) {
            self.queue.on_event(&self.framework, &ClusterEvent::Node { node, change }, now);
        }
    }

    /// A node is gone.
    pub fn delete_node(&mut self, name: &str, now: Moment) {
        self.cache.remove_node(name);
        self.queue.on_event(&self.framework, &ClusterEvent::NodeRemoved, now);
    }

    /// Only these nodes are there: drops all others.
    pub fn retain_nodes(&mut self, present: &BTreeSet<String>, now: Moment) {
        let gone: Vec<String> = self
            .cache
            .snapshot()
            .nodes()
            .iter()
            .map(|n| n.name.clone())
            .filter(|n| !present.contains(n))
            .collect();
        for name in gone {
            self.delete_node(&name, now);
        }
    }

    /// A RuntimeClass names this handler, or is gone.
    pub fn apply_runtime_class(&mut self, name: &str, handler: Option<&str>, now: Moment) {
        if self.cache.snapshot().runtime_handler(name) == handler {
            return;
        }
        self.cache.set_runtime_class(name, handler);
        self.queue.on_event(&self.framework, &ClusterEvent::RuntimeClass, now);
    }

    /// A namespace has these labels, or is gone.
    pub fn apply_namespace(&mut self, name: &str, labels: Option<Labels>, now: Moment) {
        if self.cache.set_namespace(name, labels) {
            self.queue.on_event(&self.framework, &ClusterEvent::Namespace, now);
        }
    }

    /// Decides about the next pod, if one is ready.
    pub fn decide(&mut self, now: Moment, random: &mut dyn FnMut() -> u64) -> Option<Decision> {
        self.queue.flush(now);
        let queued = self.queue.pop()?;
        let snapshot = self.cache.snapshot();
        match schedule_one(&self.framework, snapshot, &queued.pod, self.sampling, random) {
            Ok(placement) => {
                self.sampling.start =
                    (self.sampling.start + placement.looked_at) % snapshot.nodes().len().max(1);
                self.cache.assume(queued.pod.clone(), &placement.node);
                Some(Decision::Bind { queued, placement })
            }
            Err(error) => {
                let pod = queued.pod.clone();
                let rejected_by = error.rejected_by.clone();
                self.queue.unschedulable(&self.framework, QueuedPod { rejected_by, ..queued }, now);
                Some(Decision::Explain { pod, error })
            }
        }
    }

    /// Whether [`Scheduler::decide`] has something to do at `now`.
    pub fn is_ready(&self, now: Moment) -> bool {
        self.queue.pending().active > 0 || self.queue.next_flush().is_some_and(|at| at <= now)
    }

    /// The API server took the binding.
    pub fn binding_succeeded(&mut self, uid: &str, now: Moment) {
        self.cache.binding_finished(uid, now);
    }

    /// The API server did not take the binding. `latest` is the pod as the watch shows it now.
    pub fn binding_failed(&mut self, queued: QueuedPod, latest: Option<Arc<Pod>>, now: Moment) {
        let uid = &queued.pod.uid;
        if !self.cache.forget(uid) {
            return; // It was deleted, or is bound after all.
        }
        self.room_came_free(&queued.pod.clone(), now);
        if let Some(pod) = latest.filter(|p| uid_of(p) == *uid && waits_for(p, &self.name)) {
            let pod = Arc::new(PodInfo::new(pod));
            self.queue.failed(QueuedPod { pod, ..queued }, now);
        }
    }

    /// Time has passed: wakes pods whose time has come and drops those whose binding was never seen; the caller
    /// applies the latter again as they are.
    pub fn tick(&mut self, now: Moment) -> Vec<Arc<PodInfo>> {
        self.queue.flush(now);
        let expired = self.cache.expire(now);
        for pod in &expired {
            self.room_came_free(pod, now);
        }
        expired
    }

    /// When something is to be done though nothing happens.
    pub fn next_timer(&self) -> Option<Moment> {
        [self.queue.next_flush(), self.cache.next_expiry()].into_iter().flatten().min()
    }

    /// A placed pod was seen; `before` is how, if it was seen placed already.
    fn tell_of_change(&mut self, before: Option<&PodInfo>, pod: &PodInfo, now: Moment) {
        let relabelled = before.is_some_and(|b| b.labels() != pod.labels());
        let ending = |p: &PodInfo| p.pod.metadata.deletion_timestamp.is_some();
        if let Some(before) = before
            && (relabelled || before.requests != pod.requests || ending(before) != ending(pod))
        {
            self.room_came_free(before, now);
        }
        if before.is_none() || relabelled {
            self.queue.on_event(&self.framework, &ClusterEvent::PodAdded { pod }, now);
        }
    }

    fn room_came_free(&mut self, pod: &PodInfo, now: Moment) {
        self.queue.on_event(&self.framework, &ClusterEvent::PodRemoved { pod }, now);
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
