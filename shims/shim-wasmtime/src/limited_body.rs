//! A body, cut off at its limit: a request's at the container's, an answer's at the guest's.
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use wasmtime_wasi_http::Error;

/// How a body that is longer than it may be is told of: with its limit.
pub(crate) type TooLong = fn(Option<u64>) -> Error;

pub(crate) struct LimitedBody<B> {
    inner: B,
    limit: u64,
    left: u64,
    too_long: TooLong,
}

/// What a guest reads of a request.
pub(crate) type RequestBody = LimitedBody<Incoming>;

impl<B> LimitedBody<B> {
    pub(crate) fn new(inner: B, limit: u64, too_long: TooLong) -> Self {
        Self { inner, limit, left: limit, too_long }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err((self.too_long)(Some(self.limit))))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
