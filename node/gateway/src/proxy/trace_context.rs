//! The trace that a request belongs to, where nobody traces: passed on, or made.
use http::HeaderMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use telemetry::trace_context::{TRACEPARENT, TRACESTATE, is_given, value};

/// Makes identifiers: unlike each other and spread out, not secret.
pub(crate) struct TraceIds {
    next: AtomicU64,
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl TraceIds {
    /// `seed` are random bits: two gateways with different ones make different identifiers.
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: AtomicU64::new(seed) }
    }

    fn random(&self) -> u64 {
        mixed(self.next.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)).max(1)
    }

    /// Passes on the trace of the request, or begins one: marked as sampled, so that programs that record what their
    /// caller records do.
    pub(crate) fn ensure(&self, headers: &mut HeaderMap) {
        if is_given(headers) {
            return;
        }
        // The state belongs to the trace that could not be read.
        headers.remove(TRACESTATE);
        let (high, low, span) = (self.random(), self.random(), self.random());
        if let Some(value) = value(u128::from(high) << 64 | u128::from(low), span, true) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn after(given: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for one in given {
            headers.append(TRACEPARENT, HeaderValue::from_static(one));
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        TraceIds::new(7).ensure(&mut headers);
        headers
    }

    #[test]
    fn a_trace_is_passed_on_as_it_is() {
        let headers = after(&[GOOD]);
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert_eq!(headers[TRACESTATE], "a=1");
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more";
        assert_eq!(after(&[later])[TRACEPARENT], later);
    }

    #[test]
    fn one_that_cannot_be_read_is_replaced_and_none_is_made() {
        let bad: [&[&'static str]; 7] = [
            &[],
            &[GOOD, GOOD],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-00"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
            &["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
        ];
        for given in bad {
            let headers = after(given);
            let made = headers[TRACEPARENT].to_str().expect("text");
            assert!(is_given(&headers) && !given.contains(&made), "{made}");
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert!(!headers.contains_key(TRACESTATE));
        }
        let first = TraceIds::new(1);
        let made: std::collections::HashSet<u64> = (0..1000).map(|_| first.random()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.leading_zeros() < 32), "they are spread out");
    }
}
