//! The span of a request that passes the gateway, under the names of OpenTelemetry's conventions for HTTP servers.
use super::Peer;
use crate::backends::{Backends, Owner};
use crate::routes::normal_host;
use http::{Request, Version};
use telemetry::{Span, SpanKind, Tracer, attribute, method, span_name, trace_context};

/// Begins it: within the trace that the client names, or one of its own.
pub(super) fn begin<B>(tracer: &Tracer, request: &Request<B>, peer: &Peer) -> Span {
    let parent = trace_context::extract(request.headers());
    let mut span = tracer.start(span_name(request.method()), SpanKind::Server, parent.as_ref());
    if !span.is_recording() {
        return span;
    }
    let known = method(request.method());
    span.set(attribute::HTTP_METHOD, known);
    if known == "_OTHER" {
        span.set(attribute::HTTP_METHOD_ORIGINAL, request.method().as_str());
    }
    span.set(attribute::URL_PATH, request.uri().path());
    span.set(attribute::URL_SCHEME, if peer.https { "https" } else { "http" });
    span.set(attribute::CLIENT_ADDRESS, peer.shown.to_str().unwrap_or_default());
    let version = match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    span.set(attribute::PROTOCOL_VERSION, version);
    span
}

/// Notes the host that was asked for: `name[:port]`.
pub(super) fn note_host(span: &mut Span, host: &str) {
    span.set(attribute::SERVER_ADDRESS, &normal_host(host));
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if let Some(port) = port {
        span.set_number(attribute::SERVER_PORT, port);
    }
}

/// Notes whose route took the request.
pub(super) fn note_owner(span: &mut Span, owner: &Owner) {
    span.set(attribute::NAMESPACE, &owner.namespace);
    let key = match owner.kind {
        "function" => attribute::FUNCTION,
        "ingress" => attribute::INGRESS,
        _ => attribute::SERVICE,
    };
    span.set(key, &owner.name);
}

/// Notes who of that route was chosen.
pub(super) fn note_backends(span: &mut Span, owner: &Owner, backends: &Backends) {
    match owner.kind {
        // The Service of the Function's own name stands for it before there is a revision.
        "function" if backends.service == owner.name => {}
        "function" => span.set(attribute::REVISION, &backends.service),
        "ingress" => span.set(attribute::SERVICE, &backends.service),
        _ => {}
    }
}
