//! Spans on their way to the collector: a bounded queue, sent in batches by one task.
//!
//! Invariant: whoever ends a span never waits. A full queue takes no more; what is dropped is counted.
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Spans that wait, and that are sent at once: the defaults of the specification (OTEL_BSP_MAX_QUEUE_SIZE,
/// OTEL_BSP_MAX_EXPORT_BATCH_SIZE). A span holds some 2 KiB, so all of them 5 MiB.
const MAX_QUEUE: usize = 2048;
const MAX_BATCH: usize = 512;
/// How long a batch is waited for to fill: a fifth of the specification's, for whoever looks at what they just did.
const DELAY: Duration = Duration::from_secs(1);
/// What one batch may take, with all tries (OTEL_BSP_EXPORT_TIMEOUT's default); spans are dropped meanwhile.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for what is left at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a collector that takes nothing is complained about.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(300);

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    exported: AtomicU64,
    /// The collector did not take them.
    failed: AtomicU64,
    /// The queue was full.
    dropped: AtomicU64,
}

/// The end that spans go in by.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.sender.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// The worker sends what there is when it ends.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn set_resource(&mut self, _: &Resource) {}
}

/// The end that they leave by.
pub(super) struct Worker<E> {
    receiver: mpsc::Receiver<SpanData>,
    exporter: E,
    counts: Arc<Counts>,
    /// For messages.
    url: String,
    complained: Option<Instant>,
}

/// A queue and its worker. The exporter knows its resource already.
pub(super) fn new<E: SpanExporter>(exporter: E, url: String) -> (Queue, Worker<E>, Arc<Counts>) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUE);
    let counts = Arc::new(Counts::default());
    let worker = Worker { receiver, exporter, counts: counts.clone(), url, complained: None };
    (Queue { sender, counts: counts.clone() }, worker, counts)
}

impl<E: SpanExporter> Worker<E> {
    /// Sends until `stop`, then what is left, and ends.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let filling = async {
                // The first begins the wait for the others.
                if self.receiver.recv_many(&mut batch, MAX_BATCH).await == 0 {
                    return std::future::pending().await;
                }
                let _ = tokio::time::timeout(DELAY, async {
                    while batch.len() < MAX_BATCH {
                        let room = MAX_BATCH - batch.len();
                        if self.receiver.recv_many(&mut batch, room).await == 0 {
                            return;
                        }
                    }
                })
                .await;
            };
            let ended = stop.run_until_cancelled(filling).await.is_none();
            if ended {
                break self.send_the_rest(batch).await;
            }
            let limit = async {
                tokio::select! {
                    () = tokio::time::sleep(EXPORT_TIMEOUT) => EXPORT_TIMEOUT,
                    () = async { stop.cancelled().await; tokio::time::sleep(LAST_TIMEOUT).await } => LAST_TIMEOUT,
                }
            };
            self.send(batch, limit).await;
        }
    }

    async fn send_the_rest(&mut self, mut batch: Vec<SpanData>) {
        self.receiver.close();
        let rest = async {
            loop {
                let room = MAX_BATCH.saturating_sub(batch.len());
                if room > 0 && self.receiver.recv_many(&mut batch, room).await > 0 {
                    continue;
                }
                if batch.is_empty() {
                    return;
                }
                let limit = async {
                    tokio::time::sleep(LAST_TIMEOUT).await;
                    LAST_TIMEOUT
                };
                self.send(std::mem::take(&mut batch), limit).await;
            }
        };
        let _ = tokio::time::timeout(LAST_TIMEOUT, rest).await;
    }

    /// Sends a batch; given up when `limit` is over, which says how long that was.
    async fn send(&mut self, batch: Vec<SpanData>, limit: impl Future<Output = Duration>) {
        let count = batch.len() as u64;
        let outcome = tokio::select! {
            outcome = self.exporter.export(batch) => Ok(outcome),
            limit = limit => Err(limit),
        };
        let why = match outcome {
            Ok(Ok(())) => {
                self.counts.exported.fetch_add(count, Relaxed);
                self.complained = None;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(limit) => format!("no answer within {} s", limit.as_secs()),
        };
        self.counts.failed.fetch_add(count, Relaxed);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::warn!(
                url = self.url,
                failed = self.counts.failed.load(Relaxed),
                dropped = self.counts.dropped.load(Relaxed),
                "the collector takes no traces, they are dropped: {why}"
            );
        }
    }
}

