//! W3C trace context (<https://www.w3.org/TR/trace-context/>): which trace a request belongs to.
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a version 00 `traceparent`: 2 + 1 + 32 + 1 + 16 + 1 + 2.
const LENGTH: usize = 55;

/// The longest `tracestate` that is passed on by a span: what section 3.3.1.5 asks everyone to carry. A longer one is
/// left out, as the section permits.
const MAX_STATE_BYTES: usize = 512;

/// The trace of a request, if it names one that can be read, and only one.
fn given(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return None };
    one.to_str().ok().filter(|text| is_valid(text.as_bytes()))
}

/// Whether a request names its trace.
pub fn is_given(headers: &HeaderMap) -> bool {
    given(headers).is_some()
}

/// The identifier of a request's trace, 32 hexadecimal digits.
pub fn trace_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()?.get(3..35)
}

/// The span that a request was sent by.
pub fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let text = given(headers)?;
    let trace = TraceId::from_hex(&text[3..35]).ok()?;
    let span = SpanId::from_hex(&text[36..52]).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(&text[53..55], 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, state(headers)))
}

fn state(headers: &HeaderMap) -> TraceState {
    let mut lines = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok());
    let Some(mut whole) = lines.next().map(str::to_owned) else { return TraceState::NONE };
    for line in lines {
        if whole.len() > MAX_STATE_BYTES {
            break;
        }
        whole.push(',');
        whole.push_str(line);
    }
    if whole.len() > MAX_STATE_BYTES {
        return TraceState::NONE;
    }
    whole.parse().unwrap_or(TraceState::NONE)
}

/// Tells whoever gets the request that it is sent by `context`.
pub fn inject(context: &SpanContext, headers: &mut HeaderMap) {
    let trace = u128::from_be_bytes(context.trace_id().to_bytes());
    let span = u64::from_be_bytes(context.span_id().to_bytes());
    headers.remove(TRACESTATE);
    if context.trace_state() != &TraceState::NONE
        && let Ok(state) = HeaderValue::from_str(&context.trace_state().header())
        && !state.is_empty()
    {
        headers.insert(TRACESTATE, state);
    }
    if let Some(value) = value(trace, span, context.is_sampled()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// A `traceparent` of version 00.
pub fn value(trace: u128, span: u64, sampled: bool) -> Option<HeaderValue> {
    let mut text = [b'-'; LENGTH];
    text[..2].copy_from_slice(b"00");
    hex(&mut text[3..35], trace);
    hex(&mut text[36..52], u128::from(span));
    text[53..].copy_from_slice(if sampled { b"01" } else { b"00" });
    HeaderValue::from_bytes(&text).ok()
}

fn hex(into: &mut [u8], mut number: u128) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// Whether a `traceparent` is one (section 3.2.2).
fn is_valid(text: &[u8]) -> bool {
    let is_hex = |text: &[u8]| text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let is_set = |text: &[u8]| is_hex(text) && text.iter().any(|b| *b != b'0');
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

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    fn with(parents: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).expect("a value"));
        }
        headers
    }

    #[test]
    fn what_is_extracted_is_injected_again() {
        let context = extract(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1,b=2")])).expect("a context");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        let mut onward = headers(&[(TRACEPARENT, "old"), (TRACESTATE, "old=1")]);
        inject(&context, &mut onward);
        assert_eq!(onward[TRACEPARENT], GOOD);
        assert_eq!(onward[TRACESTATE], "a=1,b=2");
        assert_eq!(trace_id(&onward), Some("0af7651916cd43dd8448eb211c80319c"));
        let unsampled = extract(&with(&[&GOOD.replace("-01", "-00")])).expect("a context");
        assert!(!unsampled.is_sampled());
        inject(&unsampled, &mut onward);
        assert_eq!(onward[TRACEPARENT], GOOD.replace("-01", "-00"));
        assert!(!onward.contains_key(TRACESTATE), "the state of another trace goes");
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on_and_later_versions_are_read() {
        let context = extract(&with(&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-more"]));
        assert_eq!(context.expect("a context").trace_flags(), TraceFlags::SAMPLED);
    }

    #[test]
    fn one_that_cannot_be_read_is_none() {
        let bad: [&[&str]; 8] = [
            &[],
            &[GOOD, GOOD],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-00"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
            &["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"],
        ];
        for given in bad {
            let headers = with(given);
            assert!(extract(&headers).is_none() && !is_given(&headers), "{given:?}");
        }
    }

    #[test]
    fn a_state_of_several_lines_is_one_and_a_long_one_is_left_out() {
        let mut several = headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1")]);
        several.append(TRACESTATE, HeaderValue::from_static("b=2"));
        assert_eq!(extract(&several).expect("a context").trace_state().header(), "a=1,b=2");
        let long = format!("a={}", "1".repeat(MAX_STATE_BYTES));
        let context = extract(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, &long)])).expect("a context");
        assert_eq!(context.trace_state(), &TraceState::NONE);
        let nonsense = extract(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "=;=")])).expect("a context");
        assert_eq!(nonsense.trace_state().header(), "");
    }
}
