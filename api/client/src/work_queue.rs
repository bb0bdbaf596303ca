//! The queue of keys a controller works through.
use crate::backoff::doubled;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// client-go's delays for a key that fails again and again.
const BASE: Duration = Duration::from_millis(5);
const CAP: Duration = Duration::from_secs(1000);

/// Keys to work on.
///
/// A key is in the queue at most once; a key that is added while someone works on it comes again when that
/// work is done, so no key is ever worked on twice at once. Its size is bounded by the number of distinct
/// keys. Delays run on tokio's clock. Clones share the queue; any number of workers may call
/// [`WorkQueue::next`].
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    shutdown: CancellationToken,
    base: Duration,
    cap: Duration,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys that were added while being worked on.
    wanted: HashSet<K>,
    claimed: HashSet<K>,
    /// Keys to add later, by time; the number tells equal times apart.
    later: BTreeMap<(Instant, u64), K>,
    later_by_key: HashMap<K, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> State<K> {
    /// True when a worker has something new to look at.
    fn add(&mut self, key: K) -> bool {
        if !self.wanted.insert(key.clone()) || self.claimed.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(slot) = self.later_by_key.get(&key) {
            if slot.0 <= at {
                return;
            }
            self.later.remove(slot);
        }
        self.sequence += 1;
        self.later_by_key.insert(key.clone(), (at, self.sequence));
        self.later.insert((at, self.sequence), key);
    }

    /// Moves keys whose time has come to `ready`; true if there were any.
    fn promote(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.later_by_key.remove(&key);
            any |= self.add(key);
        }
        any
    }

    fn claim(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.wanted.remove(&key);
        self.claimed.insert(key.clone());
        Some(key)
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// A queue that ends with `shutdown`, with client-go's delays (5 ms doubling to 1000 s).
    pub fn new(shutdown: CancellationToken) -> Self {
        Self::with_backoff(shutdown, BASE, CAP)
    }

    /// A queue with delays of its own for keys that fail.
    pub fn with_backoff(shutdown: CancellationToken, base: Duration, cap: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            claimed: HashSet::new(),
            later: BTreeMap::new(),
            later_by_key: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
                shutdown,
                base,
                cap,
            }),
        }
    }

    /// Work on `key`, soon.
    pub fn add(&self, key: K) {
        if self.shared.state.lock().add(key) {
            self.shared.changed.notify_one();
        }
    }

    /// Work on `key` after `delay`. A key that is to come sooner already keeps its time.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.shared.state.lock().add_at(key, Instant::now() + delay);
        // Whoever sleeps may have to wake up earlier.
        self.shared.changed.notify_one();
    }

    /// Work on `key` again after a delay that doubles with each call, until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = doubled(self.shared.base, self.shared.cap, *failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    /// `key` is well: its next failure starts at the first delay again.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often `key` failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that wait to be claimed now.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for `time`; false when the shutdown came before.
    pub async fn rest(&self, time: Duration) -> bool {
        self.shared.shutdown.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
    }

    /// The next key, claimed until the guard is dropped; None after the shutdown. Nothing is lost when the
    /// future is dropped.
    pub async fn next(&self) -> Option<Claim<K>> {
        loop {
            if self.shared.shutdown.is_cancelled() {
                return None;
            }
            let wake_at = {
                let mut state = self.shared.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.claim() {
                    // Several keys may have come due at once, and only this worker woke up for them.
                    if !state.ready.is_empty() {
                        self.shared.changed.notify_one();
                    }
                    return Some(Claim { key, queue: self.clone() });
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            let due = async {
                match wake_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return None,
                () = self.shared.changed.notified() => {}
                () = due => {}
            }
        }
    }
}

/// A key someone works on; dropping it says that the work is done.
pub struct Claim<K: Clone + Eq + Hash> {
    key: K,
    queue: WorkQueue<K>,
}

impl<K: Clone + Eq + Hash> Deref for Claim<K> {
    type Target = K;
    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Clone + Eq + Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        let mut state = self.queue.shared.state.lock();
        state.claimed.remove(&self.key);
        if state.wanted.contains(&self.key) {
            state.ready.push_back(self.key.clone());
            drop(state);
            self.queue.shared.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let q = queue();
        q.add("a");
        q.add("b");
        q.add("a");
        assert_eq!((*q.next().await.unwrap(), *q.next().await.unwrap()), ("a", "b"));
        assert!(q.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_claimed_comes_again_only_when_the_claim_ends() {
        let q = queue();
        q.add("a");
        let claim = q.next().await.unwrap();
        q.add("a");
        q.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(5), q.next()).await.is_err());
        drop(claim);
        let again = q.next().await.unwrap();
        assert_eq!(*again, "a");
        drop(again);
        assert!(tokio::time::timeout(Duration::from_secs(5), q.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_comes_at_the_earliest_time_asked_for() {
        let q = queue();
        let start = Instant::now();
        q.add_after("a", Duration::from_secs(10));
        q.add_after("a", Duration::from_secs(3));
        q.add_after("a", Duration::from_secs(30));
        q.add_after("b", Duration::from_secs(7));
        assert_eq!(*q.next().await.unwrap(), "a");
        assert_eq!(start.elapsed().as_secs(), 3);
        assert_eq!(*q.next().await.unwrap(), "b");
        assert_eq!(start.elapsed().as_secs(), 7);
        assert!(tokio::time::timeout(Duration::from_secs(60), q.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_key_waits_twice_as_long_each_time_until_it_is_forgotten() {
        let q = queue();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            q.add_rate_limited("a");
            drop(q.next().await);
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        assert_eq!(q.failures(&"a"), 4);
        q.forget(&"a");
        assert_eq!(q.failures(&"a"), 0);
        for _ in 0..60 {
            q.add_rate_limited("a");
        }
        q.forget(&"a");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_due_together_reach_all_waiting_workers() {
        let q: WorkQueue<u32> = WorkQueue::new(CancellationToken::new());
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let q = q.clone();
            workers.spawn(async move {
                let claim = q.next().await.unwrap();
                // Hold the claim for longer than the test waits: each worker takes one.
                tokio::time::sleep(Duration::from_secs(1)).await;
                *claim
            });
        }
        tokio::task::yield_now().await;
        for k in 0..4 {
            q.add_after(k, Duration::from_secs(1));
        }
        let mut seen = tokio::time::timeout(Duration::from_millis(2500), workers.join_all()).await.unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shutdown_ends_every_waiting_worker() {
        let stop = CancellationToken::new();
        let q: WorkQueue<u32> = WorkQueue::new(stop.clone());
        let waiting = q.next();
        stop.cancel();
        assert!(waiting.await.is_none());
        q.add(1);
        assert!(q.next().await.is_none());
    }
}
