//! Whose turn it is in the background: as many turns as there are cores, given to containers in proportion to their
//! weights.
//!
//! Invariant: of the containers that want a turn, the one that had the least for its weight gets the next. A container
//! that wanted none for a while has saved up next to nothing.
use crate::limits::{EPOCH_TICK, SHARE_WINDOW};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a container of weight 1,024 (one core requested) counts a nanosecond as.
const UNIT_WEIGHT: u64 = 1024;

/// How far behind the others a container may be when it comes: half a second of one core. Less would take from one
/// that was only between two turns what it is owed; more would let one that slept keep the others waiting.
const MOST_SAVED: u64 = 500_000_000;

/// One container's account of turns.
pub(crate) struct Share {
    weight: u64,
    /// Nanoseconds had, stretched by the weight.
    had: AtomicU64,
    owed: Mutex<Owed>,
}

/// What a container was promised (`requests.cpu`) and did not get yet.
#[derive(Debug)]
struct Owed {
    /// Time still owed; what it took beyond its request is not held against it.
    time: Duration,
    at: Instant,
    /// Being given it at this time.
    served: bool,
}

impl Owed {
    /// Whether a container of so many cores is owed time at `now`, having used `busy` since the last call.
    fn is_owed(&mut self, weight: u64, busy: Duration, now: Instant) -> bool {
        let cores = weight as f64 / UNIT_WEIGHT as f64;
        let earned = now.saturating_duration_since(self.at).min(SHARE_WINDOW).mul_f64(cores);
        let most = SHARE_WINDOW.mul_f64(cores);
        self.time = (self.time + earned).saturating_sub(busy).min(most);
        self.at = now;
        // A turn takes one tick: changing lanes for less would cost more than it gives. Who requests so little that
        // it never saves up a tick gets what the background leaves.
        self.served = if self.served { !self.time.is_zero() } else { self.time >= EPOCH_TICK };
        self.served
    }
}

impl Share {
    /// `weight` in cgroup shares: 1,024 for each core requested.
    pub(crate) fn new(weight: u64) -> Self {
        let owed = Owed { time: Duration::ZERO, at: Instant::now(), served: false };
        // The kernel's own bound (`cpu.shares`, cgroup v1).
        Self { weight: weight.clamp(1, 262_144), had: AtomicU64::new(0), owed: Mutex::new(owed) }
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    pub(crate) fn charge(&self, busy: Duration) {
        let nanoseconds = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        self.had.fetch_add(nanoseconds.saturating_mul(UNIT_WEIGHT) / self.weight, Relaxed);
    }

    /// Whether the container has yet to get what it requested, having used `busy` since this was asked last.
    pub(crate) fn is_owed(&self, busy: Duration, now: Instant) -> bool {
        self.owed.lock().is_owed(self.weight, busy, now)
    }
}

#[derive(Default)]
struct State {
    free: usize,
    waiting: BTreeMap<(u64, u64), (Arc<Share>, oneshot::Sender<Turn>)>,
    /// Tells equal ones apart, the earlier first.
    number: u64,
    /// What whoever had the last turn had had before it.
    floor: u64,
}

pub(crate) struct Gate(Mutex<State>);

/// The right to run; given back when dropped.
pub(crate) struct Turn(Option<Arc<Gate>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.pass_on();
        }
    }
}

