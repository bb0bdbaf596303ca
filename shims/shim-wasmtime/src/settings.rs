//! What a pod's annotations change about a server. Pure.
use crate::limits::{
    CONCURRENCY_ANNOTATION, INSTANCE_REUSE_ANNOTATION, MAX_BODY_ANNOTATION, MAX_BODY_BYTES,
    MAX_CONCURRENT_REQUESTS, MAX_INSTANCE_REUSE, MAX_REQUEST_TIMEOUT, MAX_RESPONSE_ANNOTATION,
    REQUEST_CPU_ANNOTATION, REQUEST_TIMEOUT, TIMEOUT_ANNOTATION,
};
use shim::Error;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the pod's annotations may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    /// CPU time of one request.
    pub(crate) cpu: Duration,
    pub(crate) max_body: u64,
    pub(crate) max_response: u64,
    /// Requests at work at once.
    pub(crate) concurrency: usize,
    /// Requests one instance may serve, one after another.
    pub(crate) reuse: u32,
}

impl Settings {
    pub(crate) fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self, Error> {
        let timeout = match annotations.get(TIMEOUT_ANNOTATION) {
            None => REQUEST_TIMEOUT,
            Some(text) => parse_duration(text).filter(|d| !d.is_zero() && *d <= MAX_REQUEST_TIMEOUT).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {TIMEOUT_ANNOTATION}: {text:?} is not a time between 1ms and 1h, such as 30s or 5m"
                ))
            })?,
        };
        let max_body = match annotations.get(MAX_BODY_ANNOTATION) {
            None => MAX_BODY_BYTES,
            Some(text) => text.parse().map_err(|_| {
                Error::InvalidSpec(format!(
                    "annotation {MAX_BODY_ANNOTATION}: {text:?} is not a number of bytes"
                ))
            })?,
        };
        let cpu = match annotations.get(REQUEST_CPU_ANNOTATION) {
            None => timeout / 3,
            Some(text) => parse_duration(text).filter(|d| !d.is_zero() && *d <= timeout).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {REQUEST_CPU_ANNOTATION}: {text:?} is not a time between 1ms and the request's \
                     timeout, {timeout:?}"
                ))
            })?,
        };
        let concurrency = match annotations.get(CONCURRENCY_ANNOTATION) {
            None => MAX_CONCURRENT_REQUESTS,
            // More than this node's own limit counts as that: what a pod asks for need not know the node.
            Some(text) => match text.parse::<usize>() {
                Ok(n @ 1..) => n.min(MAX_CONCURRENT_REQUESTS),
                _ => {
                    return Err(Error::InvalidSpec(format!(
                        "annotation {CONCURRENCY_ANNOTATION}: {text:?} is not a number of requests, 1 or more"
                    )));
                }
            },
        };
        let max_response = match annotations.get(MAX_RESPONSE_ANNOTATION) {
            None => u64::MAX,
            Some(text) => text.parse().map_err(|_| {
                Error::InvalidSpec(format!(
                    "annotation {MAX_RESPONSE_ANNOTATION}: {text:?} is not a number of bytes"
                ))
            })?,
        };
        let reuse = match annotations.get(INSTANCE_REUSE_ANNOTATION) {
            None => 1,
            Some(text) => text.parse().ok().filter(|n| (1..=MAX_INSTANCE_REUSE).contains(n)).ok_or_else(|| {
                Error::InvalidSpec(format!(
                    "annotation {INSTANCE_REUSE_ANNOTATION}: {text:?} is not a number of requests between 1 and \
                     {MAX_INSTANCE_REUSE}"
                ))
            })?,
        };
        Ok(Self { timeout, cpu, max_body, max_response, concurrency, reuse })
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_set_the_limits_and_nonsense_is_refused() {
        let settings = |key: &str, value: &str| {
            Settings::from_annotations(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert_eq!(
            settings("x", "y").unwrap(),
            Settings {
                timeout: REQUEST_TIMEOUT,
                cpu: REQUEST_TIMEOUT / 3,
                max_body: MAX_BODY_BYTES,
                max_response: u64::MAX,
                concurrency: MAX_CONCURRENT_REQUESTS,
                reuse: 1
            }
        );
        assert_eq!(settings(TIMEOUT_ANNOTATION, "250ms").unwrap().timeout, Duration::from_millis(250));
        assert_eq!(settings(TIMEOUT_ANNOTATION, "5m").unwrap().timeout, Duration::from_secs(300));
        assert_eq!(settings(MAX_BODY_ANNOTATION, "10").unwrap().max_body, 10);
        assert_eq!(settings(CONCURRENCY_ANNOTATION, "7").unwrap().concurrency, 7);
        assert_eq!(settings(CONCURRENCY_ANNOTATION, "1000").unwrap().concurrency, MAX_CONCURRENT_REQUESTS);
        for bad in ["0", "", "-1", "many"] {
            assert!(settings(CONCURRENCY_ANNOTATION, bad).is_err(), "{bad}");
        }
        assert_eq!(settings(REQUEST_CPU_ANNOTATION, "50ms").unwrap().cpu, Duration::from_millis(50));
        assert!(settings(REQUEST_CPU_ANNOTATION, "31s").is_err(), "more than the request's time");
        for bad in ["", "5", "0s", "2h", "s", "-1s", "99999999999999999999s"] {
            assert!(settings(TIMEOUT_ANNOTATION, bad).is_err(), "{bad}");
        }
        assert!(settings(MAX_BODY_ANNOTATION, "64Mi").is_err());
        assert_eq!(settings(INSTANCE_REUSE_ANNOTATION, "128").unwrap().reuse, 128);
        for bad in ["", "0", "-1", "true", "10001"] {
            assert!(settings(INSTANCE_REUSE_ANNOTATION, bad).is_err(), "{bad}");
        }
    }
}
