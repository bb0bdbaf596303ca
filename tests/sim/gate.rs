//! The life of one process: while the gate is open it reaches others, once closed nothing it does has an effect.
use crate::journal::Journal;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// On which side of its next effect a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The effect does not happen.
    Before,
    /// It happens, and the process never learns of it.
    After,
}

#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    name: String,
    journal: Arc<Journal>,
    /// Cancelled at the death; the component's shutdown token.
    dead: CancellationToken,
    /// The n-th effect from now, and the side of it.
    dies_at: Mutex<Option<(u64, Side)>>,
    /// Requests that others are carrying out for it.
    under_way: AtomicUsize,
    settled: Notify,
}

/// A request under way, however it ends.
pub struct UnderWay(Gate);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.0.settled.notify_waiters();
        }
    }
}

impl Gate {
    pub fn open(name: &str, journal: Arc<Journal>) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            journal,
            dead: CancellationToken::new(),
            dies_at: Mutex::new(None),
            under_way: AtomicUsize::new(0),
            settled: Notify::new(),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The component's shutdown token.
    pub fn token(&self) -> CancellationToken {
        self.0.dead.clone()
    }

    pub fn is_dead(&self) -> bool {
        self.0.dead.is_cancelled()
    }

    /// Dies at its `count`-th effect from now.
    pub fn die_at(&self, count: u64, side: Side) {
        *self.0.dies_at.lock() = Some((count.max(1), side));
    }

    /// Is not to die after all.
    pub fn spare(&self) {
        *self.0.dies_at.lock() = None;
    }

    /// Dies now.
    pub fn close(&self, why: &str) {
        if !self.is_dead() {
            self.0.journal.note(format_args!("crash {}: {why}", self.0.name));
            self.0.dead.cancel();
        }
    }

    /// Counts an effect: whether the process dies of it, and on which side.
    fn counted(&self) -> Option<Side> {
        let mut dies_at = self.0.dies_at.lock();
        let (count, side) = dies_at.as_mut()?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        let side = *side;
        *dies_at = None;
        Some(side)
    }

    /// To be passed before an effect. Never returns for a process that is dead, or dies here.
    pub async fn pass(&self, what: &str) -> Option<Side> {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        let side = self.counted();
        if side == Some(Side::Before) {
            self.close(&format!("before {what}"));
            std::future::pending::<()>().await;
        }
        side
    }

    /// To be passed after an effect.
    pub async fn came_back(&self, side: Option<Side>, what: &str) {
        if side == Some(Side::After) {
            self.close(&format!("after {what}"));
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub fn under_way(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Waits until nothing that was asked for by this process still happens.
    pub async fn settled(&self) {
        loop {
            let settled = self.0.settled.notified();
            if self.0.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            settled.await;
        }
    }
}
