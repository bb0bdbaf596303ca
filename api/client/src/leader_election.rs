//! Leader election on a Lease, as client-go does it: one of several equal processes works, the others wait.
//!
//! Invariant: two leaders at once need a clock that runs more than a third faster than another's. Whoever
//! leads stops when it could not renew for [`LeaseTiming::renew_deadline`]; whoever waits takes over when the
//! record did not change for [`LeaseTiming::lease_duration`] *of its own clock*, so times in the record are
//! for people only.
use crate::events::{EventType, Recorder};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use machinery::ambient::Ambient;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// `--leader-elect-lease-duration` and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// A candidate for a Lease.
pub struct LeaderElector {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    timing: LeaseTiming,
    ambient: Ambient,
    recorder: Option<Recorder>,
    /// The record as last seen, and when it was first seen so.
    observed: Option<(Lease, Instant)>,
}

impl LeaderElector {
    /// A candidate called `identity` (host name and something unique) for the Lease `namespace`/`name`
    /// (`kube-system`/`kube-scheduler`).
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, ambient: Ambient) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing: LeaseTiming::default(),
            ambient,
            recorder: None,
            observed: None,
        }
    }

    pub fn with_timing(mut self, timing: LeaseTiming) -> Self {
        self.timing = timing;
        self
    }

    /// Tells of a new leader in an event on the Lease.
    pub fn with_recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Waits until the Lease is ours, then runs `work` until it ends, `shutdown` comes or the Lease is lost;
    /// the token given to `work` is cancelled in the last two cases, and `work` is waited for. Gives the Lease
    /// back unless it was lost. Returns whether the end was wanted (true) or leadership was lost (false).
    pub async fn lead<F, Fut>(mut self, shutdown: CancellationToken, work: F) -> bool
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        if shutdown.run_until_cancelled(self.acquire()).await.is_none() {
            return true;
        }
        tracing::info!(lease = self.name, identity = self.identity, "became the leader");
        if let (Some(recorder), Some((lease, _))) = (&self.recorder, &self.observed) {
            recorder.event(
                lease,
                EventType::Normal,
                "LeaderElection",
                format!("{} became leader", self.identity),
            );
        }
        let leading = shutdown.child_token();
        let mut work = std::pin::pin!(work(leading.clone()));
        enum Ended {
            Work,
            Shutdown,
            Lost,
        }
        let ended = tokio::select! {
            () = &mut work => Ended::Work,
            () = shutdown.cancelled() => Ended::Shutdown,
            () = self.renew() => Ended::Lost,
        };
        leading.cancel();
        let lost = matches!(ended, Ended::Lost);
        if lost {
            tracing::error!(lease = self.name, "lost the leadership");
        }
        if !matches!(ended, Ended::Work) {
            work.await;
        }
        if !lost {
            self.release().await;
        }
        !lost
    }

    async fn acquire(&mut self) {
        loop {
            // The connection may be dead; the deadline for renewing is as good for the first attempt.
            match timeout(self.timing.renew_deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::debug!(lease = self.name, %error, "cannot acquire the lease"),
                Err(_) => tracing::debug!(lease = self.name, "no answer about the lease"),
            }
            sleep(self.timing.retry_period).await;
        }
    }

    /// Returns when the Lease could not be renewed in time.
    async fn renew(&mut self) {
        let mut deadline = Instant::now() + self.timing.renew_deadline;
        loop {
            sleep(self.timing.retry_period).await;
            match timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => deadline = Instant::now() + self.timing.renew_deadline,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, %error, "cannot renew the lease");
                    if Instant::now() >= deadline {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// One attempt; true if the Lease is ours now.
    async fn try_acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        if let Some(lease) = &found {
            let same = self.observed.as_ref().is_some_and(|(seen, _)| seen.spec == lease.spec);
            if !same {
                self.observed = Some((lease.clone(), now));
            }
        }
        let unchanged_for = match (&found, &self.observed) {
            (Some(_), Some((_, since))) => now - *since,
            _ => Duration::ZERO,
        };
        let time = MicroTime(self.ambient.now());
        let Some(spec) = plan_record(
            found.as_ref().and_then(|l| l.spec.as_ref()),
            &self.identity,
            unchanged_for,
            self.timing,
            time,
        ) else {
            return Ok(false);
        };
        let written = match found {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                };
                self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
            }
        };
        // A conflict says that somebody was quicker; the next attempt sees who.
        self.observed = Some((written?, Instant::now()));
        Ok(true)
    }

    /// Gives the Lease back, so that the next leader need not wait for it to run out.
    async fn release(&mut self) {
        let Some((mut lease, _)) = self.observed.take() else { return };
        let time = MicroTime(self.ambient.now());
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(time.clone());
            spec.acquire_time = Some(time);
        }
        let params = PostParams::default();
        let replaced = self.api.replace(&self.name, &params, &lease);
        match timeout(self.timing.retry_period, replaced).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(lease = self.name, %error, "cannot release the lease"),
            Err(_) => tracing::debug!(lease = self.name, "cannot release the lease in time"),
        }
    }
}

