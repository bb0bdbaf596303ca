//! An answer on its way to the client: passed on piece by piece, within limits, and noted when it ends.
use super::record::Record;
use crate::pool::Received;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a backend may send nothing in the middle of an answer. Programs that push events say something every
/// minute or less, because proxies commonly give up after one; this is ten times that.
pub(crate) const IDLE: Duration = Duration::from_secs(600);

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the backend's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the backend sent nothing of its answer for {} s", IDLE.as_secs())]
    Idle,
    #[error("the request took longer than it may")]
    TimedOut,
}

struct Stream {
    received: Received,
    /// What came together with the head.
    early: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    /// Made when the backend first keeps us waiting.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// When the whole request must be over.
    deadline: Option<Instant>,
}

enum Content {
    Whole(Option<Bytes>),
    Stream(Box<Stream>),
}

/// The body of every answer.
pub(crate) struct Answer {
    content: Content,
    record: Option<Record>,
}

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Driven(body) => Pin::new(body).poll_frame(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Driven(body) => body.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Driven(body) => body.size_hint(),
        }
    }
}

impl Answer {
    /// A backend's body. A small one that is here already is passed on as a whole, and its connection is free at once.
    pub(crate) async fn received(
        mut received: Received,
        deadline: Option<Instant>,
        record: Record,
    ) -> Result<Self, (Error, Record)> {
        let mut early = VecDeque::new();
        // Two looks: most bodies are one piece and an end.
        for _ in 0..2 {
            if received.is_end_stream() {
                break;
            }
            match poll_fn(|cx| Poll::Ready(received.poll_frame(cx))).await {
                Poll::Ready(Some(frame)) => early.push_back(frame),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        let is_whole = received.is_end_stream() && early.len() < 2;
        let content = match early.pop_front() {
            None if is_whole => Content::Whole(None),
            Some(Err(error)) => return Err((Error::Broken(error), record)),
            Some(Ok(frame)) if is_whole && frame.is_data() => Content::Whole(frame.into_data().ok()),
            first => {
                if let Some(first) = first {
                    early.push_front(first);
                }
                Content::Stream(Box::new(Stream { received, early, timer: None, waiting: false, deadline }))
            }
        };
        Ok(Self { content, record: Some(record) })
    }

    /// Words of the gateway's own, or none.
    pub(crate) fn own(text: Option<Bytes>, record: Option<Record>) -> Self {
        Self { content: Content::Whole(text), record }
    }
}

/// An answer of the gateway's own: one sentence.
pub(crate) fn say(status: StatusCode, text: &str, record: Record) -> Response<Answer> {
    let mut response = Response::new(Answer::own(Some(Bytes::from(format!("{text}\n"))), Some(record)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(Some(frame.map_err(Error::Broken)));
        }
        match self.received.poll_frame(cx) {
            // A backend that always has more is never waited for, and has no longer than one that is.
            Poll::Ready(Some(Ok(_))) if self.deadline.is_some_and(|d| d <= Instant::now()) => {
                Poll::Ready(Some(Err(Error::TimedOut)))
            }
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Error::Broken)))
            }
            Poll::Pending => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE)));
                if !std::mem::replace(&mut self.waiting, true) {
                    let patience = Instant::now() + IDLE;
                    timer.as_mut().reset(self.deadline.map_or(patience, |deadline| deadline.min(patience)));
                }
                match timer.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) if self.deadline.is_some_and(|d| d <= Instant::now()) => {
                        Poll::Ready(Some(Err(Error::TimedOut)))
                    }
                    Poll::Ready(()) => Poll::Ready(Some(Err(Error::Idle))),
                }
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = match &mut self.content {
            Content::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Content::Stream(stream) => stream.poll_frame(cx),
        };
        if let Some(record) = &mut self.record {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(Err(_))) => record.broken = true,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(data) => data.is_none(),
            Content::Stream(stream) => stream.early.is_empty() && stream.received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |d| d.len() as u64)),
            Content::Stream(stream) => {
                let pieces = stream.early.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
                let early: u64 = pieces.map(|data| data.len() as u64).sum();
                let rest = stream.received.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + early);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + early);
                }
                hint
            }
        }
    }
}
