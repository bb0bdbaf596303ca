//! The lanes of guests: the foreground, where a call begins, and two for calls that go on computing.
//!
//! Invariant: a call that computes without a pause leaves the foreground after [`FOREGROUND_BURST`], and a container
//! that takes more than its share of a busy node has no call in the foreground. The background's threads give way to all
//! others, so a call that just began waits for next to none of them; a container that has yet to get what it requested
//! (`requests.cpu`) computes on threads that compete as equals, with Linux processes too. In both, containers get time
//! in proportion to their weights.
//!
//! ```text
//!   call ─► foreground ──computed too long, or its container too much──┬─► gate by weight ─► requested (owed time)
//!               ▲                                                      └─► gate by weight ─► background (nice)
//!               └──────────────────────waited for something of its own─────────────────────────────┘
//! ```
use crate::gate::Gate;
use crate::limits::{BACKGROUND_NICENESS, BUSY_PERCENT, SHARE_WINDOW};
use parking_lot::Mutex;
use shim::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::time::Instant;

/// What all containers together did in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    weight: u64,
    used: Duration,
}

struct Windows {
    index: u64,
    now: Totals,
    before: Totals,
}

/// Where a call computes that has left the foreground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Its container is owed time.
    Requested,
    Background,
}

pub(crate) struct Lanes {
    requested: Option<Runtime>,
    background: Option<Runtime>,
    /// One for each: a turn that the kernel does not let run holds up none of those that it does.
    gates: [Arc<Gate>; 2],
    cores: u32,
    began: Instant,
    used_nanoseconds: AtomicU64,
    windows: Mutex<Windows>,
}

impl Lanes {
    pub(crate) fn start() -> Result<Arc<Self>, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = |name: &str, niceness| {
            tokio::runtime::Builder::new_multi_thread()
                .thread_name(name)
                .worker_threads(cores)
                .on_thread_start(move || give_way(niceness))
                .enable_all()
                .build()
                .map_err(|source| Error::Io { what: "starting the threads that run guests".into(), source })
        };
        Ok(Arc::new(Self {
            requested: Some(threads("wasm-requested", 0)?),
            background: Some(threads("wasm-background", BACKGROUND_NICENESS)?),
            gates: [Gate::new(cores), Gate::new(cores)],
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            began: Instant::now(),
            used_nanoseconds: AtomicU64::new(0),
            windows: Mutex::new(Windows { index: 0, now: Totals::default(), before: Totals::default() }),
        }))
    }

    pub(crate) fn threads(&self, lane: Lane) -> &Handle {
        let runtime = match lane {
            Lane::Requested => &self.requested,
            Lane::Background => &self.background,
        };
        // They are taken only when this value is dropped.
        runtime.as_ref().map_or_else(|| unreachable!("used after the end"), Runtime::handle)
    }

    pub(crate) fn gate(&self, lane: Lane) -> &Arc<Gate> {
        let [requested, background] = &self.gates;
        match lane {
            Lane::Requested => requested,
            Lane::Background => background,
        }
    }

    /// The window that `now` lies in.
    fn index(&self, now: Instant) -> u64 {
        let windows = now.saturating_duration_since(self.began).as_nanos() / SHARE_WINDOW.as_nanos();
        u64::try_from(windows).unwrap_or(u64::MAX)
    }

    fn add(&self, busy: Duration) {
        self.used_nanoseconds.fetch_add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Says what all did in the window before `index`, and counts `weight` into this one.
    fn enter(&self, index: u64, weight: u64) -> Totals {
        let mut windows = self.windows.lock();
        if windows.index < index {
            let used = Duration::from_nanos(self.used_nanoseconds.swap(0, Relaxed));
            let ended = Totals { used, ..windows.now };
            windows.before = if windows.index + 1 == index { ended } else { Totals::default() };
            windows.now = Totals::default();
            windows.index = index;
        }
        windows.now.weight += weight;
        windows.before
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // The last holder may itself be a guest's task, which must not wait for its own thread.
        [self.requested.take(), self.background.take()]
            .into_iter()
            .flatten()
            .for_each(Runtime::shutdown_background);
    }
}

/// The kernel lets this thread wait behind those that just woke (`SCHED_BATCH`) and gives it less time by `niceness`.
/// Going down needs no privilege (`sched(7)`); if it fails, containers are only less well kept apart.
fn give_way(niceness: i32) {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter lives during the call; 0 is the calling thread, for Linux in both calls.
    let batch = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &none) } == 0;
    // SAFETY: no pointer is passed.
    if !batch || unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "guests that compute get no lower priority");
    }
}

/// One container's part of the present window.
#[derive(Default)]
pub(crate) struct Usage {
    index: u64,
    used: Duration,
    heavy: bool,
}

impl Usage {
    /// Counts time and says whether the container took too much of the window before this one.
    pub(crate) fn add(&mut self, lanes: &Lanes, weight: u64, busy: Duration, now: Instant) -> bool {
        let index = lanes.index(now);
        if self.index != index {
            let before = lanes.enter(index, weight);
            let used = if self.index + 1 == index { self.used } else { Duration::ZERO };
            self.heavy = is_heavy(used, weight, before, lanes.cores);
            (self.index, self.used) = (index, Duration::ZERO);
        }
        self.used += busy;
        lanes.add(busy);
        self.heavy
    }
}

/// Whether a container took more than its share while others wanted theirs and there was none to spare.
fn is_heavy(used: Duration, weight: u64, all: Totals, cores: u32) -> bool {
    let capacity = SHARE_WINDOW * cores;
    let alone = all.weight <= weight;
    let busy = all.used * 100 >= capacity * BUSY_PERCENT;
    !alone && busy && used.as_secs_f64() > capacity.as_secs_f64() * weight as f64 / all.weight as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_more_than_his_share_of_a_busy_node_is_heavy() {
        let ms = Duration::from_millis;
        let all = |weight, used| Totals { weight, used: ms(used) };
        // Two cores: 200 ms in a window.
        assert!(is_heavy(ms(150), 1024, all(2048, 190), 2));
        assert!(!is_heavy(ms(40), 1024, all(2048, 190), 2), "less than its share");
        assert!(!is_heavy(ms(150), 1024, all(2048, 155), 2), "there is time to spare");
        assert!(!is_heavy(ms(200), 1024, all(1024, 200), 2), "nobody else wants it");
        assert!(!is_heavy(ms(150), 3072, all(4096, 200), 2), "its share is the larger one");
        assert!(!is_heavy(ms(150), 1024, Totals::default(), 2));
    }

    #[test]
    fn windows_are_summed_up_when_they_end() {
        let lanes = Lanes::start().unwrap();
        let at = |windows: u32| lanes.began + SHARE_WINDOW * windows;
        let (mut a, mut b) = (Usage::default(), Usage::default());
        let most = SHARE_WINDOW * lanes.cores;
        a.add(&lanes, 1024, most * 9 / 10, at(1));
        b.add(&lanes, 1024, most / 10, at(1));
        assert!(a.add(&lanes, 1024, Duration::ZERO, at(2)));
        assert!(!b.add(&lanes, 1024, Duration::ZERO, at(2)));
        assert!(!a.add(&lanes, 1024, Duration::ZERO, at(4)), "a window without work forgets");
    }
}