/// The record to write, or None if another holds the Lease.
fn plan_record(
    current: Option<&LeaseSpec>,
    identity: &str,
    unchanged_for: Duration,
    timing: LeaseTiming,
    now: MicroTime,
) -> Option<LeaseSpec> {
    let holder = current.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
    let ours = holder == identity;
    if !holder.is_empty() && !ours && unchanged_for < timing.lease_duration {
        return None;
    }
    let transitions = current.and_then(|s| s.lease_transitions).unwrap_or(0);
    let kept = current.filter(|_| ours).and_then(|s| s.acquire_time.clone());
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(timing.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(kept.unwrap_or_else(|| now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if ours || current.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> MicroTime {
        MicroTime(jiff::Timestamp::from_second(second).unwrap())
    }

    fn plan(current: Option<&LeaseSpec>, who: &str, unchanged: u64, now: i64) -> Option<LeaseSpec> {
        plan_record(current, who, Duration::from_secs(unchanged), LeaseTiming::default(), at(now))
    }

    #[test]
    fn the_holder_renews_and_others_wait_until_the_record_stands_still() {
        let first = plan(None, "a", 0, 1).unwrap();
        assert_eq!((first.holder_identity.as_deref(), first.lease_transitions), (Some("a"), Some(0)));
        let renewed = plan(Some(&first), "a", 2, 3).unwrap();
        assert_eq!((renewed.acquire_time.clone(), renewed.renew_time.clone()), (Some(at(1)), Some(at(3))));
        assert_eq!(plan(Some(&renewed), "b", 14, 17), None);
        let taken = plan(Some(&renewed), "b", 15, 18).unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
        assert_eq!(taken.acquire_time, Some(at(18)));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let released = LeaseSpec { holder_identity: Some(String::new()), ..Default::default() };
        assert!(plan(Some(&released), "b", 0, 1).is_some());
    }
}

#[cfg(test)]
mod election_tests {
    use super::*;
    use crate::fake_api::{FakeApi, ambient};
    use parking_lot::Mutex;
    use std::sync::Arc;

    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

    fn holder(api: &FakeApi) -> String {
        api.objects()[0]["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_candidate_takes_over_soon_after_the_first_gives_the_lease_back() {
        let api = FakeApi::default();
        let (stop_a, stop_b) = (CancellationToken::new(), CancellationToken::new());
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut candidates = tokio::task::JoinSet::new();
        for (who, stop) in [("a", &stop_a), ("b", &stop_b)] {
            let elector = LeaderElector::new(api.client(), "kube-system", "kube-scheduler", who, ambient());
            let (stop, log) = (stop.clone(), log.clone());
            candidates.spawn(async move {
                elector
                    .lead(stop, |leading| async move {
                        log.lock().push(who);
                        leading.cancelled().await;
                    })
                    .await
            });
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*log.lock(), [holder(&api)]);
        if holder(&api) == "a" {
            stop_a.cancel()
        } else {
            stop_b.cancel()
        }
        assert!(candidates.join_next().await.unwrap().unwrap());
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(log.lock().len(), 2);
        assert_eq!(holder(&api), log.lock()[1]);
        stop_a.cancel();
        stop_b.cancel();
        assert!(candidates.join_next().await.unwrap().unwrap());
        assert_eq!(holder(&api), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_within_the_deadline() {
        let api = FakeApi::default();
        let elector = LeaderElector::new(api.client(), "kube-system", "kube-scheduler", "a", ambient());
        let ended = elector.lead(CancellationToken::new(), |leading| {
            api.fail(&[500; 100]);
            async move { leading.cancelled().await }
        });
        assert!(!timeout(Duration::from_secs(13), ended).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_lease_was_taken_stops() {
        let api = FakeApi::default();
        let elector = LeaderElector::new(api.client(), "kube-system", "kube-scheduler", "a", ambient());
        let thief = api.clone();
        let ended = elector.lead(CancellationToken::new(), |leading| async move {
            let mut lease = thief.objects()[0].clone();
            lease["spec"]["holderIdentity"] = "b".into();
            thief.put(LEASES, "kube-scheduler", lease);
            leading.cancelled().await;
        });
        assert!(!timeout(Duration::from_secs(5), ended).await.unwrap());
        assert_eq!(holder(&api), "b");
    }
}
