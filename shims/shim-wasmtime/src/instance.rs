//! One instance of a wasi:http component, and one request in it.
use crate::guest::{ComponentState, Guest};
use crate::limited_body::RequestBody;
use crate::traces::Serving;
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{WasiBody, WasiHttpView, p3};

/// Where the guest's answer goes: a response, or the error code it answered with instead.
pub(crate) type Answered = oneshot::Sender<Result<Response<WasiBody>, String>>;

/// A wasi:http component with all its imports resolved.
#[derive(Clone)]
pub(crate) enum HttpPre {
    /// `wasi:http/incoming-handler@0.2`.
    P2(ProxyPre<ComponentState>),
    /// `wasi:http/handler@0.3`.
    P3(ServicePre<ComponentState>),
}

impl HttpPre {
    fn engine(&self) -> &Engine {
        match self {
            Self::P2(pre) => pre.engine(),
            Self::P3(pre) => pre.engine(),
        }
    }
}

enum Handler {
    P2(Proxy),
    P3(Service),
}

/// An instance and all it owns.
pub(crate) struct Instance {
    store: Store<ComponentState>,
    handler: Handler,
    served: u32,
    /// Resources it held after its first request: what a language's runtime opens once and keeps.
    kept: usize,
}

impl Instance {
    pub(crate) async fn new(pre: &HttpPre, guest: &Guest) -> wasmtime::Result<Self> {
        let mut store = guest.component_store(pre.engine(), None)?;
        let handler = match pre {
            HttpPre::P2(pre) => Handler::P2(pre.instantiate_async(&mut store).await?),
            HttpPre::P3(pre) => Handler::P3(pre.instantiate_async(&mut store).await?),
        };
        Ok(Self { store, handler, served: 0, kept: 0 })
    }

    /// Has one request handled, until the guest has said all it has to say. An error ends the instance: it must not be
    /// used again, nor when this future was dropped before its end.
    pub(crate) async fn serve(
        &mut self,
        request: Request<RequestBody>,
        answered: Answered,
        serving: Option<&Serving>,
    ) -> wasmtime::Result<()> {
        self.served = self.served.saturating_add(1);
        self.store.data_mut().begin_request(serving);
        // The last one passed while it was idle.
        self.store.set_epoch_deadline(1);
        match &self.handler {
            Handler::P2(proxy) => serve_p2(&mut self.store, proxy, request, answered).await,
            Handler::P3(service) => serve_p3(&mut self.store, service, request, answered).await,
        }
    }

    /// The bytes of its memories and tables.
    pub(crate) fn memory(&self) -> u64 {
        self.store.data().memory()
    }

    /// Whether it may serve another request, of `most` in all. One that still holds parts of the last request, or holds
    /// more with every request, may not: a body that was never finished would keep its client waiting.
    pub(crate) fn is_reusable(&mut self, most: u32) -> bool {
        if self.served >= most {
            return false;
        }
        let Some(held) = self.store.data_mut().held_between_requests() else { return false };
        if self.served == 1 {
            self.kept = held;
        }
        held <= self.kept
    }
}

async fn serve_p2(
    store: &mut Store<ComponentState>,
    proxy: &Proxy,
    request: Request<RequestBody>,
    answered: Answered,
) -> wasmtime::Result<()> {
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam_from_callback(move |answer| {
        // Nobody listens any more when the client went away.
        let _ = answered.send(answer.map_err(|code| format!("{code:?}")));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
}

async fn serve_p3(
    store: &mut Store<ComponentState>,
    service: &Service,
    request: Request<RequestBody>,
    answered: Answered,
) -> wasmtime::Result<()> {
    let request = with_authority(request);
    let (request, transmitted) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let handled = store.run_concurrent(async move |accessor| {
        let (reading, read) = oneshot::channel();
        let answer = match service.handle(accessor, request).await? {
            Ok(response) => {
                let response = accessor.with(|access| response.into_http(access, transmitted))?;
                Ok(response.map(|body| BeingRead { body, _reading: reading }.boxed_unsync()))
            }
            Err(code) => Err(format!("{code:?}")),
        };
        let _ = answered.send(answer);
        // The store must go on for as long as its body is read, and while the guest has anything at work.
        let _ = read.await;
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        wasmtime::Result::Ok(())
    });
    handled.await?
}

/// A response's body; that it is dropped says that nobody reads it any more.
struct BeingRead {
    body: WasiBody,
    _reading: oneshot::Sender<()>,
}

impl Body for BeingRead {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// WASI 0.3 takes scheme and authority from the target alone; HTTP/1.1 has the authority in a header.
fn with_authority(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    parts.authority = parts.authority.or(host);
    parts.scheme = parts.authority.is_some().then_some(uri::Scheme::HTTP);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request
}
