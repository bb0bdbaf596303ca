//! What queue triggers count, in Prometheus' terms.
use super::super::TriggerKey;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// Of one trigger, since the controllers started.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dead_lettered: AtomicU64,
    pub(super) pending: AtomicI64,
    /// -1: Redis does not know.
    pub(super) lag: AtomicI64,
    pub(super) connected: AtomicBool,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            delivered: AtomicU64::default(),
            failed: AtomicU64::default(),
            dead_lettered: AtomicU64::default(),
            pending: AtomicI64::default(),
            lag: AtomicI64::new(-1),
            connected: AtomicBool::default(),
        }
    }
}

/// Counters of all queue triggers. Made before the controllers, so that whoever shows metrics has them from the start.
#[derive(Debug, Default)]
pub struct QueueMetrics(Mutex<BTreeMap<TriggerKey, Arc<Counters>>>);

impl QueueMetrics {
    /// A trigger's counters, kept when its consumer is begun anew.
    pub(super) fn of(&self, trigger: &TriggerKey) -> Arc<Counters> {
        self.0.lock().entry(trigger.clone()).or_default().clone()
    }

    /// Of a trigger that is gone nothing is left.
    pub(super) fn forget(&self, trigger: &TriggerKey) {
        self.0.lock().remove(trigger);
    }

    /// What shows everything under the names of docs/functions.md.
    pub fn collector(self: &Arc<Self>) -> Box<dyn Collector> {
        Box::new(Shown(self.clone()))
    }
}

#[derive(Debug)]
struct Shown(Arc<QueueMetrics>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.0.0.lock().clone();
        let labels = |(function, trigger): &TriggerKey| {
            [
                ("namespace", function.namespace.clone()),
                ("name", function.name.clone()),
                ("trigger", trigger.clone()),
            ]
        };
        let help = "Messages of queue triggers, by what became of an attempt to deliver them";
        let name = "function_queue_messages";
        let mut messages = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (key, own) in &all {
            for (result, n) in [
                ("delivered", &own.delivered),
                ("failed", &own.failed),
                ("dead_lettered", &own.dead_lettered),
            ] {
                let [namespace, name, trigger] = labels(key);
                let labels = [namespace, name, trigger, ("result", result.to_owned())];
                ConstCounter::new(n.load(Relaxed)).encode(messages.encode_family(&labels)?)?;
            }
        }
        type Value = fn(&Counters) -> Option<i64>;
        let gauges: [(&str, &str, Value); 3] = [
            (
                "function_queue_pending_messages",
                "Messages of the group that were given out and are not acknowledged",
                |own| Some(own.pending.load(Relaxed)),
            ),
            (
                "function_queue_lag_messages",
                "Messages that the group was not given yet, where Redis knows it",
                |own| Some(own.lag.load(Relaxed)).filter(|lag| *lag >= 0),
            ),
            ("function_queue_connected", "Whether Redis answers", |own| {
                Some(i64::from(own.connected.load(Relaxed)))
            }),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (key, own) in &all {
                if let Some(value) = value(own) {
                    ConstGauge::new(value).encode(gauge.encode_family(&labels(key))?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::ObjectKey;
    use prometheus_client::registry::Registry;

    #[test]
    fn every_trigger_has_its_lines_until_it_is_gone() {
        let metrics = Arc::new(QueueMetrics::default());
        let key = (ObjectKey::new("shop", "mail"), "orders".to_owned());
        metrics.of(&key).delivered.fetch_add(3, Relaxed);
        let mut registry = Registry::default();
        registry.register_collector(metrics.collector());
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let labels = r#"namespace="shop",name="mail",trigger="orders""#;
        let text = shown();
        for line in [
            &format!("function_queue_messages_total{{{labels},result=\"delivered\"}} 3\n"),
            &format!("function_queue_pending_messages{{{labels}}} 0\n"),
            &format!("function_queue_connected{{{labels}}} 0\n"),
        ] {
            assert!(text.contains(line.as_str()), "{line}{text}");
        }
        assert!(!text.contains("lag_messages{"), "nobody knows it yet: {text}");
        metrics.forget(&key);
        assert!(!shown().contains("orders"));
    }
}
