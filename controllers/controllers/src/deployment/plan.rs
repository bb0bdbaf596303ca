//! What one Deployment needs next. Pure.
//!
//! ```text
//!   paused? ── scaled since? ── Recreate: old down, wait, new up
//!                          └─── RollingUpdate: new up (under the ceiling), else old down (above the floor)
//! ```
//! Every pass sees the world afresh; a ReplicaSet is changed against the version that was seen, so a plan made
//! from a stale world fails with a conflict and is made again.
use super::bounds::Bounds;
use super::revision::{self, age_key, annotation};
use super::status;
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// What the planner sees.
pub(crate) struct World<'a> {
    pub(crate) deployment: &'a Deployment,
    /// The ReplicaSets it controls.
    pub(crate) replica_sets: Vec<ReplicaSet>,
    /// Uids of ReplicaSets that have pods which have not ended, terminating ones included.
    pub(crate) running: BTreeSet<String>,
    pub(crate) now: Timestamp,
}

/// A change of one ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resize {
    /// The object as it shall be; its resourceVersion is the one seen.
    pub(crate) wanted: ReplicaSet,
    pub(crate) from: i32,
    pub(crate) to: i32,
}

/// What is to be done, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) create: Option<ReplicaSet>,
    pub(crate) update: Vec<Resize>,
    pub(crate) delete: Vec<ReplicaSet>,
    /// The revision annotation the Deployment lacks.
    pub(crate) revision: Option<String>,
    pub(crate) status: DeploymentStatus,
    /// The progress deadline may pass then.
    pub(crate) look_again: Option<Duration>,
    pub(crate) why: Why,
}

/// The reason for what a plan does, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Terminating,
    /// The selector is empty: it would own every pod.
    SelectsEverything,
    Paused,
    Scaling,
    NewReplicaSet,
    GrowingNew,
    ShrinkingOld,
    /// Recreate: pods of old ReplicaSets still run.
    WaitingForOldPods,
    /// Nothing may go down before more pods are available, and nothing may come up before some are gone.
    WaitingForAvailability,
    Complete,
}

/// The ReplicaSets as they shall be, beside as they were seen.
struct Draft<'a> {
    deployment: &'a Deployment,
    bounds: Bounds,
    seen: Vec<ReplicaSet>,
    all: Vec<ReplicaSet>,
    /// Which of `all` has the present template.
    current: Option<usize>,
    created: Option<usize>,
    delete: Vec<ReplicaSet>,
    running: BTreeSet<String>,
}

pub(crate) fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(crate) fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Available pods that stay so: a status that was written before the last resize may count pods that are to go.
pub(crate) fn staying(rs: &ReplicaSet) -> i32 {
    available(rs).min(replicas(rs))
}

