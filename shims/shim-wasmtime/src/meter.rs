//! CPU: how much a container used, making it wait when that is more than its quota, and moving what computes for long
//! out of the way of what just began.
//!
//! Invariant: over several periods a container gets no more than `quota` of CPU time in each `period`. A guest is
//! interrupted every [`crate::limits::EPOCH_TICK`], so it can overdraw a period by one tick for each thread it runs
//! on; what it overdrew is taken from the next periods. A call that may use so much CPU time and no more is ended at
//! the first interruption after that.
use crate::gate::Share;
use crate::lanes::{Lane, Lanes, Usage};
use crate::limits::{FOREGROUND_BURST, MIN_TURN};
use parking_lot::Mutex;
use shim::Resources;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// The weight of a container that says none: one core's.
const DEFAULT_WEIGHT: u64 = 1024;

thread_local! {
    /// Whether the guest that this thread polls was interrupted, rather than waiting for something.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
    /// This thread's CPU time when it began to poll the guest.
    static TURN_BEGAN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Called at every tick in which a guest runs: whether its turn ends, although it wants to go on. On a busy node most
/// ticks pass while the kernel runs others; a guest that had next to nothing of this one keeps its turn, since passing
/// it on costs tens of microseconds that are on nobody's account.
pub(crate) fn ends_turn() -> bool {
    let ends = thread_cpu_time().saturating_sub(TURN_BEGAN.get()) >= MIN_TURN;
    INTERRUPTED.set(ends);
    ends
}

/// Why a call was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CPU time limit exceeded: a request may use {limit:?}")]
pub(crate) struct CpuExceeded {
    pub(crate) limit: Duration,
}

type Guest<T> = Pin<Box<dyn Future<Output = wasmtime::Result<T>> + Send>>;

pub(crate) struct Meter {
    total_nanoseconds: AtomicU64,
    quota: Option<Mutex<Budget>>,
    share: Arc<Share>,
    usage: Mutex<Usage>,
    /// Took more than its share of the last window.
    heavy: AtomicBool,
    lanes: Arc<Lanes>,
    /// The container's: calls in the background are among them.
    tasks: TaskTracker,
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

/// One guest's call, wherever it runs.
struct Call<T> {
    guest: Guest<T>,
    spent: Duration,
    /// Since it last waited for something.
    at_a_stretch: Duration,
    limit: Option<Duration>,
}

/// Where a call stands after some time in a lane.
enum Step<T> {
    Done(wasmtime::Result<T>),
    /// It goes on in another lane.
    Move(Call<T>),
}

impl Meter {
    pub(crate) fn new(resources: &Resources, lanes: Arc<Lanes>, tasks: TaskTracker) -> Self {
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
        Self {
            total_nanoseconds: AtomicU64::new(0),
            quota,
            share: Arc::new(Share::new(resources.cpu_shares.unwrap_or(DEFAULT_WEIGHT))),
            usage: Mutex::default(),
            heavy: AtomicBool::new(false),
            lanes,
            tasks,
        }
    }

    pub(crate) fn total_nanoseconds(&self) -> u64 {
        self.total_nanoseconds.load(Relaxed)
    }

    fn add(&self, busy: Duration) {
        self.total_nanoseconds.fetch_add(busy.as_nanos() as u64, Relaxed);
        if let Some(budget) = &self.quota {
            budget.lock().used += busy;
        }
        let heavy = self.usage.lock().add(&self.lanes, self.share.weight(), busy, Instant::now());
        self.heavy.store(heavy, Relaxed);
    }

    /// Until when the quota makes this container wait.
    fn paused_until(&self) -> Option<Instant> {
        self.quota.as_ref().and_then(|budget| budget.lock().wait_until(Instant::now()))
    }

    /// Lets a guest run until it is interrupted, waits or ends; says whether it was interrupted.
    fn poll<T>(&self, call: &mut Call<T>, cx: &mut Context<'_>) -> (Poll<wasmtime::Result<T>>, bool) {
        INTERRUPTED.set(false);
        let before = thread_cpu_time();
        TURN_BEGAN.set(before);
        let mut polled = call.guest.as_mut().poll(cx);
        let busy = thread_cpu_time().saturating_sub(before);
        let interrupted = INTERRUPTED.get();
        self.add(busy);
        call.spent += busy;
        call.at_a_stretch = if interrupted { call.at_a_stretch + busy } else { Duration::ZERO };
        if let Some(limit) = call.limit
            && polled.is_pending()
            && call.spent > limit
        {
            polled = Poll::Ready(Err(CpuExceeded { limit }.into()));
        }
        (polled, interrupted)
    }

    /// Runs a guest's call on this container's account, in whichever lane it belongs. Dropping the future ends the guest where it stands, at the
    /// latest after its present turn.
    ///
    /// # Errors
    /// [`CpuExceeded`] when it used more than `limit` of CPU time.
    pub(crate) async fn run_call<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Option<Duration>,
        guest: impl Future<Output = wasmtime::Result<T>> + Send + 'static,
    ) -> wasmtime::Result<T> {
        let (spent, at_a_stretch) = (Duration::ZERO, Duration::ZERO);
        let mut call = Call { guest: Box::pin(guest), spent, at_a_stretch, limit };
        loop {
            if call.at_a_stretch < FOREGROUND_BURST && !self.heavy.load(Relaxed) {
                call = match self.run_in_foreground(call).await {
                    Step::Done(result) => return result,
                    Step::Move(call) => call,
                };
            }
            let me = self.clone();
            let lane = self.lane(Duration::ZERO);
            // Not as the task's own result: that is dropped after the task counts as ended, and with it the memory of a
            // guest whose end was waited for.
            let (step, next) = oneshot::channel();
            let computing = async move { drop(step.send(me.run_computing(call, lane).await)) };
            let mut task = AbortOnDrop(self.tasks.spawn_on(computing, self.lanes.threads(lane)));
            call = match next.await {
                Ok(Step::Done(result)) => return result,
                Ok(Step::Move(call)) => call,
                Err(_) => match (&mut task.0).await.map_err(JoinError::try_into_panic) {
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    _ => return Err(wasmtime::format_err!("this node is shutting down")),
                },
            };
        }
    }

    async fn run_in_foreground<T>(&self, call: Call<T>) -> Step<T> {
        let mut held = Some(call);
        let mut pause = None;
        poll_fn(move |cx| {
            while let Some(until) = self.paused_until() {
                let sleep = pause.insert(Box::pin(sleep_until(until)));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            // It is taken only by what ends this future.
            let Some(call) = held.as_mut() else { return Poll::Pending };
            let (polled, interrupted) = self.poll(call, cx);
            if let Poll::Ready(result) = polled {
                return Poll::Ready(Step::Done(result));
            }
            let computes = interrupted && call.at_a_stretch >= FOREGROUND_BURST;
            match computes || self.heavy.load(Relaxed) {
                true => held.take().map_or(Poll::Pending, |call| Poll::Ready(Step::Move(call))),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Where this container's calls compute now, `busy` having been used since this was asked last.
    fn lane(&self, busy: Duration) -> Lane {
        if self.share.is_owed(busy, Instant::now()) { Lane::Requested } else { Lane::Background }
    }

    /// Runs on a thread of `lane`.
    async fn run_computing<T>(&self, mut call: Call<T>, lane: Lane) -> Step<T> {
        let gate = self.lanes.gate(lane);
        let mut held = None;
        loop {
            if let Some(until) = self.paused_until() {
                held = None;
                sleep_until(until).await;
                continue;
            }
            let turn = match held.take() {
                Some(turn) => gate.again(turn, &self.share).await,
                None => gate.enter(&self.share).await,
            };
            let spent = call.spent;
            let (polled, interrupted) = poll_fn(|cx| Poll::Ready(self.poll(&mut call, cx))).await;
            let busy = call.spent.saturating_sub(spent);
            self.share.charge(busy);
            let next = self.lane(busy);
            match polled {
                Poll::Ready(result) => return Step::Done(result),
                Poll::Pending if interrupted && next != lane => return Step::Move(call),
                Poll::Pending if interrupted => {
                    held = Some(turn);
                    // The thread has others to look after too.
                    tokio::task::yield_now().await;
                }
                Poll::Pending => {
                    drop(turn);
                    woken().await;
                    if !self.heavy.load(Relaxed) {
                        return Step::Move(call);
                    }
                }
            }
        }
    }
}

/// Waits until this task is woken: by what the guest that was just polled waits for.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| match std::mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
