//! The trace of a request: spans of what a container serves and sends, and what its log says of them.
//!
//! Invariant: a container that neither traces nor labels has none of this, and pays one look at an `Option`.
use crate::capability::names;
use crate::ending::Ending;
use crate::limits::LOG_TRACE_ANNOTATION;
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode, Uri};
use parking_lot::Mutex;
use shim::Error;
use std::collections::BTreeMap;
use std::sync::Arc;
use telemetry::{Span, SpanContext, SpanKind, Tracer, attribute, method, span_name, trace_context};

/// Who asks whether a pod is alive: every few seconds, and in nobody's trace.
const PROBE: &str = "kube-probe/";

/// What one container has of it.
pub(crate) struct Traces {
    tracer: Option<Arc<Tracer>>,
    /// Whether each line of the log names the trace it was written in.
    pub(crate) labels: bool,
    namespace: String,
    pod: String,
    container: String,
}

impl Traces {
    /// `None` when there is nothing to do.
    pub(crate) fn new(
        tracer: Option<&Arc<Tracer>>,
        annotations: &BTreeMap<String, String>,
        display_name: &str,
    ) -> Result<Option<Arc<Self>>, Error> {
        let labels = match annotations.get(LOG_TRACE_ANNOTATION).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(Error::InvalidSpec(format!(
                    "annotation {LOG_TRACE_ANNOTATION}: {other:?} is neither true nor false"
                )));
            }
        };
        if tracer.is_none() && !labels {
            return Ok(None);
        }
        let (namespace, container) = names(display_name);
        let pod = display_name.split('/').nth(1).unwrap_or_default();
        Ok(Some(Arc::new(Self {
            tracer: tracer.cloned(),
            labels,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        })))
    }

    fn note_place(&self, span: &mut Span) {
        span.set(attribute::NAMESPACE, &self.namespace);
        span.set(attribute::POD, &self.pod);
        span.set(attribute::CONTAINER, &self.container);
    }

    /// Begins a request: within the trace it names, or one of its own. What the guest sees of the trace is that it is
    /// within this span.
    pub(crate) fn serve<B>(&self, request: &mut Request<B>) -> Option<Arc<Serving>> {
        let parent = trace_context::extract(request.headers());
        let Some(tracer) = self.tracer.as_ref().filter(|_| parent.is_some() || !is_probe(request.headers()))
        else {
            let context = parent?;
            return Some(Arc::new(Serving { context, labels: self.labels, span: None }));
        };
        let mut span = tracer.start(span_name(request.method()), SpanKind::Server, parent.as_ref());
        let context = span.context().clone();
        if span.is_recording() {
            self.note_place(&mut span);
            span.set(attribute::HTTP_METHOD, method(request.method()));
            span.set(attribute::URL_PATH, request.uri().path());
            span.set(attribute::URL_SCHEME, "http");
            note_server(&mut span, request.headers(), request.uri());
        }
        trace_context::inject(&context, request.headers_mut());
        let span = span.is_recording().then(|| Mutex::new(Recorded { span, failed: false }));
        Some(Arc::new(Serving { context, labels: self.labels, span }))
    }

    /// Begins a request of the guest's own, within the one it serves. A guest that names a trace itself knows better.
    pub(crate) fn send<B>(&self, within: Option<&SpanContext>, request: &mut Request<B>) -> Option<Sending> {
        let tracer = self.tracer.as_ref()?;
        let mut span = tracer.start(span_name(request.method()), SpanKind::Client, within);
        if !request.headers().contains_key(trace_context::TRACEPARENT) {
            trace_context::inject(span.context(), request.headers_mut());
        }
        if span.is_recording() {
            self.note_place(&mut span);
            span.set(attribute::HTTP_METHOD, method(request.method()));
            span.set(attribute::URL_FULL, &without_secrets(request.uri()));
            note_server(&mut span, request.headers(), request.uri());
        }
        Some(Sending(span))
    }
}

fn is_probe(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(PROBE.as_bytes()))
}

/// Host and port that a request is for.
fn note_server(span: &mut Span, headers: &HeaderMap, uri: &Uri) {
    let host = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    if let Some(authority) = uri.authority().cloned().or_else(host) {
        span.set(attribute::SERVER_ADDRESS, authority.host());
        if let Some(port) = authority.port_u16() {
            span.set_number(attribute::SERVER_PORT, port);
        }
    }
}

