//! Reading a kubelet's `/metrics/resource`.
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What was read of a container or node: counts since its start, and its memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub requests: Option<f64>,
    /// Seconds since 1970.
    pub started_at: Option<i64>,
}

/// One node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// When it was asked.
    pub at: Timestamp,
    pub node: Option<Point>,
    /// By namespace and name, then by container.
    pub pods: BTreeMap<(String, String), BTreeMap<String, Point>>,
}

/// Why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("line {0} is no metric")]
    Line(usize),
    #[error("the kubelet could not ask its runtime")]
    ScrapeError,
}

/// Reads a text in Prometheus' or OpenMetrics' form that was answered at `at`. Metrics that mean nothing here are
/// passed over.
pub fn parse_scrape(text: &str, at: Timestamp) -> Result<Scrape, ParseError> {
    let mut scrape = Scrape { at, node: None, pods: BTreeMap::new() };
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, labels, value) = sample(line).ok_or(ParseError::Line(i + 1))?;
        if name == "scrape_error" && value != 0.0 {
            return Err(ParseError::ScrapeError);
        }
        let set: fn(&mut Point, f64) = match name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => |p, v| p.cpu_seconds = v,
            // A float beyond what an integer holds becomes the largest there is.
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => {
                |p, v| p.memory_bytes = v as u64
            }
            "container_start_time_seconds" => |p, v| p.started_at = Some(v as i64),
            "dhow_container_requests_total" => |p, v| p.requests = Some(v),
            _ => continue,
        };
        let point = if name.starts_with("node_") {
            scrape.node.get_or_insert_default()
        } else {
            let mut labels = labels_of(labels).ok_or(ParseError::Line(i + 1))?;
            let mut take = |key: &str| labels.remove(key);
            let (Some(namespace), Some(pod), Some(container)) =
                (take("namespace"), take("pod"), take("container"))
            else {
                continue;
            };
            scrape.pods.entry((namespace, pod)).or_default().entry(container).or_default()
        };
        set(point, value);
    }
    Ok(scrape)
}

/// Name, labels (without braces) and value of a line. A time after the value is passed over.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (name, labels, rest) = match line.find('{') {
        Some(open) => {
            let close = end_of_labels(&line[open + 1..])?;
            (&line[..open], &line[open + 1..open + 1 + close], &line[open + 1 + close + 1..])
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, "", rest)
        }
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty() && value.is_finite() && value >= 0.0).then_some((name, labels, value))
}

/// Where the brace is that ends the labels: one in quotes does not.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

fn labels_of(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (i, '"') => break i,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, c) => value.push(c),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
# HELP node_cpu_usage_seconds CPU.
# TYPE node_cpu_usage_seconds counter
node_cpu_usage_seconds_total 12.5
node_memory_working_set_bytes 1048576.0 1700000000000
container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"web\"} 1.5
container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"web\"} 4096
container_start_time_seconds{container=\"a\",namespace=\"ns\",pod=\"web\"} 1.7e9
dhow_container_requests_total{container=\"a\",namespace=\"ns\",pod=\"web\"} 7
pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 1.5
something_else{x=\"}\\\"{\"} 3
scrape_error 0.0
# EOF
";

    #[test]
    fn node_and_containers_are_read_and_the_rest_is_passed_over() {
        let scrape = parse_scrape(TEXT, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(scrape.node, Some(Point { cpu_seconds: 12.5, memory_bytes: 1 << 20, ..Point::default() }));
        let web = &scrape.pods[&("ns".to_owned(), "web".to_owned())];
        let a = Point {
            cpu_seconds: 1.5,
            memory_bytes: 4096,
            requests: Some(7.0),
            started_at: Some(1_700_000_000),
        };
        assert_eq!(*web, BTreeMap::from([("a".to_owned(), a)]));
    }

    #[test]
    fn a_broken_line_and_a_failed_scrape_are_told() {
        let read = |text: &str| parse_scrape(text, Timestamp::UNIX_EPOCH);
        assert_eq!(read("node_cpu_usage_seconds_total"), Err(ParseError::Line(1)));
        assert_eq!(read("a 1\nb{x=\"} 1"), Err(ParseError::Line(2)));
        assert_eq!(read("a NaN"), Err(ParseError::Line(1)));
        assert_eq!(read("scrape_error 1.0"), Err(ParseError::ScrapeError));
        let odd = read("container_start_time_seconds{pod=\"a\\\"b\\nc\",namespace=\"n\",container=\"c\"} 5")
            .unwrap();
        assert!(odd.pods.contains_key(&("n".to_owned(), "a\"b\nc".to_owned())));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(container_cpu_usage_seconds_total|a)?[{}a-z=\",\\\\ 0-9é\n]{0,60}") {
            let _ = parse_scrape(&text, Timestamp::UNIX_EPOCH);
        }
    }
}
