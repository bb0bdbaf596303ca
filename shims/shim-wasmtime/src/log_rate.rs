//! How fast a container may write to its log.
//!
//! Invariant: over any time, a container's log takes no more than the burst and what the rate gives for that time, and
//! one write more. A guest that wants more waits; what the runtime itself has to say of a guest never waits, and is
//! left out and counted instead, for a guest could make it say a thousand lines a second.
use crate::limits::{
    LOG_BURST_BYTES, LOG_BYTES_PER_SECOND, LOG_RATE_ANNOTATION, MIN_LOG_BYTES_PER_SECOND, OUTPUT_CHUNK,
};
use parking_lot::Mutex;
use shim::Error;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One container's, for both its streams.
pub(crate) struct LogRate {
    bytes_per_second: u64,
    budget: Mutex<Budget>,
}

struct Budget {
    /// Below zero after a write larger than what was left.
    left: i64,
    burst: i64,
    at: Instant,
    dropped: u64,
}

impl Budget {
    fn refill(&mut self, bytes_per_second: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let earned = (passed.as_secs_f64() * bytes_per_second as f64) as i64;
        // Not for every nanosecond: rounding down would lose what comes in small steps.
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.burst);
            self.at = now;
        }
    }
}

impl LogRate {
    pub(crate) fn new(bytes_per_second: u64) -> Arc<Self> {
        let burst =
            i64::try_from(LOG_BURST_BYTES.min(bytes_per_second.saturating_mul(2))).unwrap_or(i64::MAX);
        let budget = Budget { left: burst, burst, at: Instant::now(), dropped: 0 };
        Arc::new(Self { bytes_per_second, budget: Mutex::new(budget) })
    }

    pub(crate) fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Arc<Self>, Error> {
        let Some(text) = annotations.get(LOG_RATE_ANNOTATION) else {
            return Ok(Self::new(LOG_BYTES_PER_SECOND));
        };
        match text.parse() {
            Ok(rate) if rate >= MIN_LOG_BYTES_PER_SECOND => Ok(Self::new(rate)),
            _ => Err(Error::InvalidSpec(format!(
                "annotation {LOG_RATE_ANNOTATION}: {text:?} is not a number of bytes, {MIN_LOG_BYTES_PER_SECOND} or more"
            ))),
        }
    }

    /// How long to wait before the next write; `None` is not at all.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let mut budget = self.budget.lock();
        budget.refill(self.bytes_per_second, Instant::now());
        if budget.left > 0 {
            return None;
        }
        // Until a whole chunk fits: waking for every byte would cost more than the byte.
        let missing = OUTPUT_CHUNK as u64 + budget.left.unsigned_abs();
        let wait = Duration::from_secs_f64(missing as f64 / self.bytes_per_second as f64);
        Some(wait.clamp(Duration::from_millis(1), Duration::from_secs(1)))
    }

    /// Counts what is written.
    pub(crate) fn take(&self, bytes: usize) {
        let mut budget = self.budget.lock();
        budget.left = budget.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether a line of the runtime may be written now, and how many were left out before it.
    pub(crate) fn permit_note(&self, bytes: usize) -> Option<u64> {
        let mut budget = self.budget.lock();
        budget.refill(self.bytes_per_second, Instant::now());
        if budget.left <= 0 {
            budget.dropped += 1;
            return None;
        }
        budget.left = budget.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some(std::mem::take(&mut budget.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_through_and_then_the_rate_holds() {
        let rate = LogRate::new(10_000);
        assert_eq!(rate.wait(), None);
        rate.take(20_000);
        assert!(rate.wait().is_some());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(rate.wait(), None);
        rate.take(5_000);
        assert!(rate.wait().is_some());
        // Idle for an hour it earns one burst, not an hour's worth.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(rate.wait(), None);
        rate.take(20_000);
        assert!(rate.wait().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn notes_beyond_the_rate_are_counted() {
        let rate = LogRate::new(1_024);
        assert_eq!(rate.permit_note(5_000), Some(0));
        assert_eq!((rate.permit_note(1), rate.permit_note(1)), (None, None));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(rate.permit_note(1), Some(2));
        assert_eq!(rate.permit_note(1), Some(0));
    }

    #[test]
    fn a_rate_that_is_none_is_refused() {
        let rate = |text: &str| {
            LogRate::from_annotations(&BTreeMap::from([(LOG_RATE_ANNOTATION.to_owned(), text.to_owned())]))
        };
        for bad in ["", "fast", "10", "-1", "4Mi"] {
            assert!(rate(bad).err().unwrap().to_string().contains("is not a number of bytes"), "{bad}");
        }
    }
}
