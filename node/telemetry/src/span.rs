//! A span from its begin to its end.
use crate::attribute;
use http::{Method, StatusCode};
use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{Span as _, SpanBuilder, Status, TraceContextExt, Tracer as _};
use opentelemetry::trace::{SpanContext, SpanKind};
use opentelemetry::{Context, KeyValue, Value};
use std::borrow::Cow;
use std::fmt;

/// The longest text of an attribute. Paths and hosts are the client's words: with the two thousand spans that may wait
/// for their export, each with three such texts, they hold six megabytes at the most.
pub const MAX_VALUE_BYTES: usize = 1024;

/// Begins spans. Cheap to share; whoever has none traces nothing.
pub struct Tracer(BoxedTracer);

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracer")
    }
}

impl Tracer {
    pub fn new(tracer: BoxedTracer) -> Self {
        Self(tracer)
    }

    /// Begins a span now. Without a parent it begins a trace, and the sampler decides whether it is recorded; with one,
    /// the parent's sampled flag does (as the sampler that was configured reads it).
    pub fn start(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<&SpanContext>,
    ) -> Span {
        let within = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        Span(self.0.build_with_context(SpanBuilder::from_name(name).with_kind(kind), &within))
    }
}

/// A span that runs; dropped, it has ended.
pub struct Span(BoxedSpan);

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(self.context()).finish()
    }
}

impl Span {
    /// What is told to whoever works for this span.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// Whether anything that is set will be seen by anyone.
    pub fn is_recording(&self) -> bool {
        self.0.is_recording()
    }

    /// Notes a text, cut to [`MAX_VALUE_BYTES`].
    pub fn set(&mut self, key: &'static str, text: &str) {
        if self.is_recording() {
            self.put(key, cut(text).to_owned());
        }
    }

    pub fn set_number(&mut self, key: &'static str, number: impl Into<i64>) {
        self.put(key, number.into());
    }

    pub fn set_flag(&mut self, key: &'static str, flag: bool) {
        self.put(key, flag);
    }

    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Notes how a request was answered. A server's span has failed with 5xx, a client's also with 4xx (HTTP
    /// conventions, "Status").
    pub fn answered(&mut self, kind: &SpanKind, status: StatusCode) {
        self.set_number(attribute::HTTP_STATUS, status.as_u16());
        if status.is_server_error() || (*kind == SpanKind::Client && status.is_client_error()) {
            self.fail(status.as_str(), "");
        }
    }

    /// Notes that it failed: `error.type`, a word that does not vary with the request, and a sentence.
    pub fn fail(&mut self, error_type: &str, why: &str) {
        self.set(attribute::ERROR_TYPE, error_type);
        if self.is_recording() {
            self.0.set_status(Status::error(cut(why).to_owned()));
        }
    }
}

fn cut(text: &str) -> &str {
    if text.len() <= MAX_VALUE_BYTES {
        return text;
    }
    let end = (0..=MAX_VALUE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// A method as the conventions want it: one that RFC 9110 or RFC 5789 names, else `_OTHER`, so that clients cannot make
/// names without end.
pub fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// The name of a request's span: its method, or `HTTP` for one that nobody knows.
pub fn span_name(of: &Method) -> &'static str {
    match method(of) {
        "_OTHER" => "HTTP",
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(MAX_VALUE_BYTES)).len(), MAX_VALUE_BYTES);
        assert_eq!(cut(&format!("a{}", "é".repeat(MAX_VALUE_BYTES))).len(), MAX_VALUE_BYTES - 1);
    }

    #[test]
    fn a_span_fails_with_5xx_and_a_clients_span_with_4xx_too() {
        for (kind, status, failed) in [
            (SpanKind::Server, 500, true),
            (SpanKind::Server, 404, false),
            (SpanKind::Client, 404, true),
            (SpanKind::Client, 200, false),
        ] {
            let (tracer, ended) = fake::tracer();
            let mut span = tracer.start("GET", kind.clone(), None);
            span.answered(&kind, StatusCode::from_u16(status).expect("a status"));
            drop(span);
            let spans = ended.spans();
            assert_eq!(spans[0].attribute(attribute::HTTP_STATUS).as_deref(), Some(&*status.to_string()));
            assert_eq!(spans[0].attribute(attribute::ERROR_TYPE).is_some(), failed, "{kind:?} {status}");
            assert_eq!(spans[0].failed, failed);
        }
    }

    #[test]
    fn a_span_is_told_when_it_ends_with_its_parent() {
        let (tracer, ended) = fake::tracer();
        let parent = tracer.start("outer", SpanKind::Server, None);
        let mut child = tracer.start("inner", SpanKind::Client, Some(parent.context()));
        child.set(attribute::URL_PATH, &"/".repeat(5000));
        assert!(ended.spans().is_empty());
        let context = parent.context().clone();
        drop((child, parent));
        let spans = ended.spans();
        let [inner, outer] = &spans[..] else { panic!("two spans: {spans:?}") };
        assert_eq!((&*inner.name, &*outer.name), ("inner", "outer"));
        assert_eq!(inner.parent, Some(context.span_id()));
        assert_eq!((inner.context.trace_id(), outer.parent), (context.trace_id(), None));
        assert_eq!(inner.attribute(attribute::URL_PATH).map(|path| path.len()), Some(MAX_VALUE_BYTES));
    }

    #[test]
    fn a_method_nobody_knows_has_no_name_of_its_own() {
        let odd = Method::from_bytes(b"BREW").expect("a token");
        assert_eq!((method(&odd), span_name(&odd)), ("_OTHER", "HTTP"));
        assert_eq!((method(&Method::PATCH), span_name(&Method::GET)), ("PATCH", "GET"));
    }
}
