//! Bodies: what comes in is a stream that is read up to a limit, what goes out is bytes or a stream.
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use std::pin::Pin;
use std::task::{Context, Poll};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whoever sent it.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// The most that is sent in one piece: a body lives until its last piece is taken, so that whoever holds something for
/// it ([`Body::holding`]) holds it until nearly all of it has been sent.
const PIECE: usize = 64 * 1024;

/// The body of an answer.
pub struct Body {
    inner: Inner,
    /// Dropped with the body.
    held: Option<Box<dyn Send>>,
}

enum Inner {
    Full(Option<Bytes>),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    fn new(inner: Inner) -> Self {
        Self { inner, held: None }
    }
    pub fn empty() -> Self {
        Self::new(Inner::Full(None))
    }
    /// The body, which keeps `held` until it has been sent or given up.
    pub(crate) fn holding(self, held: impl Send + 'static) -> Self {
        Self { inner: self.inner, held: Some(Box::new((self.held, held))) }
    }
    pub(crate) fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        use http_body_util::BodyExt;
        Self::new(Inner::Stream(body.map_err(Into::into).boxed_unsync()))
    }
    /// The bytes, when the body is not a stream.
    pub(crate) fn bytes(&self) -> Option<&Bytes> {
        match &self.inner {
            Inner::Full(bytes) => bytes.as_ref(),
            Inner::Stream(_) => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::new(Inner::Full((!bytes.is_empty()).then_some(bytes)))
    }
}
impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}
impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.inner {
            Inner::Full(Some(bytes)) if bytes.len() > PIECE => {
                Poll::Ready(Some(Ok(Frame::data(bytes.split_to(PIECE)))))
            }
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Inner::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Full(bytes) => bytes.is_none(),
            Inner::Stream(body) => body.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
