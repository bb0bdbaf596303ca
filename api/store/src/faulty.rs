//! A store that fails as stores fail: refused writes, lost answers, slow disks, broken watches. Which call fails
//! is decided by a seed alone, so a run can be repeated.
use crate::{Committed, Error, Events, Expect, Intercept, Intercepted, Op, Store};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How often each thing goes wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write is refused and did not happen.
    pub refused: u16,
    /// A write happened, but the answer says that nobody knows.
    pub lost_answer: u16,
    /// A read fails.
    pub read_error: u16,
    /// A call takes up to a second.
    pub slow: u16,
    /// A watch ends after an event.
    pub broken_watch: u16,
}

/// See the module's text.
pub type FaultyStore = Intercepted<Faulty>;

/// Decides what fails.
pub struct Faulty {
    faults: Arc<Mutex<(Faults, u64)>>,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl FaultyStore {
    /// `inner` with faults; `seed` decides which calls they hit.
    pub fn around(inner: Arc<dyn Store>, faults: Faults, seed: u64) -> Self {
        Self::new(inner, Faulty { faults: Arc::new(Mutex::new((faults, seed))) })
    }

    /// Changes how often things go wrong from now on; `Faults::default()` heals the store.
    pub fn set_faults(&self, faults: Faults) {
        self.by().faults.lock().0 = faults;
    }
}

impl Faulty {
    fn happens(&self, which: impl Fn(&Faults) -> u16) -> bool {
        roll(&self.faults, which)
    }

    async fn delay(&self) {
        if self.happens(|f| f.slow) {
            let ms = next(&mut self.faults.lock().1) % 1000;
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }
}

fn roll(faults: &Mutex<(Faults, u64)>, which: impl Fn(&Faults) -> u16) -> bool {
    let mut guard = faults.lock();
    let chance = which(&guard.0);
    chance > 0 && next(&mut guard.1) % 1000 < u64::from(chance)
}

fn injected() -> Error {
    Error::Unavailable("injected fault".to_owned())
}

#[async_trait]
impl Intercept for Faulty {
    async fn before_read(&self) -> Result<(), Error> {
        self.delay().await;
        if self.happens(|f| f.read_error) { Err(injected()) } else { Ok(()) }
    }

    async fn commit(&self, inner: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        self.delay().await;
        if self.happens(|f| f.refused) {
            return Err(injected());
        }
        let committed = inner.commit(key, expect, op).await?;
        if self.happens(|f| f.lost_answer) { Err(injected()) } else { Ok(committed) }
    }

    fn events(&self, _: &str, events: Events) -> Events {
        let faults = self.faults.clone();
        let broken = stream::unfold((events, false), move |(mut events, over)| {
            let faults = faults.clone();
            async move {
                if over {
                    return None;
                }
                let event = events.next().await?;
                let over = event.is_err() || roll(&faults, |f| f.broken_watch);
                Some((event, (events, over)))
            }
        });
        broken.chain(stream::once(async { Err(Error::Lagged) })).boxed()
    }
}