pub(crate) fn existing(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

/// Decides the next step of a Deployment.
pub(crate) fn plan_deployment(world: World<'_>) -> Plan {
    let bounds = Bounds::of(world.deployment);
    let current = revision::find_current(world.deployment, &world.replica_sets);
    let mut draft = Draft {
        deployment: world.deployment,
        bounds,
        all: world.replica_sets.clone(),
        seen: world.replica_sets,
        current,
        created: None,
        delete: Vec::new(),
        running: world.running,
    };
    let why = draft.step();
    draft.finish(why, world.now)
}

impl Draft<'_> {
    fn step(&mut self) -> Why {
        let Some(spec) = self.deployment.spec.as_ref() else { return Why::SelectsEverything };
        if crate::selector::is_empty(&spec.selector) {
            return Why::SelectsEverything;
        }
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return Why::Terminating;
        }
        let paused = spec.paused == Some(true);
        if paused || self.scaled_since() {
            self.refresh_current();
            self.scale();
            if paused {
                self.clean_up_history();
                return Why::Paused;
            }
            return Why::Scaling;
        }
        let why = if self.bounds.rolling { self.roll() } else { self.recreate() };
        if why == Why::Complete {
            self.clean_up_history();
        }
        why
    }

    fn roll(&mut self) -> Why {
        if self.current.is_none() {
            self.create_current(self.room_for_new(0));
            return Why::NewReplicaSet;
        }
        self.refresh_current();
        if self.grow_new() {
            return Why::GrowingNew;
        }
        if self.shrink_old() {
            return Why::ShrinkingOld;
        }
        self.done_or_waiting()
    }

    fn recreate(&mut self) -> Why {
        self.refresh_current();
        let old = self.old();
        if old.iter().any(|i| replicas(&self.all[*i]) > 0) {
            for i in old {
                self.resize(i, 0);
            }
            return Why::ShrinkingOld;
        }
        let running = |rs: &ReplicaSet| {
            existing(rs) > 0 || rs.metadata.uid.as_ref().is_some_and(|u| self.running.contains(u))
        };
        if old.iter().any(|i| running(&self.all[*i])) {
            return Why::WaitingForOldPods;
        }
        match self.current {
            None => {
                self.create_current(self.bounds.replicas);
                Why::NewReplicaSet
            }
            Some(i) if replicas(&self.all[i]) != self.bounds.replicas => {
                self.resize(i, self.bounds.replicas);
                Why::GrowingNew
            }
            Some(_) => self.done_or_waiting(),
        }
    }

    fn done_or_waiting(&self) -> Why {
        let s = status::count(self.deployment, &self.all, self.current);
        if status::is_complete(self.bounds.replicas, &s) {
            Why::Complete
        } else {
            Why::WaitingForAvailability
        }
    }

    /// Indices of all but the current one, oldest first.
    fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> = (0..self.all.len()).filter(|i| Some(*i) != self.current).collect();
        old.sort_by(|a, b| age_key(&self.all[*a]).cmp(&age_key(&self.all[*b])));
        old
    }

    /// Pods that all ReplicaSets together shall have.
    fn total(&self) -> i32 {
        self.all.iter().map(replicas).sum()
    }

    fn next_revision(&self) -> i64 {
        self.old().iter().map(|i| revision::revision_of(&self.all[*i])).max().unwrap_or(0) + 1
    }

    fn create_current(&mut self, size: i32) {
        let revision = self.next_revision();
        if let Some(rs) = revision::new_replica_set(self.deployment, self.bounds, revision, size) {
            self.current = Some(self.all.len());
            self.created = self.current;
            self.all.push(rs);
        }
    }

    /// Brings annotations and minReadySeconds of the current ReplicaSet up to date.
    fn refresh_current(&mut self) {
        let revision = self.next_revision();
        let min_ready = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        if let Some(i) = self.current {
            revision::annotate_current(self.deployment, &mut self.all[i], revision);
            if let Some(spec) = &mut self.all[i].spec
                && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
            {
                spec.min_ready_seconds = min_ready;
            }
        }
    }

    fn resize(&mut self, i: usize, to: i32) {
        if let Some(spec) = &mut self.all[i].spec {
            spec.replicas = Some(to.max(0));
        }
        revision::annotate_size(&mut self.all[i], self.bounds);
    }

    /// How many pods the current ReplicaSet may have, having `now` of them.
    fn room_for_new(&self, now: i32) -> i32 {
        let room = self.bounds.ceiling() - self.total();
        if room <= 0 { now } else { now + room.min(self.bounds.replicas - now).max(0) }
    }

    fn grow_new(&mut self) -> bool {
        let Some(i) = self.current else { return false };
        let now = replicas(&self.all[i]);
        let to = if now >= self.bounds.replicas { self.bounds.replicas } else { self.room_for_new(now) };
        if to == now {
            return false;
        }
        self.resize(i, to);
        true
    }

    /// Takes down old pods: unhealthy ones first, they serve nobody; then healthy ones as far as the floor lets.
    fn shrink_old(&mut self) -> bool {
        let old = self.old();
        if old.iter().all(|i| replicas(&self.all[*i]) == 0) {
            return false;
        }
        let new_unavailable =
            self.current.map_or(0, |i| (replicas(&self.all[i]) - staying(&self.all[i])).max(0));
        let mut allowance = self.total() - self.bounds.floor() - new_unavailable;
        if allowance <= 0 {
            return false;
        }
        let mut shrunk = false;
        for &i in &old {
            let (have, healthy) = (replicas(&self.all[i]), staying(&self.all[i]));
            let down = (have - healthy).max(0).min(allowance);
            if down > 0 {
                self.resize(i, have - down);
                allowance -= down;
                shrunk = true;
            }
        }
        let mut spare = self.all.iter().map(staying).sum::<i32>() - self.bounds.floor();
        for &i in &old {
            let have = replicas(&self.all[i]);
            let down = have.min(spare);
            if down > 0 {
                self.resize(i, have - down);
                spare -= down;
                shrunk = true;
            }
        }
        shrunk
    }

    /// Whether `spec.replicas` changed since a ReplicaSet with pods was last sized.
    fn scaled_since(&self) -> bool {
        self.all.iter().filter(|rs| replicas(rs) > 0).any(|rs| {
            annotation(rs, revision::DESIRED_REPLICAS)
                .and_then(|v| v.parse::<i32>().ok())
                .is_some_and(|desired| desired != self.bounds.replicas)
        })
    }

    /// Fits the ReplicaSets to a changed `spec.replicas`, without moving the rollout along.
    fn scale(&mut self) {
        let active: Vec<usize> = (0..self.all.len()).filter(|i| replicas(&self.all[*i]) > 0).collect();
        let only = match active.as_slice() {
            [] => self.current.or_else(|| self.old().last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(i) = only {
            if replicas(&self.all[i]) != self.bounds.replicas || self.size_note_differs(i) {
                self.resize(i, self.bounds.replicas);
            }
            return;
        }
        if active.is_empty() {
            return;
        }
        if self.is_saturated() {
            for i in self.old() {
                if replicas(&self.all[i]) > 0 {
                    self.resize(i, 0);
                }
            }
            return;
        }
        if self.bounds.rolling {
            self.scale_in_proportion(active);
        }
    }

    fn size_note_differs(&self, i: usize) -> bool {
        annotation(&self.all[i], revision::DESIRED_REPLICAS) != Some(&self.bounds.replicas.to_string())
            || annotation(&self.all[i], revision::MAX_REPLICAS) != Some(&self.bounds.ceiling().to_string())
    }

    fn is_saturated(&self) -> bool {
        self.current.is_some_and(|i| {
            let rs = &self.all[i];
            let desired = annotation(rs, revision::DESIRED_REPLICAS).and_then(|v| v.parse().ok());
            desired == Some(self.bounds.replicas)
                && replicas(rs) == self.bounds.replicas
                && available(rs) == self.bounds.replicas
        })
    }

    /// Shares the pods to add or remove among the active ReplicaSets by their size, so that a bad new version
    /// does not grow faster than it would have.
    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let allowed = if self.bounds.replicas > 0 { self.bounds.ceiling() } else { 0 };
        let to_add = allowed - self.total();
        let by_size = |a: &usize, b: &usize| replicas(&self.all[*b]).cmp(&replicas(&self.all[*a]));
        // Growing favours the newer of two of one size, shrinking takes from the older.
        active.sort_by(|a, b| {
            let age = age_key(&self.all[*a]).cmp(&age_key(&self.all[*b]));
            by_size(a, b).then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
        for &i in &active {
            let share = self.share(&self.all[i], to_add, added);
            added += share;
            sizes.push((replicas(&self.all[i]) + share).max(0));
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            if size != replicas(&self.all[i]) || self.size_note_differs(i) {
                self.resize(i, size);
            }
        }
    }

    fn share(&self, rs: &ReplicaSet, to_add: i32, added: i32) -> i32 {
        let size = replicas(rs);
        if size == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let fraction = if self.bounds.replicas == 0 {
            -size
        } else {
            let before = annotation(rs, revision::MAX_REPLICAS)
                .and_then(|v| v.parse::<i32>().ok())
                .filter(|n| *n > 0)
                .or(self.deployment.status.as_ref().and_then(|s| s.replicas))
                .unwrap_or(0);
            if before <= 0 {
                return 0;
            }
            let scaled = f64::from(size) * f64::from(self.bounds.ceiling()) / f64::from(before);
            scaled.round() as i32 - size
        };
        let rest = to_add - added;
        if to_add > 0 { fraction.min(rest) } else { fraction.max(rest) }
    }

    /// Deletes old, empty ReplicaSets beyond `revisionHistoryLimit`, lowest revision first.
    fn clean_up_history(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let mut old: Vec<usize> =
            self.old().into_iter().filter(|i| self.all[*i].metadata.deletion_timestamp.is_none()).collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|i| revision::revision_of(&self.all[*i]));
        for i in old.into_iter().take(excess) {
            let rs = &self.all[i];
            let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            let settled = observed >= rs.metadata.generation.unwrap_or(0);
            if existing(rs) == 0 && replicas(rs) == 0 && settled {
                self.delete.push(rs.clone());
            }
        }
    }

    fn finish(self, why: Why, now: Timestamp) -> Plan {
        let create = self.created.map(|i| self.all[i].clone());
        let revision = self
            .current
            .and_then(|i| annotation(&self.all[i], revision::REVISION))
            .filter(|r| {
                let own =
                    self.deployment.metadata.annotations.as_ref().and_then(|a| a.get(revision::REVISION));
                !matches!(why, Why::Terminating | Why::SelectsEverything)
                    && own.map(String::as_str) != Some(*r)
            })
            .map(str::to_owned);
        let status = if why == Why::SelectsEverything {
            let mut s = self.deployment.status.clone().unwrap_or_default();
            s.observed_generation = self.deployment.metadata.generation;
            s
        } else {
            status::compute_status(&status::Inputs {
                deployment: self.deployment,
                bounds: self.bounds,
                all: &self.all,
                current: self.current,
                created: self.created.is_some(),
                rolling_out: !matches!(why, Why::Terminating | Why::Paused | Why::Scaling),
                now,
            })
        };
        let look_again = status::deadline_in(self.deployment, self.bounds, &status, now);
        let update = self
            .seen
            .iter()
            .zip(&self.all)
            .filter(|(a, b)| a.spec != b.spec || a.metadata.annotations != b.metadata.annotations)
            .map(|(a, b)| Resize { wanted: b.clone(), from: replicas(a), to: replicas(b) })
            .collect();
        Plan { create, update, delete: self.delete, revision, status, look_again, why }
    }
}
