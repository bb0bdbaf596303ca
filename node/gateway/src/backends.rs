//! What stands behind a host and path: a route, its members, their addresses.
use crate::split::Split;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge (a Service port with `appProtocol: kubernetes.io/h2c`).
    H2c,
}

/// What survives a new table: whose turn it is, and what was counted.
#[derive(Debug, Default)]
pub struct Memory {
    turn: AtomicUsize,
    /// Answers by their status code; three digits, so at most a thousand.
    codes: Mutex<BTreeMap<u16, u64>>,
}

impl Memory {
    /// Counts an answer.
    pub fn count(&self, code: u16) {
        *self.codes.lock().entry(code).or_default() += 1;
    }
    /// The answers so far, by code.
    pub fn codes(&self) -> Vec<(u16, u64)> {
        self.codes.lock().iter().map(|(code, n)| (*code, *n)).collect()
    }
}

/// The ready addresses of one Service port.
#[derive(Debug, Default)]
pub struct Backends {
    /// The Service's name; a Function's revision and its Service have the same.
    pub service: String,
    pub addresses: Vec<SocketAddr>,
    pub protocol: Protocol,
    pub(crate) memory: Arc<Memory>,
}

impl Backends {
    /// All addresses, beginning with the one whose turn it is.
    pub fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let first = self.memory.turn.fetch_add(1, Relaxed);
        (0..self.addresses.len()).map(move |n| self.addresses[first.wrapping_add(n) % self.addresses.len()])
    }
}

/// Requests with all of these headers go to one member, before any weights.
#[derive(Debug)]
pub(crate) struct HeaderRule {
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) backends: Arc<Backends>,
}

impl HeaderRule {
    fn matches(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| headers.get_all(name).iter().any(|have| have == value))
    }
}

/// Whose route it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `function`, `service` or `ingress`.
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Where the requests of a host and path go.
#[derive(Debug, Default)]
pub struct Route {
    pub owner: Owner,
    /// How long a request may take as a whole; `None` leaves it to the gateway's own limits.
    pub timeout: Option<Duration>,
    pub(crate) rules: Vec<HeaderRule>,
    pub(crate) members: Vec<Arc<Backends>>,
    pub(crate) split: Split,
    pub memory: Arc<Memory>,
}

impl Route {
    /// Who gets the next request with these headers. `None` when the route leads nowhere now.
    pub fn choose(&self, headers: &HeaderMap) -> Option<&Arc<Backends>> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.matches(headers)) {
            return Some(&rule.backends);
        }
        let turn = if self.split.is_fixed() { 0 } else { self.memory.turn.fetch_add(1, Relaxed) };
        self.members.get(self.split.member(turn))
    }

    /// Every member, those behind a header as well.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Backends>> {
        self.members.iter().chain(self.rules.iter().map(|rule| &rule.backends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_round() {
        let addresses: Vec<SocketAddr> =
            ["127.0.0.1:1", "127.0.0.1:2"].iter().map(|a| a.parse().expect("an address")).collect();
        let backends = Backends { addresses: addresses.clone(), ..Backends::default() };
        backends.memory.turn.store(usize::MAX, Relaxed);
        assert_eq!(backends.in_turn().count(), 2);
        assert_eq!(backends.in_turn().next(), Some(addresses[0]));
        assert_eq!(backends.in_turn().next(), Some(addresses[1]));
    }

    #[test]
    fn all_headers_of_a_rule_must_be_there_and_weights_come_after() {
        let [plain, canary] = ["127.0.0.1:1", "127.0.0.1:2"].map(|a| {
            Arc::new(Backends { addresses: vec![a.parse().expect("an address")], ..Backends::default() })
        });
        let header = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let rule = HeaderRule {
            headers: vec![header("x-canary", "yes"), header("x-team", "a")],
            backends: canary.clone(),
        };
        let route = Route {
            rules: vec![rule],
            members: vec![plain.clone()],
            split: Split::new(&[100]),
            ..Route::default()
        };
        let chosen = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(n, v)| header(n, v)).collect();
            route.choose(&headers).expect("a member").addresses[0].port()
        };
        assert_eq!(chosen(&[]), 1);
        assert_eq!(chosen(&[("x-canary", "yes")]), 1);
        assert_eq!(chosen(&[("x-canary", "no"), ("x-team", "a")]), 1);
        assert_eq!(chosen(&[("x-canary", "yes"), ("x-team", "a")]), 2);
    }
}
