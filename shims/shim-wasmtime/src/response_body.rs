//! A response's body on its way to the client.
//!
//! Invariant: a client can tell a whole body from one that was cut off, because its guest trapped, was ended or said
//! more than it may: what was cut off ends with an error, which breaks the connection or the stream, and never like a
//! body that is complete.
use crate::limited_body::LimitedBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use wasmtime_wasi_http::{Error, WasiBody};

/// Whether a guest was ended before it returned.
#[derive(Clone, Default)]
pub(crate) struct Cut(Arc<AtomicBool>);

/// Says that the guest was cut off, unless it is told otherwise before it goes. It must go before the guest's store:
/// the store's end is what the body sees.
pub(crate) struct CutUnlessDone {
    cut: Cut,
    done: bool,
}

impl Cut {
    pub(crate) fn unless_done(&self) -> CutUnlessDone {
        CutUnlessDone { cut: self.clone(), done: false }
    }

    /// The body as the client gets it: no more than `limit` bytes, and with an error at its end if it was cut off.
    pub(crate) fn guard(self, body: WasiBody, limit: u64) -> WasiBody {
        let inner = LimitedBody::new(body, limit, Error::HttpResponseBodySize);
        GuardedBody { inner, cut: self }.boxed_unsync()
    }
}

impl CutUnlessDone {
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for CutUnlessDone {
    fn drop(&mut self) {
        if !self.done {
            self.cut.0.store(true, SeqCst);
        }
    }
}

struct GuardedBody {
    inner: LimitedBody<WasiBody>,
    cut: Cut,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None if self.cut.0.load(SeqCst) => Some(Err(Error::HttpResponseIncomplete)),
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn body(text: &'static str) -> WasiBody {
        Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn a_whole_body_ends_and_one_cut_off_fails() {
        let cut = Cut::default();
        cut.unless_done().done();
        let whole = cut.clone().guard(body("text"), 4).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "text");
        drop(cut.unless_done());
        let mut torn = cut.guard(body("text"), 4);
        assert!(torn.frame().await.unwrap().is_ok());
        assert!(matches!(torn.frame().await, Some(Err(Error::HttpResponseIncomplete))));
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_fails() {
        let torn = Cut::default().guard(body("text"), 3).collect().await;
        assert!(matches!(torn, Err(Error::HttpResponseBodySize(Some(3)))));
    }
}