/// A URL without what may be nobody's business: passwords and the query.
fn without_secrets(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    format!("{}://{place}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

struct Recorded {
    span: Span,
    /// A cause is known: the status it is answered with says less.
    failed: bool,
}

/// A request that is being served. Its span ends with the last who holds this: the answer's head and the guest.
pub(crate) struct Serving {
    context: SpanContext,
    labels: bool,
    span: Option<Mutex<Recorded>>,
}

impl Serving {
    /// What the guest's own requests are within.
    pub(crate) fn context(&self) -> &SpanContext {
        &self.context
    }

    /// What lines of the log begin with.
    pub(crate) fn label(&self) -> String {
        label(&self.context)
    }

    /// The same for lines that are the runtime's.
    pub(crate) fn note_label(&self) -> String {
        if self.labels || self.span.is_some() { self.label() } else { String::new() }
    }

    /// Notes whether an instance was made for it.
    pub(crate) fn instantiated(&self, cold: bool) {
        if let Some(recorded) = &self.span {
            recorded.lock().span.set_flag(attribute::COLD_START, cold);
        }
    }

    /// Notes why its guest ended without having said all.
    pub(crate) fn ended(&self, ending: &Ending) {
        match ending {
            Ending::Trapped(text) => self.failed("trap", text.lines().next().unwrap_or_default()),
            Ending::OutOfMemory(exceeded) => self.failed("out_of_memory", &exceeded.to_string()),
            Ending::OutOfTime(exceeded) => self.failed("cpu_time_exceeded", &exceeded.to_string()),
            Ending::NoRoom(text) => self.failed("no_room", text),
            Ending::Exited(_) | Ending::Signalled(_) => {}
        }
    }

    pub(crate) fn failed(&self, error_type: &str, why: &str) {
        if let Some(recorded) = &self.span {
            let mut recorded = recorded.lock();
            recorded.failed = true;
            recorded.span.fail(error_type, why);
        }
    }

    /// Notes how it was answered.
    pub(crate) fn answered(&self, status: StatusCode) {
        if let Some(recorded) = &self.span {
            let mut recorded = recorded.lock();
            if recorded.failed {
                recorded.span.set_number(attribute::HTTP_STATUS, status.as_u16());
            } else {
                recorded.span.answered(&SpanKind::Server, status);
            }
        }
    }
}

/// `trace_id` is OpenTelemetry's name in logs that are text.
pub(crate) fn label(context: &SpanContext) -> String {
    format!("trace_id={} ", context.trace_id())
}

/// A request of the guest's that waits for its answer; its span ends with the answer's head.
pub(crate) struct Sending(Span);

impl Sending {
    pub(crate) fn over<B, E: std::fmt::Debug>(mut self, outcome: &Result<Response<B>, E>) {
        match outcome {
            Ok(response) => self.0.answered(&SpanKind::Client, response.status()),
            Err(error) => {
                let text = format!("{error:?}");
                // The name of the error without what it holds.
                let kind = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                self.0.fail(kind, &text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telemetry::fake::{self, Ended};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced(annotations: &[(&str, &str)]) -> (Arc<Traces>, Ended) {
        let (tracer, ended) = fake::tracer();
        (with(Some(&Arc::new(tracer)), annotations).unwrap().unwrap(), ended)
    }

    fn with(
        tracer: Option<&Arc<Tracer>>,
        annotations: &[(&str, &str)],
    ) -> Result<Option<Arc<Traces>>, Error> {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Traces::new(tracer, &annotations, "shop/cart-1/main")
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/path?secret=1").header("host", "cart:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn nothing_is_done_for_a_container_that_neither_traces_nor_labels() {
        assert!(with(None, &[]).unwrap().is_none());
        assert!(with(None, &[(LOG_TRACE_ANNOTATION, "false")]).unwrap().is_none());
        let error = with(None, &[(LOG_TRACE_ANNOTATION, "yes")]).err().unwrap().to_string();
        assert!(error.contains("neither true nor false"), "{error}");
    }

    #[test]
    fn the_guest_is_within_the_span_that_serves_it_and_its_requests_are_within_that() {
        let (traces, ended) = traced(&[]);
        let mut incoming = request(&[("traceparent", PARENT)]);
        let serving = traces.serve(&mut incoming).unwrap();
        let seen = trace_context::extract(incoming.headers()).unwrap();
        assert_eq!(seen.span_id(), serving.context().span_id());

        let mut outgoing = Request::post("http://user:pass@pay:81/card?n=1").body(()).unwrap();
        let sending = traces.send(Some(serving.context()), &mut outgoing).unwrap();
        let told = trace_context::extract(outgoing.headers()).unwrap();
        sending.over(&Ok::<_, ()>(Response::builder().status(404).body(()).unwrap()));
        serving.instantiated(true);
        serving.answered(StatusCode::OK);
        drop(serving);

        let spans = ended.spans();
        let [client, server] = &spans[..] else { panic!("two spans: {spans:?}") };
        assert_eq!((&client.kind, &server.kind), (&SpanKind::Client, &SpanKind::Server));
        assert_eq!(server.parent.unwrap().to_string(), "b7ad6b7169203331");
        assert_eq!(client.parent, Some(server.context.span_id()));
        assert_eq!(told.span_id(), client.context.span_id());
        for span in [client, server] {
            assert_eq!(span.context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
            for (key, value) in
                [(attribute::NAMESPACE, "shop"), (attribute::POD, "cart-1"), (attribute::CONTAINER, "main")]
            {
                assert_eq!(span.attribute(key).as_deref(), Some(value));
            }
        }
        let of = |key| (client.attribute(key), server.attribute(key));
        assert_eq!(client.attribute(attribute::URL_FULL).as_deref(), Some("http://pay:81/card"));
        assert_eq!(server.attribute(attribute::URL_PATH).as_deref(), Some("/path"));
        assert_eq!(of(attribute::SERVER_ADDRESS), (Some("pay".into()), Some("cart".into())));
        assert_eq!(of(attribute::SERVER_PORT), (Some("81".into()), Some("8080".into())));
        assert_eq!(of(attribute::HTTP_STATUS), (Some("404".into()), Some("200".into())));
        assert_eq!(of(attribute::COLD_START), (None, Some("true".into())));
        assert_eq!((client.failed, server.failed), (true, false));
    }

    #[test]
    fn a_guest_that_names_a_trace_itself_is_left_alone() {
        let (traces, _) = traced(&[]);
        let mut outgoing = Request::get("http://pay/").header("traceparent", PARENT).body(()).unwrap();
        traces.send(None, &mut outgoing).unwrap();
        assert_eq!(outgoing.headers()["traceparent"], PARENT);
    }

    #[test]
    fn what_a_guest_died_of_says_more_than_the_status() {
        let (traces, ended) = traced(&[]);
        let serving = traces.serve(&mut request(&[])).unwrap();
        serving.ended(&Ending::Trapped("unreachable\nbacktrace".into()));
        serving.answered(StatusCode::INTERNAL_SERVER_ERROR);
        drop(serving);
        let spans = ended.spans();
        assert_eq!(spans[0].attribute(attribute::ERROR_TYPE).as_deref(), Some("trap"));
        assert_eq!(spans[0].attribute(attribute::HTTP_STATUS).as_deref(), Some("500"));
        let failed = traces.send(None, &mut Request::get("http://pay/").body(()).unwrap()).unwrap();
        failed.over(&Err::<Response<()>, _>(wasmtime_wasi_http::Error::ConnectionRefused));
        assert_eq!(ended.spans()[1].attribute(attribute::ERROR_TYPE).as_deref(), Some("ConnectionRefused"));
    }

    #[test]
    fn a_probe_begins_no_trace() {
        let (traces, ended) = traced(&[]);
        let probe = ("user-agent", "kube-probe/1.36");
        assert!(traces.serve(&mut request(&[probe])).is_none());
        assert!(traces.serve(&mut request(&[probe, ("traceparent", PARENT)])).is_some());
        assert_eq!(ended.spans().len(), 1);
    }

    #[test]
    fn lines_are_labelled_with_the_trace_that_came_when_nobody_traces() {
        let traces = with(None, &[(LOG_TRACE_ANNOTATION, "true")]).unwrap().unwrap();
        assert!(traces.serve(&mut request(&[])).is_none());
        let mut incoming = request(&[("traceparent", PARENT)]);
        let serving = traces.serve(&mut incoming).unwrap();
        assert_eq!(serving.note_label(), "trace_id=0af7651916cd43dd8448eb211c80319c ");
        assert_eq!(incoming.headers()["traceparent"], PARENT);
        assert!(traces.send(Some(serving.context()), &mut Request::new(())).is_none());
    }
}
