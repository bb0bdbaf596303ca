//! W3C trace context: which trace a request belongs to.
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a version 00 `traceparent`: 2 + 1 + 32 + 1 + 16 + 1 + 2.
const LENGTH: usize = 55;

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
        let mut given = headers.get_all(TRACEPARENT).iter();
        if let (Some(one), None) = (given.next(), given.next())
            && is_valid(one.as_bytes())
        {
            return;
        }
        // The state belongs to the trace that could not be read.
        headers.remove(TRACESTATE);
        let (high, low, span) = (self.random(), self.random(), self.random());
        let mut text = [b'-'; LENGTH];
        text[..2].copy_from_slice(b"00");
        hex(&mut text[3..19], high);
        hex(&mut text[19..35], low);
        hex(&mut text[36..52], span);
        text[53..].copy_from_slice(b"01");
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// The trace's identifier, for the log.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()?.get(3..35)
}

fn hex(into: &mut [u8], n: u64) {
    for (i, byte) in into.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(n >> (60 - 4 * i) & 0xf) as usize];
    }
}

/// Whether a later hop could read it (Trace Context level 1, section 3.2).
fn is_valid(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let is_set = |part: &[u8]| is_hex(part) && part.iter().any(|b| *b != b'0');
    text.len() >= LENGTH
        && is_hex(&text[..2])
        && &text[..2] != b"ff"
        && [2, 35, 52].iter().all(|i| text[*i] == b'-')
        && is_set(&text[3..35])
        && is_set(&text[36..52])
        && is_hex(&text[53..55])
        // A later version may say more, after a dash.
        && (text.len() == LENGTH || (&text[..2] != b"00" && text[LENGTH] == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(trace_id(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(
            after(&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more"])[TRACEPARENT],
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more"
        );
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
            assert!(is_valid(made.as_bytes()) && !given.contains(&made), "{made}");
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert!(!headers.contains_key(TRACESTATE));
        }
        let first = TraceIds::new(1);
        let made: std::collections::HashSet<u64> = (0..1000).map(|_| first.random()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.leading_zeros() < 32), "they are spread out");
    }
}
