//! Instances between two requests, for containers that reuse them.
//!
//! Invariant: an instance serves one container's requests only, one at a time, a bounded number of them, and is gone
//! [`REUSE_IDLE`] after the last. What trapped, ran out of time or lost its client never comes here.
use crate::instance::Instance;
use crate::limits::REUSE_IDLE;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Default)]
struct Kept {
    /// The longest idle first.
    instances: Vec<(Instance, Instant)>,
    /// Whether a task waits to drop them.
    watched: bool,
}

/// One container's.
pub(crate) struct IdleInstances {
    /// Requests one instance may serve; 1 is no reuse.
    most: u32,
    kept: Mutex<Kept>,
    tasks: TaskTracker,
    /// Nothing is kept once the container stops.
    over: CancellationToken,
}

impl IdleInstances {
    pub(crate) fn new(most: u32, tasks: TaskTracker, over: CancellationToken) -> Arc<Self> {
        Arc::new(Self { most, kept: Mutex::default(), tasks, over })
    }

    /// The one that was used last: its memory is the likeliest to be in the processor's caches.
    pub(crate) fn take(&self) -> Option<Instance> {
        if self.most <= 1 {
            return None;
        }
        self.kept.lock().instances.pop().map(|(instance, _)| instance)
    }

    /// Keeps an instance that has served a request to its end, if it may serve another.
    pub(crate) fn keep(self: &Arc<Self>, mut instance: Instance) {
        if self.most <= 1 || self.over.is_cancelled() || !instance.is_reusable(self.most) {
            return;
        }
        let mut kept = self.kept.lock();
        kept.instances.push((instance, Instant::now()));
        if !std::mem::replace(&mut kept.watched, true) {
            self.tasks.spawn(self.clone().watch());
        }
    }

    /// Drops all of them, and says how many there were.
    pub(crate) fn clear(&self) -> usize {
        let instances = std::mem::take(&mut self.kept.lock().instances);
        instances.len()
    }

    /// Drops what has been idle for too long, until none is left: a quiet container has no task either.
    async fn watch(self: Arc<Self>) {
        loop {
            let (expired, next) = self.expired(Instant::now());
            drop(expired);
            let Some(next) = next else { return };
            if self.over.run_until_cancelled(sleep_until(next)).await.is_none() {
                self.kept.lock().watched = false;
                self.clear();
                return;
            }
        }
    }

    /// What is to be dropped now, and when to look again.
    fn expired(&self, now: Instant) -> (Vec<(Instance, Instant)>, Option<Instant>) {
        let mut kept = self.kept.lock();
        let count = kept.instances.partition_point(|(_, since)| *since + REUSE_IDLE <= now);
        let expired = kept.instances.drain(..count).collect();
        let next = kept.instances.first().map(|(_, since)| *since + REUSE_IDLE);
        kept.watched = next.is_some();
        (expired, next)
    }
}

/// All containers' of a node: what may be given up when its pool of instances is empty.
#[derive(Default)]
pub(crate) struct AllIdle(Mutex<Vec<Weak<IdleInstances>>>);

impl AllIdle {
    pub(crate) fn add(&self, idle: &Arc<IdleInstances>) {
        if idle.most <= 1 {
            return;
        }
        let mut all = self.0.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(idle));
    }

    /// Drops every idle instance of the node; whether there was one.
    pub(crate) fn shed(&self) -> bool {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().map(|idle| idle.clear()).sum::<usize>() > 0
    }
}
