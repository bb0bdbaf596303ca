//! Durations of requests.
use std::time::Duration;

/// In microseconds: four bytes for each of some millions.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Percentiles in milliseconds (nearest rank).
    pub(crate) fn percentiles_ms<const N: usize>(&self, percents: [f64; N]) -> [f64; N] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
        })
    }
}

#[test]
fn percentiles_are_the_nearest_ranks() {
    let mut latencies = Latencies::default();
    for millis in (1..=100).rev() {
        latencies.add(Duration::from_millis(millis));
    }
    assert_eq!(latencies.percentiles_ms([50.0, 99.0, 100.0]), [50.0, 99.0, 100.0]);
}
