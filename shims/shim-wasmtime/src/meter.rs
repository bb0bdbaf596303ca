//! CPU: how much a container used, and making it wait when that is more than its quota.
//!
//! Invariant: over several periods a container gets no more than `quota` of CPU time in each `period`. A guest is
//! interrupted every [`crate::limits::EPOCH_TICK`], so it can overdraw a period by one tick for each thread it runs
//! on; what it overdrew is taken from the next periods.
use parking_lot::Mutex;
use shim::Resources;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub(crate) struct Meter {
    total_nanoseconds: AtomicU64,
    quota: Option<Mutex<Budget>>,
}

/// What is left of the present period.
#[derive(Clone, Copy, Debug)]
struct Budget {
    quota: Duration,
    period: Duration,
    began: Instant,
    used: Duration,
}

impl Budget {
    /// When this container may go on: `None` is now.
    fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        let periods = now.saturating_duration_since(self.began).as_nanos() / self.period.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 0 {
            self.used = self.used.saturating_sub(self.quota.saturating_mul(periods));
            self.began += self.period.saturating_mul(periods);
        }
        (self.used >= self.quota).then(|| self.began + self.period)
    }
}

impl Meter {
    pub(crate) fn new(resources: &Resources) -> Self {
        let quota = match (resources.cpu_quota_us, resources.cpu_period_us.unwrap_or(100_000)) {
            (Some(quota), period) if quota > 0 && period > 0 => Some(Mutex::new(Budget {
                quota: Duration::from_micros(quota.unsigned_abs()),
                // The kernel's own bounds; unbounded, the end of a period could lie beyond what an Instant holds.
                period: Duration::from_micros(period.clamp(1_000, 1_000_000)),
                began: Instant::now(),
                used: Duration::ZERO,
            })),
            _ => None,
        };
        Self { total_nanoseconds: AtomicU64::new(0), quota }
    }

    pub(crate) fn total_nanoseconds(&self) -> u64 {
        self.total_nanoseconds.load(Relaxed)
    }

    fn add(&self, busy: Duration) {
        self.total_nanoseconds.fetch_add(busy.as_nanos() as u64, Relaxed);
        if let Some(budget) = &self.quota {
            budget.lock().used += busy;
        }
    }

    /// Runs a guest's future on this container's account.
    pub(crate) async fn run<F: Future>(&self, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        let mut pause = None;
        poll_fn(move |cx| {
            if let Some(budget) = &self.quota {
                loop {
                    let Some(until) = budget.lock().wait_until(Instant::now()) else { break };
                    let sleep = pause.insert(Box::pin(sleep_until(until)));
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
            let before = thread_cpu_time();
            let polled = guest.as_mut().poll(cx);
            self.add(thread_cpu_time().saturating_sub(before));
            polled
        })
        .await
    }
}

/// CPU time of this thread: unlike the wall clock it does not count the time others ran instead.
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result, and the clock exists since Linux 2.6.12.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } != 0;
    if failed { Duration::ZERO } else { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget {
            quota: Duration::from_millis(20),
            period: Duration::from_millis(100),
            began: Instant::now(),
            used: Duration::ZERO,
        }
    }

    #[test]
    fn a_container_within_its_quota_never_waits() {
        let mut budget = budget();
        budget.used = Duration::from_millis(19);
        assert_eq!(budget.wait_until(budget.began), None);
    }

    #[test]
    fn what_was_overdrawn_is_taken_from_the_next_periods() {
        let mut budget = budget();
        let began = budget.began;
        budget.used = Duration::from_millis(50);
        assert_eq!(budget.wait_until(began), Some(began + Duration::from_millis(100)));
        assert_eq!(
            budget.wait_until(began + Duration::from_millis(100)),
            Some(began + Duration::from_millis(200))
        );
        assert_eq!(budget.wait_until(began + Duration::from_millis(200)), None);
    }
}
