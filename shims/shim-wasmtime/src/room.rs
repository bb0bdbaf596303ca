//! How many requests of one http container are at work: as many as its memory limit has room for instances.
//!
//! What an instance takes is known when it has served, not before: the runtime of a language grows with its first
//! request (Python's from 13 MB to 16). So the last ones count, and half as much again as the program declares until the
//! first is back.
//!
//! Invariant: at least one request and at most as many as the container may have in any case.
use crate::limits::MAX_CONCURRENT_REQUESTS;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) struct Room {
    limit: u64,
    most: usize,
    places: Arc<Semaphore>,
    known: Mutex<Known>,
}

struct Known {
    /// Bytes that one instance takes.
    instance: u64,
    /// How many places there are, taken ones included.
    places: usize,
}

impl Room {
    /// For a container with this memory limit (`u64::MAX`: none) that may have `most` requests at once, of a program
    /// whose memories hold `initial` bytes from the start.
    pub(crate) fn new(limit: u64, initial: u64, most: usize) -> Self {
        let instance = initial.saturating_add(initial / 2);
        let places = compute_concurrency(limit, instance).min(most);
        Self {
            limit,
            most,
            places: Arc::new(Semaphore::new(places)),
            known: Mutex::new(Known { instance, places }),
        }
    }

    /// A place for one more request; `None` when there is none within `timeout`.
    pub(crate) async fn enter(&self, timeout: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        tokio::time::timeout(timeout, self.places.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Takes note of what an instance held when it had served.
    pub(crate) fn learn(&self, held: u64) {
        if self.limit == u64::MAX {
            return;
        }
        let mut known = self.known.lock();
        known.instance = compute_instance(known.instance, held);
        let wanted = self.wanted(&known);
        if wanted > known.places {
            self.places.add_permits(wanted - known.places);
            known.places = wanted;
        }
    }

    /// Gives a place back, or gives it up where there are too many.
    pub(crate) fn leave(&self, place: OwnedSemaphorePermit) {
        if self.limit == u64::MAX {
            return;
        }
        let mut known = self.known.lock();
        if known.places > self.wanted(&known) {
            place.forget();
            known.places -= 1;
        }
    }

    fn wanted(&self, known: &Known) -> usize {
        compute_concurrency(self.limit, known.instance).min(self.most)
    }
}

/// How many requests may be at work: as many instances as the container's memory limit has room for.
fn compute_concurrency(memory_limit: u64, instance_bytes: u64) -> usize {
    let fitting = memory_limit.checked_div(instance_bytes).unwrap_or(u64::MAX);
    usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, MAX_CONCURRENT_REQUESTS)
}

/// What an instance is taken to need after one held so much: more at once, less by an eighth of the difference, so that
/// one large request does not hold back the small ones for long.
fn compute_instance(before: u64, held: u64) -> u64 {
    if held >= before { held } else { before - (before - held) / 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_follows_from_the_memory_limit() {
        assert_eq!(compute_concurrency(u64::MAX, 1 << 20), MAX_CONCURRENT_REQUESTS);
        assert_eq!(compute_concurrency(10 << 20, 1 << 20), 10);
        assert_eq!(compute_concurrency(1, 1 << 20), 1);
        assert_eq!(compute_concurrency(1 << 30, 0), MAX_CONCURRENT_REQUESTS);
    }

    #[tokio::test]
    async fn places_follow_what_the_instances_took() {
        const MIB: u64 = 1 << 20;
        let room = Room::new(64 * MIB, 12 * MIB, 5);
        let enter = || room.places.clone().try_acquire_owned();
        // 18 MiB each until one is back.
        let mut taken: Vec<_> = (0..3).map(|_| enter().expect("a place")).collect();
        assert!(enter().is_err());
        room.learn(32 * MIB);
        taken.drain(..2).for_each(|place| room.leave(place));
        assert_eq!(room.places.available_permits(), 1, "two of 32 MiB fit, one of them is taken");
        for _ in 0..50 {
            room.learn(12 * MIB);
        }
        assert_eq!(room.places.available_permits(), 4, "five of 12 MiB fit, one of them is taken");
        taken.drain(..).for_each(|place| room.leave(place));
        assert_eq!(room.places.available_permits(), 5, "and no more are permitted");
        room.learn(1000 * MIB);
        for _ in 0..9 {
            room.leave(enter().expect("one always fits"));
        }
        assert_eq!(room.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn without_a_limit_all_that_is_permitted_fits() {
        let room = Room::new(u64::MAX, 1 << 20, 7);
        room.learn(1 << 40);
        let place = room.enter(Duration::ZERO).await.expect("a place");
        assert_eq!(room.places.available_permits(), 6);
        room.leave(place);
        assert_eq!(room.places.available_permits(), 7);
    }
}