/// Shows [`Counts`] under the names of OpenTelemetry's conventions for SDKs (`otel.sdk.processor.span.processed`,
/// `otel.sdk.exporter.span.exported`), as Prometheus spells them.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Arc<Counts>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = &self.0;
        let help = "Spans that did not get as far as the exporter";
        let name = "otel_sdk_processor_span_processed";
        let mut processed = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(counts.dropped.load(Relaxed))
            .encode(processed.encode_family(&[("error_type", "queue_full")])?)?;
        let help = "Spans sent to the collector, and those it did not take";
        let name = "otel_sdk_exporter_span_exported";
        let mut exported = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (error, count) in [("", &counts.exported), ("rejected", &counts.failed)] {
            ConstCounter::new(count.load(Relaxed))
                .encode(exported.encode_family(&[("error_type", error)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use std::sync::Mutex;

    /// What a collector does with a batch.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        Takes,
        Refuses,
        NeverAnswers,
    }

    #[derive(Clone, Debug)]
    struct FakeExporter(Way, Arc<Mutex<Vec<usize>>>);

    impl SpanExporter for FakeExporter {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.1.lock().expect("lock").push(batch.len());
            match self.0 {
                Way::Takes => Ok(()),
                Way::Refuses => Err(OTelSdkError::InternalFailure("it is full".into())),
                Way::NeverAnswers => std::future::pending().await,
            }
        }
    }

    struct Running {
        provider: SdkTracerProvider,
        counts: Arc<Counts>,
        batches: Arc<Mutex<Vec<usize>>>,
        stop: CancellationToken,
        worker: tokio::task::JoinHandle<()>,
    }

    fn run(way: Way) -> Running {
        let batches: Arc<Mutex<Vec<usize>>> = Arc::default();
        let (queue, worker, counts) = new(FakeExporter(way, batches.clone()), "http://c".into());
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(worker.run(stop.clone()));
        Running { provider, counts, batches, stop, worker }
    }

    impl Running {
        fn spans(&self, count: usize) {
            let tracer = self.provider.tracer("test");
            for _ in 0..count {
                drop(tracer.start("one"));
            }
        }
        fn counts(&self) -> [u64; 3] {
            [&self.counts.exported, &self.counts.failed, &self.counts.dropped]
                .map(|count| count.load(Relaxed))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spans_are_sent_together_a_second_after_the_first() {
        let running = run(Way::Takes);
        running.spans(3);
        tokio::time::sleep(DELAY / 2).await;
        assert!(running.batches.lock().expect("lock").is_empty());
        running.spans(1);
        tokio::time::sleep(DELAY).await;
        assert_eq!(*running.batches.lock().expect("lock"), [4]);
        assert_eq!(running.counts(), [4, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_end_is_sent() {
        let running = run(Way::Takes);
        running.spans(MAX_BATCH + 7);
        running.stop.cancel();
        running.worker.await.expect("the worker");
        assert_eq!(running.batches.lock().expect("lock").iter().sum::<usize>(), MAX_BATCH + 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_never_answers_holds_nobody_up_and_what_it_does_not_take_is_counted() {
        let running = run(Way::NeverAnswers);
        running.spans(MAX_BATCH);
        tokio::time::sleep(DELAY).await;
        // One batch is on its way, the queue is full, and the rest is dropped at once.
        let begin = Instant::now();
        running.spans(MAX_QUEUE + 100);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(running.counts(), [0, 0, 100]);
        tokio::time::sleep(EXPORT_TIMEOUT).await;
        assert_eq!(running.counts(), [0, MAX_BATCH as u64, 100]);
        let begin = Instant::now();
        running.stop.cancel();
        running.worker.await.expect("the worker");
        assert!(begin.elapsed() <= 2 * LAST_TIMEOUT, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_collector_refuses_is_counted_and_shown() {
        let running = run(Way::Refuses);
        running.spans(5);
        tokio::time::sleep(DELAY * 2).await;
        assert_eq!(running.counts(), [0, 5, 0]);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Shown(running.counts.clone())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            "otel_sdk_processor_span_processed_total{error_type=\"queue_full\"} 0",
            "otel_sdk_exporter_span_exported_total{error_type=\"rejected\"} 5",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
