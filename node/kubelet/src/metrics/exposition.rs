//! Figures taken for one request, written as Prometheus reads them.
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The content type of [`text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric with all its rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    /// A counter's with its `_total`.
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) kind: Kind,
    pub(crate) rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Histogram {
        sum: f64,
        /// The upper bounds, the last of them infinite, each with how many fell between it and the one before.
        buckets: Vec<(f64, u64)>,
    },
}

impl Family {
    pub(crate) fn new(kind: Kind, name: &str, help: &str) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), kind, rows: Vec::new() }
    }
    pub(crate) fn counter(name: &str, help: &str) -> Self {
        Self::new(Kind::Counter, name, help)
    }
    pub(crate) fn gauge(name: &str, help: &str) -> Self {
        Self::new(Kind::Gauge, name, help)
    }
    pub(crate) fn row(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        self.push(labels, value);
        self
    }
    pub(crate) fn push(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.rows.push(Row { labels, value: Value::Number(value) });
    }
}

/// The families as one OpenMetrics document.
pub(crate) fn text(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Taken(families)));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Taken(Vec<Family>);

impl Collector for Taken {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let (name, kind) = match family.kind {
                // The encoder adds it.
                Kind::Counter => {
                    (family.name.strip_suffix("_total").unwrap_or(&family.name), MetricType::Counter)
                }
                Kind::Gauge => (family.name.as_str(), MetricType::Gauge),
                Kind::Histogram => (family.name.as_str(), MetricType::Histogram),
            };
            let mut metric = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for row in &family.rows {
                if row.labels.is_empty() {
                    row.value.encode(family.kind, &mut metric)?;
                } else {
                    row.value.encode(family.kind, &mut metric.encode_family(&row.labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Number(v) if kind == Kind::Counter => {
                encoder.encode_counter::<NoLabelSet, f64, f64>(v, None)
            }
            Self::Number(v) => encoder.encode_gauge(v),
            Self::Histogram { sum, buckets } => {
                let count = buckets.iter().map(|(_, n)| n).sum();
                encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_histograms_are_written_under_their_names() {
        let histogram = Family {
            rows: vec![Row {
                labels: vec![("pod".into(), "a".into())],
                value: Value::Histogram { sum: 1.5, buckets: vec![(0.1, 2), (f64::INFINITY, 1)] },
            }],
            ..Family::new(Kind::Histogram, "d_seconds", "D")
        };
        let text = text(vec![
            Family::counter("x_total", "X").row(&[("pod", "a\"b")], 2.5),
            Family::gauge("y", "Y").row(&[], 1.0),
            histogram,
        ]);
        assert_eq!(
            text,
            "# HELP x X\n# TYPE x counter\nx_total{pod=\"a\\\"b\"} 2.5\n# HELP y Y\n# TYPE y gauge\ny 1.0\n\
             # HELP d_seconds D\n# TYPE d_seconds histogram\nd_seconds_sum{pod=\"a\"} 1.5\n\
             d_seconds_count{pod=\"a\"} 3\nd_seconds_bucket{le=\"0.1\",pod=\"a\"} 2\n\
             d_seconds_bucket{le=\"+Inf\",pod=\"a\"} 3\n# EOF\n"
        );
    }
}
