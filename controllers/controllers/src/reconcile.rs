//! The loop all controllers share: changes become keys, workers take keys, a failed key comes again.
//!
//! ```text
//!   Informer ─ Change ─► feed ─ key ─► WorkQueue ─ key ─► work ─► sync(key) ─ Ok(None)      done
//!                                          ▲                            ├──── Ok(Some(d))   again after d
//!                                          └────────────────────────────┴──── Err, panic    again, later each time
//! ```
//! A change is only a wake-up: `sync` looks at the informers for what is. Should one be missed, a full pass comes round.
use crate::error::Error;
use client::kube::Resource;
use client::{Change, Informer, Object, ObjectKey, WorkQueue};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// Every object of a controller is looked at this often, though nothing happens: a wake-up that was lost costs so
/// much time and no more. A pass over a thousand ReplicaSets of a namespace of ten thousand pods takes about a second.
const FULL_PASS: Duration = Duration::from_secs(600);

/// What a pass asks for: nothing, or to be made again after a time.
pub(crate) type Outcome = Result<Option<Duration>, Error>;

/// Turns changes of one kind into keys until the informers are shut down. At [`Change::Resync`] deletions were missed:
/// `keys` names whatever may hang on one.
pub(crate) async fn feed<K, Q, I>(informer: Informer<K>, queue: WorkQueue<Q>, keys: impl Fn(&Change<K>) -> I)
where
    K: Object,
    Q: Clone + Eq + Hash,
    I: IntoIterator<Item = Q>,
{
    let mut changes = informer.subscribe();
    while let Some(change) = changes.next().await {
        for key in keys(&change) {
            queue.add(key);
        }
    }
}

/// [`feed`] for the kind a controller is about: each object's own key, and all of them once in a while.
pub(crate) async fn feed_own<K: Object>(informer: Informer<K>, queue: WorkQueue<ObjectKey>) {
    tokio::join!(feed(informer.clone(), queue.clone(), own_key), full_passes(informer, queue));
}

/// Adds every object of a kind once in a while, until the queue ends.
pub(crate) async fn full_passes<K: Object>(informer: Informer<K>, queue: WorkQueue<ObjectKey>) {
    while queue.rest(FULL_PASS).await {
        every_key(&informer).into_iter().for_each(|key| queue.add(key));
    }
}

/// The keys of all objects of a kind.
pub(crate) fn every_key<K: Object>(informer: &Informer<K>) -> Vec<ObjectKey> {
    informer.list().iter().map(|o| ObjectKey::of(&**o)).collect()
}

/// The object a change is about.
pub(crate) fn object<K>(change: &Change<K>) -> Option<&Arc<K>> {
    match change {
        Change::Applied(o) | Change::Deleted(o) => Some(o),
        Change::Resync => None,
    }
}

/// The key of the object a change is about.
pub(crate) fn own_key<K: Resource>(change: &Change<K>) -> Option<ObjectKey> {
    object(change).map(|o| ObjectKey::of(&**o))
}

/// Works through the queue with `workers` keys at a time until the shutdown.
pub(crate) async fn work<K, F, Fut>(controller: &'static str, queue: &WorkQueue<K>, workers: usize, sync: F)
where
    K: Clone + Eq + Hash + std::fmt::Debug,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Outcome>,
{
    let mut all: FuturesUnordered<_> = (0..workers).map(|_| worker(controller, queue, &sync)).collect();
    while all.next().await.is_some() {}
}

async fn worker<K, F, Fut>(controller: &'static str, queue: &WorkQueue<K>, sync: &F)
where
    K: Clone + Eq + Hash + std::fmt::Debug,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Outcome>,
{
    while let Some(claim) = queue.next().await {
        let key = (*claim).clone();
        match AssertUnwindSafe(async { sync(key.clone()).await }).catch_unwind().await {
            Ok(Ok(again)) => {
                queue.forget(&key);
                if let Some(delay) = again {
                    queue.add_after(key, delay);
                }
            }
            Ok(Err(error)) => {
                if error.is_race() {
                    tracing::debug!(controller, ?key, error = error.chain(), "again");
                } else {
                    tracing::warn!(
                        controller,
                        ?key,
                        error = error.chain(),
                        "a pass failed and is made again"
                    );
                }
                queue.add_rate_limited(key);
            }
            // The panic's text went to the panic hook. One bad object must not stop the others.
            Err(_) => {
                tracing::error!(controller, ?key, "a pass panicked and is made again");
                queue.add_rate_limited(key);
            }
        }
    }
}
