//! How long to wait before trying again.
use std::time::Duration;

/// Doubling delays between a base and a cap, spread by up to a quarter so that the watches of one process do
/// not return in step. The spread is a hash of a name and the attempt: no random source, same run same delays.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    pub(crate) fn new(name: &str, base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0, seed: fnv(name.as_bytes()) }
    }

    /// The delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let plain = doubled(self.base, self.cap, self.attempt);
        let hash = fnv(&(self.seed ^ u64::from(self.attempt)).to_le_bytes());
        self.attempt = self.attempt.saturating_add(1);
        // 75 % … 100 % of the plain delay, in 64ths.
        plain * (48 + (hash % 17) as u32) / 64
    }

    /// Something worked: begin again at the base.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// `base × 2^exponent`, at most `cap`.
pub(crate) fn doubled(base: Duration, cap: Duration, exponent: u32) -> Duration {
    base.checked_mul(1u32.checked_shl(exponent).unwrap_or(u32::MAX)).map_or(cap, |d| d.min(cap))
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_begin_again_after_a_success() {
        let mut b = Backoff::new("pods", Duration::from_millis(100), Duration::from_secs(30));
        let delays: Vec<_> = (0..40).map(|_| b.next_delay()).collect();
        for (i, d) in delays.iter().enumerate() {
            let plain = doubled(Duration::from_millis(100), Duration::from_secs(30), i as u32);
            assert!(*d <= plain && *d >= plain * 3 / 4, "{i}: {d:?}");
        }
        assert!(delays[39] >= Duration::from_secs(22));
        b.reset();
        assert!(b.next_delay() <= Duration::from_millis(100));
    }
}