impl Gate {
    pub(crate) fn new(turns: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: turns.max(1), ..State::default() })))
    }

    /// Waits for a turn. Giving up the wait costs nobody anything.
    pub(crate) async fn enter(self: &Arc<Self>, share: &Arc<Share>) -> Turn {
        let waiting = {
            let mut state = self.0.lock();
            let floor = state.floor.saturating_sub(MOST_SAVED);
            let had = share.had.fetch_max(floor, Relaxed).max(floor);
            if state.free > 0 {
                state.free -= 1;
                state.floor = state.floor.max(had);
                return Turn(Some(self.clone()));
            }
            state.wait(had, share)
        };
        // The gate outlives who waits at it, and drops no one unanswered.
        waiting.await.unwrap_or(Turn(None))
    }

    /// Gives a turn back and waits for the next, as one of those who wait: it may be the same.
    pub(crate) async fn again(self: &Arc<Self>, turn: Turn, share: &Arc<Share>) -> Turn {
        let waiting = {
            let mut state = self.0.lock();
            if state.waiting.is_empty() {
                return turn;
            }
            state.wait(share.had.load(Relaxed), share)
        };
        drop(turn);
        waiting.await.unwrap_or(Turn(None))
    }

    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.0.lock();
                match state.next() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // Gone meanwhile: the turn is still ours to pass on.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl State {
    fn wait(&mut self, had: u64, share: &Arc<Share>) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        self.number += 1;
        self.waiting.insert((had, self.number), (share.clone(), sender));
        receiver
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let ((had, number), (share, sender)) = self.waiting.pop_first()?;
            // Others of the same container may have run since this one came.
            let now = share.had.load(Relaxed);
            if now > had && !sender.is_closed() {
                self.waiting.insert((now, number), (share, sender));
                continue;
            }
            self.floor = self.floor.max(had);
            return Some(sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets calls of containers take turns of 10 ms and counts them.
    async fn turns(gate: &Arc<Gate>, shares: &[(&Arc<Share>, usize)], rounds: usize) -> Vec<usize> {
        let counts: Vec<_> = shares.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for ((share, calls), count) in shares.iter().zip(&counts) {
            for _ in 0..*calls {
                let (gate, share, count) = (gate.clone(), (*share).clone(), count.clone());
                tasks.spawn(async move {
                    let mut turn = gate.enter(&share).await;
                    loop {
                        tokio::task::yield_now().await;
                        count.fetch_add(1, Relaxed);
                        share.charge(Duration::from_millis(10));
                        turn = gate.again(turn, &share).await;
                    }
                });
            }
        }
        let total = || counts.iter().map(|count| count.load(Relaxed) as usize).sum::<usize>();
        while total() < rounds {
            tokio::task::yield_now().await;
        }
        tasks.shutdown().await;
        counts.iter().map(|count| count.load(Relaxed) as usize).collect()
    }

    #[test]
    fn a_container_is_owed_what_it_requested_and_no_more() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let tick = Duration::from_millis(10);
        // Half a core, always wanting: of a hundred turns of ten milliseconds fifty are owed.
        let mut owed = Owed { time: Duration::ZERO, at: began, served: false };
        let mut used = Duration::ZERO;
        let mut given = 0;
        for turn in 1..=100 {
            let yes = owed.is_owed(512, used, at(turn * 10));
            used = if yes { tick } else { Duration::ZERO };
            given += u32::from(yes);
        }
        assert!((48..=52).contains(&given), "{given}");
        // What it got beyond its request is not held against it, and what it did not want is not saved for ever.
        owed.is_owed(512, Duration::from_secs(9), at(2_000));
        assert!(owed.is_owed(512, Duration::ZERO, at(60_000)));
        assert_eq!(owed.time, Duration::from_millis(50));
        // One that requests next to nothing is owed next to nothing.
        let mut least = Owed { time: Duration::ZERO, at: began, served: false };
        assert!(!(1..1000).any(|turn| least.is_owed(2, Duration::ZERO, at(turn * 10))));
    }

    #[tokio::test]
    async fn containers_get_turns_by_weight_however_many_calls_they_have() {
        let gate = Gate::new(2);
        let (small, large) = (Arc::new(Share::new(512)), Arc::new(Share::new(1536)));
        let counts = turns(&gate, &[(&small, 20), (&large, 2)], 4000).await;
        let portion = counts[1] as f64 / 4000.0;
        assert!((0.70..0.80).contains(&portion), "{counts:?}");
        assert_eq!(gate.0.lock().free, 2, "every turn came back");
        // Whoever comes later does not make up for the time before.
        let late = Arc::new(Share::new(512));
        let counts = turns(&gate, &[(&small, 4), (&late, 4)], 1000).await;
        assert!((400..600).contains(&counts[1]), "{counts:?}");
    }
}
