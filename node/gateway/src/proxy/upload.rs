//! A request's body on its way to the backend: passed on piece by piece, within limits, and with a note of whose
//! fault it was when it broke.
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The largest body: what S3 takes in one PUT. Nothing of it is held here; the number only ends what never would.
pub(crate) const MAX_BYTES: u64 = 5 << 30;

/// How long a client may send nothing in the middle of its body (nginx `client_body_timeout` is 60 s).
pub(crate) const IDLE: Duration = Duration::from_secs(30);

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    /// It is not one, or the client went away.
    Malformed = 1,
    Slow,
    TooLarge,
}

#[derive(Debug, Default)]
struct Notes {
    fault: AtomicU8,
    bytes: AtomicU64,
}

/// Where the body notes how far it came and its fault, for whoever waits for the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Option<Arc<Notes>>);

impl Progress {
    /// Bytes that were passed on.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |notes| notes.bytes.load(Relaxed))
    }
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.0.as_ref()?.fault.load(Relaxed) {
            0 => None,
            1 => Some(Fault::Malformed),
            2 => Some(Fault::Slow),
            _ => Some(Fault::TooLarge),
        }
    }
    fn set(&self, fault: Fault) {
        if let Some(notes) = &self.0 {
            notes.fault.store(fault as u8, Relaxed);
        }
    }
    fn add(&self, bytes: u64) {
        if let Some(notes) = &self.0 {
            notes.bytes.fetch_add(bytes, Relaxed);
        }
    }
}

/// Why the backend did not get the whole body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the client's body cannot be read")]
    Read(#[source] hyper::Error),
    #[error("the client sent nothing of its body for {} s", IDLE.as_secs())]
    Slow,
    #[error("the body is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

struct Stream {
    body: Incoming,
    left: u64,
    /// Made when the client first keeps us waiting.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    progress: Progress,
}

/// The body; most requests have none, and that costs nothing.
#[derive(Default)]
pub(crate) struct Upload(Option<Box<Stream>>);

impl Upload {
    pub(crate) fn new(body: Incoming) -> (Self, Progress) {
        if body.is_end_stream() {
            return (Self::default(), Progress::default());
        }
        let progress = Progress(Some(Arc::default()));
        let stream =
            Stream { body, left: MAX_BYTES, timer: None, waiting: false, progress: progress.clone() };
        (Self(Some(Box::new(stream))), progress)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Stream {
    fn fail(&mut self, fault: Fault, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.progress.set(fault);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        match Pin::new(&mut stream.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                stream.waiting = false;
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match stream.left.checked_sub(length) {
                    Some(left) => {
                        stream.left = left;
                        stream.progress.add(length);
                    }
                    None => return stream.fail(Fault::TooLarge, Error::TooLarge),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => stream.fail(Fault::Malformed, Error::Read(error)),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let timer = stream.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE)));
                if !std::mem::replace(&mut stream.waiting, true) {
                    timer.as_mut().reset(Instant::now() + IDLE);
                }
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => stream.fail(Fault::Slow, Error::Slow),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|stream| stream.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |stream| stream.body.size_hint())
    }
}
