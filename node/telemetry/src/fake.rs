//! A tracer that keeps its spans, for tests.
use crate::Tracer;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, KeyValue};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct EndedSpan {
    pub name: String,
    pub kind: SpanKind,
    pub context: SpanContext,
    pub parent: Option<SpanId>,
    pub attributes: Vec<(String, String)>,
    pub failed: bool,
}

impl EndedSpan {
    /// What was last set under `key`, as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        self.attributes.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

/// The spans that have ended, in that order.
#[derive(Clone, Default, Debug)]
pub struct Ended(Arc<Mutex<Vec<EndedSpan>>>);

impl Ended {
    pub fn spans(&self) -> Vec<EndedSpan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A tracer and what becomes of its spans. Every trace is sampled unless its parent is not; identifiers count from 1.
pub fn tracer() -> (Tracer, Ended) {
    let ended = Ended::default();
    let tracer = FakeTracer { ended: ended.clone(), next: Arc::default() };
    (Tracer::new(BoxedTracer::new(Box::new(tracer))), ended)
}

struct FakeTracer {
    ended: Ended,
    next: Arc<AtomicU64>,
}

struct FakeSpan {
    span: EndedSpan,
    ended: Ended,
}

impl opentelemetry::trace::Tracer for FakeTracer {
    type Span = FakeSpan;

    fn build_with_context(&self, builder: SpanBuilder, within: &Context) -> FakeSpan {
        let id = self.next.fetch_add(1, Relaxed) + 1;
        let parent = within.span().span_context().clone();
        let (trace, flags, state) = if parent.is_valid() {
            (parent.trace_id(), parent.trace_flags(), parent.trace_state().clone())
        } else {
            (TraceId::from(u128::from(id)), TraceFlags::SAMPLED, TraceState::NONE)
        };
        let span = EndedSpan {
            name: builder.name.into_owned(),
            kind: builder.span_kind.unwrap_or(SpanKind::Internal),
            context: SpanContext::new(trace, SpanId::from(id), flags, false, state),
            parent: parent.is_valid().then(|| parent.span_id()),
            attributes: Vec::new(),
            failed: false,
        };
        FakeSpan { span, ended: self.ended.clone() }
    }
}

impl Span for FakeSpan {
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(
        &mut self,
        _: T,
        _: SystemTime,
        _: Vec<KeyValue>,
    ) {
    }
    fn span_context(&self) -> &SpanContext {
        &self.span.context
    }
    fn is_recording(&self) -> bool {
        self.span.context.is_sampled()
    }
    fn set_attribute(&mut self, attribute: KeyValue) {
        self.span.attributes.push((attribute.key.to_string(), attribute.value.to_string()));
    }
    fn set_status(&mut self, status: Status) {
        self.span.failed = matches!(status, Status::Error { .. });
    }
    fn update_name<T: Into<Cow<'static, str>>>(&mut self, name: T) {
        self.span.name = name.into().into_owned();
    }
    fn add_link(&mut self, _: SpanContext, _: Vec<KeyValue>) {}
    fn end_with_timestamp(&mut self, _: SystemTime) {}
}

impl Drop for FakeSpan {
    fn drop(&mut self) {
        if self.is_recording() {
            self.ended.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.span.clone());
        }
    }
}
