//! `metrics.k8s.io`: what nodes and pods use, as `kubectl top` and autoscalers ask for it.
//!
//! Its objects are not stored: they are computed from the last two scrapes of each node.
//!
//! ```text
//!   kubelet /metrics/resource ──text──► scrape (read) ─► windows (last two, per node) ─► Usage ─► objects ─► API
//! ```
//! Invariant: a rate is told only where two counts of the same run of a container are known, together with the time
//! between them; what is not known is left out, never told as zero.
mod objects;
mod scrape;
mod windows;

pub use objects::{ROWS, definitions, node_metrics, pod_metrics};
pub use scrape::{ParseError, Point, Scrape, parse_scrape};
pub use windows::Windows;

use jiff::Timestamp;
use std::time::Duration;

/// The group and version.
pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
/// Under which name a container's `usage` tells its requests per second. A rate, as `cpu` is one.
pub const REQUESTS_PER_SECOND: &str = "dhow.dev/requests-per-second";

/// What something used in a window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Billionths of a core, on average over the window.
    pub cpu_nanocores: u64,
    /// Bytes at the window's end.
    pub memory_bytes: u64,
    /// Thousandths of a request per second, on average; `None` for what answers no requests.
    pub requests_millis_per_second: Option<u64>,
}

/// A node's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeUsage {
    /// The window's end.
    pub timestamp: Timestamp,
    pub window: Duration,
    pub usage: Usage,
}

/// A pod's usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUsage {
    /// The window's end.
    pub timestamp: Timestamp,
    pub window: Duration,
    /// By container name.
    pub containers: Vec<(String, Usage)>,
}

/// Whoever has scraped the nodes.
pub trait MetricsReader: Send + Sync + 'static {
    /// A node's usage, where it is known.
    fn node(&self, name: &str) -> Option<NodeUsage>;
    /// A pod's usage, where that of all its running containers is known.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage>;
}

/// A duration as Go prints it and metav1.Duration has it: `15.03s`, `1m0.5s`.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = rest as f64 / 1000.0;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// The inverse of [`go_duration`], for hours, minutes, seconds and milliseconds; `None` for anything else.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let seconds = match &rest[digits..unit] {
            "h" => number * 3600.0,
            "m" => number * 60.0,
            "s" => number,
            "ms" => number / 1000.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_and_read_as_go_does() {
        for (millis, text) in [(15_030, "15.03s"), (60_500, "1m0.5s"), (3_600_000, "1h0m0s"), (0, "0s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
            assert_eq!(parse_go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_go_duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "15", "s", "1x", "-1s", "1..2s", "99999999999999999999999h"] {
            assert_eq!(parse_go_duration(bad), None, "{bad:?}");
        }
    }
}
