//! Spans that go all the way to a collector, by both transports.
use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use telemetry::{SpanKind, attribute};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

type Received = mpsc::Receiver<ExportTraceServiceRequest>;

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.expect("the test waits");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn grpc_collector() -> (String, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (sender, receiver) = mpsc::channel(8);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let service = TraceServiceServer::new(Collector(sender));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (url, receiver)
}

async fn http_collector() -> (String, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    let body = request.into_body().collect().await?.to_bytes();
                    let traces = ExportTraceServiceRequest::decode(body).expect("traces");
                    sender.send(traces).await.expect("the test waits");
                    Ok::<_, hyper::Error>(http::Response::new(Full::<Bytes>::default()))
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(
                async move { builder.serve_connection(TokioIo::new(stream), service).await.is_ok() },
            );
        }
    });
    (url, receiver)
}

async fn exported(endpoint: String, transport: Transport, mut received: Received) {
    let flags = Flags {
        otlp_endpoint: Some(endpoint),
        otlp_protocol: Some(transport),
        trace_sample_ratio: Some(1.0),
    };
    let telemetry = Telemetry::start(&flags, "dhow-test").expect("an endpoint").expect("one that is wanted");
    let mut span = telemetry.tracer().start("GET", SpanKind::Server, None);
    span.set(attribute::URL_PATH, "/path");
    let id = span.context().span_id().to_bytes();
    drop(span);
    // The end sends what is left.
    telemetry.end().await;
    let request = received.try_recv().expect("a batch");
    let resource = &request.resource_spans[0];
    let attributes = &resource.resource.as_ref().expect("a resource").attributes;
    assert!(attributes.iter().any(|a| a.key == "service.name"), "{attributes:?}");
    let span = &resource.scope_spans[0].spans[0];
    assert_eq!((&*span.name, &span.span_id[..]), ("GET", &id[..]));
    assert_eq!(span.attributes[0].key, "url.path");
}

#[tokio::test]
async fn a_span_reaches_a_collector_over_http() {
    let (url, received) = http_collector().await;
    exported(url, Transport::HttpProtobuf, received).await;
}

#[tokio::test]
async fn a_span_reaches_a_collector_over_grpc() {
    let (url, received) = grpc_collector().await;
    exported(url, Transport::Grpc, received).await;
}

#[test]
fn flags_that_go_to_the_runtime_are_the_flags_that_came() {
    use clap::Parser;
    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }
    let words =
        ["--otlp-endpoint", "http://c:4317", "--otlp-protocol", "grpc", "--trace-sample-ratio", "0.25"];
    let program = Program::try_parse_from(std::iter::once("dhow").chain(words)).expect("flags");
    assert_eq!(program.flags.words(), words);
    assert!(Flags::default().words().is_empty());
    assert!(Program::try_parse_from(["dhow", "--trace-sample-ratio", "1.5"]).is_err());
}
