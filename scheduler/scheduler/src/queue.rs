//! The pods that wait for a node.
//!
//! Invariant: a pod is in exactly one of the three parts, or in the hands of whoever popped it. It leaves
//! `unschedulable` when an event may help it, and at the latest after [`FLUSH`]: a hint that is wrong costs
//! time, never the pod.
//!
//! ```text
//!   add ──► active ──pop──► (a decision) ──rejected──► unschedulable ──event may help, or 5 min──┐
//!             ▲                    └──request failed──► backoff ◄── still backing off ───────────┤
//!             └──────────── time is up ────────────────────┘                                     │
//!             ▲──────────────────────────────────────────────────────────────────────────────────┘
//! ```
use crate::Moment;
use crate::framework::{ClusterEvent, Framework};
use crate::pod_info::PodInfo;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// `podInitialBackoffSeconds`, `podMaxBackoffSeconds`.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// How long a pod waits for an event that may help it before it is tried anyway
/// (`podMaxInUnschedulablePodsDuration`).
const FLUSH: Duration = Duration::from_secs(300);

/// A pod that waits, or was popped.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    pub pod: Arc<PodInfo>,
    /// Decisions made so far.
    pub attempts: u32,
    /// Who rejected it the last time; empty if nobody did.
    pub rejected_by: BTreeSet<&'static str>,
}

/// First the greater priority, then who came first.
type ActiveSlot = (Reverse<i32>, u64);
/// By time, then who came first.
type TimedSlot = (Moment, u64);

#[derive(Clone, Copy, Debug)]
enum Place {
    Active(ActiveSlot),
    Backoff(TimedSlot),
    /// Since when.
    Unschedulable(TimedSlot),
}

#[derive(Debug)]
struct Entry {
    queued: QueuedPod,
    place: Place,
    /// When the last decision about it was made.
    last_attempt: Moment,
    /// Whether another pod's coming may help it.
    waits_for_pods: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<ActiveSlot, String>,
    backoff: BTreeMap<TimedSlot, String>,
    unschedulable: BTreeMap<TimedSlot, String>,
    /// How many of `unschedulable` another pod's coming may help.
    waiting_for_pods: usize,
    sequence: u64,
}

/// How many pods wait where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
}

