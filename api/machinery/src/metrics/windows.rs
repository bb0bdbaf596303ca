//! The last two scrapes of every node, and the rates between them.
use super::scrape::{Point, Scrape};
use super::{NodeUsage, PodUsage, Usage};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// A container that started after the scrape before has used nothing before its start, but the start is known to the
/// second only: below this age that would be an error of more than a tenth (metrics-server's rule, too).
const LEAST_AGE: Duration = Duration::from_secs(10);

/// What is known of all nodes.
#[derive(Debug, Default)]
pub struct Windows {
    nodes: BTreeMap<String, Window>,
    /// Which node has a pod, by namespace and name.
    pods: BTreeMap<(String, String), String>,
}

#[derive(Debug)]
struct Window {
    before: Option<Scrape>,
    last: Scrape,
}

impl Windows {
    /// Takes a node's new scrape. One that is not newer than the last is dropped.
    pub fn insert(&mut self, node: &str, scrape: Scrape) {
        let window = match self.nodes.remove(node) {
            Some(old) if old.last.at >= scrape.at => old,
            Some(old) => {
                self.forget_pods(node, &old.last);
                Window { before: Some(old.last), last: scrape }
            }
            None => Window { before: None, last: scrape },
        };
        for pod in window.last.pods.keys() {
            self.pods.insert(pod.clone(), node.to_owned());
        }
        self.nodes.insert(node.to_owned(), window);
    }

    /// Forgets nodes that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.nodes.keys().filter(|node| !is_there(node)).cloned().collect();
        for node in gone {
            if let Some(window) = self.nodes.remove(&node) {
                self.forget_pods(&node, &window.last);
            }
        }
    }

    fn forget_pods(&mut self, node: &str, scrape: &Scrape) {
        for pod in scrape.pods.keys() {
            if self.pods.get(pod).is_some_and(|n| n == node) {
                self.pods.remove(pod);
            }
        }
    }

    pub fn node(&self, name: &str) -> Option<NodeUsage> {
        let window = self.nodes.get(name)?;
        let (timestamp, window_time) = window.time()?;
        let before = window.before.as_ref()?.node.as_ref()?;
        let usage = compute_usage(before, window.last.node.as_ref()?, window_time)?;
        Some(NodeUsage { timestamp, window: window_time, usage })
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage> {
        let key = (namespace.to_owned(), name.to_owned());
        let window = self.nodes.get(self.pods.get(&key)?)?;
        let (timestamp, between) = window.time()?;
        let before = window.before.as_ref()?.pods.get(&key);
        let since = window.before.as_ref()?.at;
        // The shortest of its containers' windows is the pod's: what metrics-server tells, too.
        let mut shortest = between;
        let mut containers = Vec::new();
        for (container, last) in window.last.pods.get(&key)? {
            let same = before.and_then(|b| b.get(container)).filter(|b| is_same_run(b, last));
            let (usage, time) = match same {
                Some(before) => (compute_usage(before, last, between)?, between),
                None => {
                    let age = age_at(last, since, timestamp)?;
                    let nothing = Point { requests: last.requests.map(|_| 0.0), ..Point::default() };
                    (compute_usage(&nothing, last, age)?, age)
                }
            };
            shortest = shortest.min(time);
            containers.push((container.clone(), usage));
        }
        (!containers.is_empty()).then_some(PodUsage { timestamp, window: shortest, containers })
    }
}

impl Window {
    /// The window's end, and its length.
    fn time(&self) -> Option<(Timestamp, Duration)> {
        let before = self.before.as_ref()?.at;
        let between = Duration::try_from(self.last.at.duration_since(before)).ok()?;
        (!between.is_zero()).then_some((self.last.at, between))
    }
}

fn is_same_run(before: &Point, last: &Point) -> bool {
    let restarted = matches!((before.started_at, last.started_at), (Some(b), Some(l)) if l > b);
    !restarted && last.cpu_seconds >= before.cpu_seconds
}

/// How old a container is that started after `since`.
fn age_at(point: &Point, since: Timestamp, now: Timestamp) -> Option<Duration> {
    let started_at = Timestamp::from_second(point.started_at?).ok()?;
    let age = Duration::try_from(now.duration_since(started_at)).ok()?;
    (started_at.as_second() >= since.as_second() && age >= LEAST_AGE).then_some(age)
}

