//! Shares of traffic: who gets the next request. Pure and exact.
//!
//! The order is nginx's smooth weighted round robin, written down once: with 90 and 10 it is one in ten, spread out,
//! not ninety and then ten. Over each full round every member gets exactly its weight.

/// The longest order: shares are percent, so a hundred places say everything; more would be a status gone wrong.
const MAX_PLACES: u64 = 10_000;

/// The order in which the members get requests.
#[derive(Debug, Default)]
pub struct Split {
    /// Indexes of members; empty when there is nothing to choose.
    order: Vec<u16>,
}

impl Split {
    /// An order for members with these weights. A member without a weight gets nothing; if none has one, the first
    /// gets all.
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
        let weights: Vec<i64> = weights.iter().map(|w| i64::from(w / divisor)).collect();
        let total: i64 = weights.iter().sum();
        if weights.iter().filter(|w| **w > 0).count() < 2 || total.unsigned_abs() > MAX_PLACES {
            let heaviest = (0..weights.len()).rev().max_by_key(|i| weights[*i]).unwrap_or(0);
            return Self { order: if heaviest == 0 { Vec::new() } else { vec![place(heaviest)] } };
        }
        let mut current = vec![0_i64; weights.len()];
        let order = (0..total).map(|_| {
            for (have, weight) in current.iter_mut().zip(&weights) {
                *have += weight;
            }
            // The first of the largest: `max_by_key` takes the last.
            let chosen = (0..current.len()).rev().max_by_key(|i| current[*i]).unwrap_or(0);
            current[chosen] -= total;
            place(chosen)
        });
        Self { order: order.collect() }
    }

    /// The member whose turn the `turn`-th request is.
    pub fn member(&self, turn: usize) -> usize {
        if self.order.is_empty() { 0 } else { usize::from(self.order[turn % self.order.len()]) }
    }

    /// Whether turns matter at all.
    pub fn is_fixed(&self) -> bool {
        self.order.len() < 2
    }
}

/// Members are fewer than [`MAX_PLACES`], which fits.
fn place(member: usize) -> u16 {
    u16::try_from(member).unwrap_or(0)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32], requests: usize) -> Vec<usize> {
        let split = Split::new(weights);
        let mut counts = vec![0; weights.len()];
        for turn in 0..requests {
            counts[split.member(turn)] += 1;
        }
        counts
    }

    #[test]
    fn every_member_gets_exactly_its_share_of_a_round() {
        assert_eq!(counts(&[90, 10], 10_000), [9_000, 1_000]);
        assert_eq!(counts(&[33, 33, 34], 100), [33, 33, 34]);
        assert_eq!(counts(&[1, 99], 100), [1, 99]);
        assert_eq!(counts(&[100, 0], 100), [100, 0]);
        assert_eq!(counts(&[0, 100], 100), [0, 100]);
        assert_eq!(counts(&[0, 0], 10), [10, 0]);
        assert_eq!(counts(&[7], 10), [10]);
    }

    #[test]
    fn a_small_share_is_spread_out() {
        let split = Split::new(&[80, 20]);
        let order: Vec<usize> = (0..10).map(|turn| split.member(turn)).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn the_counter_may_wrap_and_weights_may_be_absurd() {
        assert!(Split::new(&[50, 50]).member(usize::MAX) < 2);
        assert_eq!(Split::new(&[1, u32::MAX]).member(3), 1, "the heaviest gets all");
        assert_eq!(Split::new(&[]).member(3), 0);
    }
}