impl Queue {
    /// A pod that was never tried. One that waits already keeps its place and gets its new state.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        if let Some(entry) = self.entries.get_mut(&pod.uid) {
            entry.queued.pod = pod;
            return;
        }
        let queued = QueuedPod { pod, attempts: 0, rejected_by: BTreeSet::new() };
        self.activate(queued, Moment::ZERO);
    }

    /// A waiting pod changed in a way that may matter to a decision. False if it does not wait here.
    pub fn update(&mut self, pod: Arc<PodInfo>, now: Moment) -> bool {
        let Some(entry) = self.entries.get(&pod.uid) else { return false };
        // A pod whose priority changed takes its place anew, too.
        if matches!(entry.place, Place::Backoff(_)) {
            if let Some(entry) = self.entries.get_mut(&pod.uid) {
                entry.queued.pod = pod;
            }
            return true;
        }
        if let Some(mut entry) = self.take(&pod.uid) {
            entry.queued.pod = pod;
            self.wake(entry.queued, entry.last_attempt, now);
        }
        true
    }

    /// The pod has a node or is gone.
    pub fn remove(&mut self, uid: &str) -> bool {
        self.take(uid).is_some()
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The waiting pod, as last seen.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|e| &e.queued.pod)
    }

    /// The uids of all waiting pods, sorted.
    pub fn uids(&self) -> Vec<String> {
        let mut uids: Vec<String> = self.entries.keys().cloned().collect();
        uids.sort_unstable();
        uids
    }

    /// The next pod to decide about. Call [`Queue::flush`] before, so that pods whose time has come are among
    /// them.
    pub fn pop(&mut self) -> Option<QueuedPod> {
        let (_, uid) = self.active.pop_first()?;
        let mut queued = self.entries.remove(&uid)?.queued;
        queued.attempts = queued.attempts.saturating_add(1);
        Some(queued)
    }

    /// No node fits the pod; `queued.rejected_by` says whose mind must change.
    pub fn unschedulable(&mut self, framework: &Framework, queued: QueuedPod, now: Moment) {
        let slot = (now, self.next());
        let waits_for_pods = framework.waits_for_pods(&queued.rejected_by);
        self.waiting_for_pods += usize::from(waits_for_pods);
        let uid = queued.pod.uid.clone();
        self.unschedulable.insert(slot, uid.clone());
        let place = Place::Unschedulable(slot);
        self.entries.insert(uid, Entry { queued, place, last_attempt: now, waits_for_pods });
    }

    /// Something else went wrong with the pod: it is tried again after its backoff, whatever happens.
    pub fn failed(&mut self, mut queued: QueuedPod, now: Moment) {
        queued.rejected_by.clear();
        self.wake(queued, now, now);
    }

    /// Something happened: wakes the pods it may help.
    pub fn on_event(&mut self, framework: &Framework, event: &ClusterEvent<'_>, now: Moment) {
        if matches!(event, ClusterEvent::PodAdded { .. }) && self.waiting_for_pods == 0 {
            return;
        }
        let helped: Vec<String> = self
            .unschedulable
            .values()
            .filter(|uid| {
                self.entries
                    .get(*uid)
                    .is_some_and(|e| framework.may_help(&e.queued.pod, &e.queued.rejected_by, event))
            })
            .cloned()
            .collect();
        for uid in helped {
            self.wake_entry(&uid, now);
        }
    }

    /// Moves pods whose time has come.
    pub fn flush(&mut self, now: Moment) {
        while let Some((slot, uid)) = self.backoff.first_key_value() {
            if slot.0 > now {
                break;
            }
            let uid = uid.clone();
            if let Some(entry) = self.take(&uid) {
                self.activate(entry.queued, entry.last_attempt);
            }
        }
        while let Some((slot, uid)) = self.unschedulable.first_key_value() {
            if slot.0 + FLUSH > now {
                break;
            }
            let uid = uid.clone();
            self.wake_entry(&uid, now);
        }
    }

    /// When [`Queue::flush`] next has something to do.
    pub fn next_flush(&self) -> Option<Moment> {
        let backoff = self.backoff.keys().next().map(|(at, _)| *at);
        let unschedulable = self.unschedulable.keys().next().map(|(since, _)| *since + FLUSH);
        [backoff, unschedulable].into_iter().flatten().min()
    }

    pub fn pending(&self) -> Pending {
        Pending {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        self.waiting_for_pods -= usize::from(entry.waits_for_pods);
        match &entry.place {
            Place::Active(slot) => self.active.remove(slot),
            Place::Backoff(slot) => self.backoff.remove(slot),
            Place::Unschedulable(slot) => self.unschedulable.remove(slot),
        };
        Some(entry)
    }

    fn wake_entry(&mut self, uid: &str, now: Moment) {
        if let Some(entry) = self.take(uid) {
            self.wake(entry.queued, entry.last_attempt, now);
        }
    }

    /// Into `active`, by way of `backoff` if it was tried too recently.
    fn wake(&mut self, queued: QueuedPod, last_attempt: Moment, now: Moment) {
        let ready = last_attempt + backoff(queued.attempts);
        if ready <= now {
            return self.activate(queued, last_attempt);
        }
        let slot = (ready, self.next());
        let uid = queued.pod.uid.clone();
        self.backoff.insert(slot, uid.clone());
        let place = Place::Backoff(slot);
        self.entries.insert(uid, Entry { queued, place, last_attempt, waits_for_pods: false });
    }

    fn activate(&mut self, queued: QueuedPod, last_attempt: Moment) {
        let slot = (Reverse(queued.pod.priority), self.next());
        let uid = queued.pod.uid.clone();
        self.active.insert(slot, uid.clone());
        let place = Place::Active(slot);
        self.entries.insert(uid, Entry { queued, place, last_attempt, waits_for_pods: false });
    }
}

/// How long a pod waits after so many attempts: 1 s, 2 s, 4 s, 8 s, 10 s.
fn backoff(attempts: u32) -> Duration {
    match attempts {
        0 => Duration::ZERO,
        n => BACKOFF_BASE.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(BACKOFF_CAP),
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