/// What was used between two points; `None` where a count went down.
fn compute_usage(before: &Point, last: &Point, window: Duration) -> Option<Usage> {
    let seconds = window.as_secs_f64();
    let rate = |before: f64, last: f64| (last >= before).then(|| (last - before) / seconds);
    let requests = match (before.requests, last.requests) {
        (Some(before), Some(last)) => rate(before, last),
        _ => None,
    };
    Some(Usage {
        cpu_nanocores: (rate(before.cpu_seconds, last.cpu_seconds)? * 1e9).round() as u64,
        memory_bytes: last.memory_bytes,
        requests_millis_per_second: requests.map(|rate| (rate * 1e3).round() as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1000 + second).unwrap()
    }

    fn point(cpu_seconds: f64, requests: Option<f64>, started: i64) -> Point {
        Point { cpu_seconds, memory_bytes: 4096, requests, started_at: Some(1000 + started) }
    }

    fn scrape(second: i64, containers: &[(&str, Point)]) -> Scrape {
        let key = ("ns".to_owned(), "web".to_owned());
        let containers: BTreeMap<String, Point> =
            containers.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect();
        let pods = if containers.is_empty() { BTreeMap::new() } else { BTreeMap::from([(key, containers)]) };
        let node = Point { cpu_seconds: second as f64 * 1.5, memory_bytes: 99, ..Point::default() };
        Scrape { at: at(second), node: Some(node), pods }
    }

    #[test]
    fn a_rate_is_the_difference_over_the_window() {
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[("a", point(1.0, Some(10.0), -50))]));
        assert_eq!((windows.node("n"), windows.pod("ns", "web")), (None, None), "one scrape is no window");
        windows.insert("n", scrape(10, &[("a", point(3.5, Some(30.0), -50))]));
        let node = windows.node("n").unwrap();
        assert_eq!((node.usage.cpu_nanocores, node.window), (1_500_000_000, Duration::from_secs(10)));
        assert_eq!(node.usage.requests_millis_per_second, None);
        let pod = windows.pod("ns", "web").unwrap();
        let usage =
            Usage { cpu_nanocores: 250_000_000, memory_bytes: 4096, requests_millis_per_second: Some(2_000) };
        assert_eq!(pod.containers, [("a".to_owned(), usage)]);
        assert_eq!((pod.timestamp, pod.window), (at(10), Duration::from_secs(10)));
    }

    #[test]
    fn an_answer_that_came_late_changes_nothing() {
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[("a", point(1.0, None, -50))]));
        windows.insert("n", scrape(10, &[("a", point(2.0, None, -50))]));
        let known = windows.pod("ns", "web");
        windows.insert("n", scrape(5, &[("a", point(1.5, None, -50))]));
        windows.insert("n", scrape(10, &[]));
        assert_eq!(windows.pod("ns", "web"), known);
    }

    #[test]
    fn a_container_that_began_in_the_window_counts_from_its_start_once_it_is_old_enough() {
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[]));
        windows.insert("n", scrape(15, &[("a", point(6.0, Some(24.0), 3))]));
        let pod = windows.pod("ns", "web").unwrap();
        assert_eq!(pod.window, Duration::from_secs(12));
        assert_eq!(pod.containers[0].1.cpu_nanocores, 500_000_000);
        assert_eq!(pod.containers[0].1.requests_millis_per_second, Some(2_000));
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[]));
        windows.insert("n", scrape(15, &[("a", point(6.0, None, 9))]));
        assert_eq!(windows.pod("ns", "web"), None, "too young");
    }

    #[test]
    fn a_restarted_container_is_not_compared_with_the_run_before() {
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[("a", point(100.0, None, -50))]));
        windows.insert("n", scrape(20, &[("a", point(101.0, None, 5))]));
        let pod = windows.pod("ns", "web").unwrap();
        assert_eq!(pod.window, Duration::from_secs(15));
        windows.insert("n", scrape(40, &[("a", point(0.1, None, -50))]));
        assert_eq!(windows.pod("ns", "web"), None, "a count that went down");
    }

    #[test]
    fn pods_and_nodes_that_are_gone_are_forgotten_and_a_pod_that_moved_is_its_new_nodes() {
        let mut windows = Windows::default();
        windows.insert("n", scrape(0, &[("a", point(1.0, None, -50))]));
        windows.insert("m", scrape(1, &[("a", point(1.0, None, -50))]));
        windows.insert("n", scrape(10, &[]));
        windows.insert("m", scrape(11, &[("a", point(2.0, None, -50))]));
        assert_eq!(windows.pod("ns", "web").unwrap().timestamp, at(11));
        windows.retain(|node| node != "m");
        assert_eq!((windows.pod("ns", "web"), windows.node("m")), (None, None));
        assert!(windows.node("n").is_some() && windows.pods.is_empty());
    }
}
