//! Spans of requests, in OpenTelemetry's terms, for whoever carries a request.
//!
//! Purpose: one small face between those who begin spans (the gateway, the wasm shim) and OpenTelemetry, and the W3C
//! trace context on the wire. It holds no SDK and exports nothing: the program hands in a [`Tracer`], or none.
//!
//! Invariant: what a span holds is bounded ([`MAX_VALUE_BYTES`]), whatever a client or guest sends; without a tracer
//! nothing here is called.
//!
//! ```text
//!   headers ── trace_context::extract ─► parent ─► Tracer::start ─► Span ── set, answered, fail ─► drop: it ends
//!   headers ◄─ trace_context::inject ◄── Span::context
//! ```
pub mod attribute;
pub mod fake;
mod span;
pub mod trace_context;

pub use opentelemetry::global::BoxedTracer;
pub use opentelemetry::trace::{SpanContext, SpanKind};
pub use span::{MAX_VALUE_BYTES, Span, Tracer, method, span_name};
