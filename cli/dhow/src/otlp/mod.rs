//! Traces leave this process here: the one place that knows OpenTelemetry's SDK and OTLP.
//!
//! Invariant: whoever begins spans never waits for the collector. What it does not take in time is dropped and counted
//! ([`queue`]); without an endpoint there is no tracer, and nothing is traced.
//!
//! ```text
//!   gateway, shim ── telemetry::Tracer ─► SDK: sampler, identifiers ─► queue (bounded) ─► OTLP: HTTP or gRPC
//! ```
mod destination;
mod queue;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use destination::{Destination, Transport, compute_destination};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter as _};
use prometheus_client::collector::Collector;
use std::sync::Arc;
use std::time::Duration;
use telemetry::Tracer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::ClientTlsConfig;

/// For how long one request to the collector is waited for (OTEL_EXPORTER_OTLP_TIMEOUT's default).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where traces go.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(id = "OtlpFlags")]
pub(crate) struct Flags {
    /// Send traces to this OpenTelemetry collector, such as http://127.0.0.1:4318 (OTEL_EXPORTER_OTLP_ENDPOINT)
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How it is spoken to [default: grpc on port 4317, else http/protobuf] (OTEL_EXPORTER_OTLP_PROTOCOL)
    #[arg(long, value_name = "PROTOCOL", value_parser = Transport::parse, hide_short_help = true)]
    otlp_protocol: Option<Transport>,
    /// The share of traces that are recorded, of those that begin here: 0 to 1 [default: 1] (OTEL_TRACES_SAMPLER)
    #[arg(long, value_name = "RATIO", value_parser = ratio, hide_short_help = true)]
    trace_sample_ratio: Option<f64>,
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|r| (0.0..=1.0).contains(r))
        .ok_or_else(|| "a number from 0 to 1 is wanted".to_owned())
}

impl Flags {
    /// The flags as words again; what the environment says is inherited by itself.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |flag: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        add("--otlp-endpoint", self.otlp_endpoint.clone());
        add("--otlp-protocol", self.otlp_protocol.map(|transport| transport.name().to_owned()));
        add("--trace-sample-ratio", self.trace_sample_ratio.map(|ratio| ratio.to_string()));
        words
    }
}

/// What exports this process' spans; [`Telemetry::end`] must be awaited, else the last are lost.
pub(crate) struct Telemetry {
    tracer: Arc<Tracer>,
    counts: Arc<queue::Counts>,
    stop: CancellationToken,
    worker: JoinHandle<()>,
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Begins to export as the flags or the environment say; `None` when they say nothing of it. `service` is the
    /// process' name to the collector unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES give one.
    ///
    /// # Errors
    ///
    /// When the endpoint cannot be one. That nobody answers there is no error: spans are dropped until somebody does.
    pub(crate) fn start(flags: &Flags, service: &'static str) -> Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wanted = compute_destination(flags.otlp_endpoint.as_deref(), flags.otlp_protocol, &variable)
            .map_err(anyhow::Error::msg)?;
        let Some(destination) = wanted else { return Ok(None) };
        let named = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
        let mut resource = Resource::builder();
        if !named {
            resource = resource.with_service_name(service);
        }
        let resource = resource.build();
        let mut exporter = exporter(&destination)
            .with_context(|| format!("traces cannot be sent to {}", destination.url))?;
        exporter.set_resource(&resource);
        let (queue, worker, counts) = queue::new(exporter, destination.url);
        let stop = CancellationToken::new();
        let worker = tokio::spawn(worker.run(stop.clone()));
        let mut provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue);
        if let Some(ratio) = flags.trace_sample_ratio {
            provider =
                provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))));
        }
        let provider = provider.build();
        let tracer = Arc::new(Tracer::new(BoxedTracer::new(Box::new(provider.tracer("dhow")))));
        Ok(Some(Self { tracer, counts, stop, worker, provider }))
    }

    pub(crate) fn tracer(&self) -> Arc<Tracer> {
        self.tracer.clone()
    }

    /// What was exported and dropped, under the names of OpenTelemetry's SDK metrics.
    pub(crate) fn collector(&self) -> Box<dyn Collector> {
        Box::new(queue::Shown(self.counts.clone()))
    }

    /// Sends what is left, as far as the collector takes it at once, and ends.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        let _ = self.worker.await;
        // From here on spans are not even begun.
        let _ = self.provider.shutdown();
    }
}

fn exporter(destination: &Destination) -> Result<SpanExporter> {
    Ok(match destination.transport {
        Transport::Grpc => {
            let mut builder = SpanExporter::builder()
                .with_tonic()
                .with_protocol(Protocol::Grpc)
                .with_endpoint(&destination.url);
            if destination.url.starts_with("https:") {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            builder.build()?
        }
        Transport::HttpProtobuf => SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&destination.url)
            .with_http_client(HyperClient::new(connector()?, REQUEST_TIMEOUT, None))
            .build()?,
    })
}

fn connector() -> Result<hyper_rustls::HttpsConnector<HttpConnector>> {
    let mut roots = rustls::RootCertStore::empty();
    // A system without certificates reaches collectors over plain HTTP all the same.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build())
}
