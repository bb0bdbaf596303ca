//! What the instances of one container did: requests and how long they took, instances, traps, timeouts.
//!
//! Invariant: counting costs a request a few relaxed additions and never a lock, and what was counted stays counted
//! when the instance is gone.
use crate::ending::Ending;
use http::{Response, StatusCode};
use shim::{DURATION_BOUNDS, Durations, SandboxStats};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Figures {
    requests: [AtomicU64; 5],
    durations: [AtomicU64; DURATION_BOUNDS.len() + 1],
    duration_nanoseconds: AtomicU64,
    instances: AtomicU64,
    instances_started: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    egress_denials: AtomicU64,
    ingress_denials: AtomicU64,
}

/// One instance, as long as it lives. Each store holds one.
pub(crate) struct Instance(Arc<Figures>);

impl Drop for Instance {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Relaxed);
    }
}

impl Figures {
    /// Counts an instance in, and out again when what is given back goes.
    pub(crate) fn instance(self: &Arc<Self>) -> Instance {
        self.instances.fetch_add(1, Relaxed);
        self.instances_started.fetch_add(1, Relaxed);
        Instance(self.clone())
    }

    /// Passes an answer on, counted. A client that goes away before its answer is not counted.
    pub(crate) async fn timed<B>(&self, answer: impl Future<Output = Response<B>>) -> Response<B> {
        let began = Instant::now();
        let response = answer.await;
        self.answered(response.status(), began.elapsed());
        response
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        // 100 to 999 by their type; what no standard names counts as the server's fault.
        let class = usize::from(status.as_u16() / 100 - 1).min(self.requests.len() - 1);
        self.requests[class].fetch_add(1, Relaxed);
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < took);
        self.durations[bucket].fetch_add(1, Relaxed);
        self.duration_nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts how a guest ended, where that was its fault.
    pub(crate) fn ended(&self, ending: &Ending) {
        match ending {
            Ending::Trapped(_) | Ending::OutOfMemory(_) => self.traps.fetch_add(1, Relaxed),
            Ending::OutOfTime(_) => self.timeouts.fetch_add(1, Relaxed),
            Ending::Exited(_) | Ending::Signalled(_) | Ending::NoRoom(_) => return,
        };
    }

    pub(crate) fn timed_out(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }

    pub(crate) fn ingress_denied(&self) {
        self.ingress_denials.fetch_add(1, Relaxed);
    }

    pub(crate) fn egress_denied(&self) {
        self.egress_denials.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> SandboxStats {
        let all = |counters: &[AtomicU64]| counters.iter().map(|c| c.load(Relaxed)).collect::<Vec<_>>();
        let mut stats = SandboxStats {
            instances: self.instances.load(Relaxed),
            instances_started: self.instances_started.load(Relaxed),
            traps: self.traps.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            egress_denials: self.egress_denials.load(Relaxed),
            ingress_denials: self.ingress_denials.load(Relaxed),
            durations: Durations {
                sum_nanoseconds: self.duration_nanoseconds.load(Relaxed),
                ..Durations::default()
            },
            ..SandboxStats::default()
        };
        stats.requests.copy_from_slice(&all(&self.requests));
        stats.durations.counts.copy_from_slice(&all(&self.durations));
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_counted_by_its_status_and_the_time_it_took() {
        let figures = Figures::default();
        let answer = |status: u16, milliseconds: u64| async move {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Response::builder().status(status).body(()).unwrap()
        };
        figures.timed(answer(200, 0)).await;
        figures.timed(answer(204, 5)).await;
        figures.timed(answer(503, 20_000)).await;
        figures.timed(answer(999, 0)).await;
        let stats = figures.stats();
        assert_eq!(stats.requests, [0, 2, 0, 0, 2]);
        assert_eq!(stats.all_requests(), 4);
        assert_eq!(stats.durations.counts.iter().sum::<u64>(), 4);
        assert_eq!(stats.durations.counts[0], 2, "at once");
        assert_eq!(stats.durations.counts[DURATION_BOUNDS.len()], 1, "beyond every bound");
        assert_eq!(stats.durations.sum_nanoseconds, 20_005_000_000);
    }

    #[test]
    fn instances_are_counted_in_and_out_and_traps_once() {
        let figures = Arc::new(Figures::default());
        let (one, two) = (figures.instance(), figures.instance());
        drop(one);
        assert_eq!((figures.stats().instances, figures.stats().instances_started), (1, 2));
        drop(two);
        figures.ended(&Ending::Trapped("x".into()));
        figures.ended(&Ending::Exited(1));
        figures.timed_out();
        figures.egress_denied();
        let stats = figures.stats();
        assert_eq!((stats.instances, stats.traps, stats.timeouts, stats.egress_denials), (0, 1, 1, 1));
    }
}
