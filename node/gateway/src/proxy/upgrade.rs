//! A connection that becomes something else: WebSocket and the like, bytes both ways.
use super::{Content, Proxy, Record, Sentence, Trip, unreachable};
use crate::backends::Backends;
use crate::pool::{Driver, Failed, Received};
use crate::proxy::upload::Upload;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection on which nothing passes either way for so long is closed; as for answers.
const IDLE: Duration = super::answer::IDLE;

/// Bytes on their way in each direction: a WebSocket message seldom has more.
const BUFFER: usize = 8 << 10;

/// Both ends, ready to be joined.
pub(super) struct Upgraded {
    client: OnUpgrade,
    backend: OnUpgrade,
    driver: Driver,
}

impl Proxy {
    /// Sends a request for an upgrade. The backend may refuse by an ordinary answer.
    pub(super) async fn upgrade(
        &self,
        mut request: Request<Incoming>,
        trip: &Trip,
        backends: &Backends,
        wanted: HeaderValue,
        record: &mut Record,
    ) -> Result<(http::response::Parts, Content), Sentence> {
        let client = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let (body, _) = Upload::new(body);
        let mut request = Request::from_parts(head, body);
        trip.address(&mut request, crate::backends::Protocol::Http1)?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, wanted);
        let deadline = trip.deadline().unwrap_or(trip.started + super::ANSWER_TIMEOUT);
        let mut last = String::new();
        for address in backends.in_turn().take(super::MAX_TRIES) {
            record.offered(address);
            let sending = tokio::time::timeout_at(deadline, self.pool.send_upgrade(address, request));
            let (mut response, driver) = match sending.await.map_err(|_| trip.timed_out())? {
                Ok(sent) => sent,
                Err(Failed { error, unsent, .. }) => {
                    last = client::error_chain(&error);
                    let Some(unsent) = unsent else { return Err(unreachable(&trip.route, &last)) };
                    request = unsent;
                    continue;
                }
            };
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let stop = self.stop.clone();
                self.tasks.spawn(async move { stop.run_until_cancelled(driver).await });
                let (mut head, body) = response.into_parts();
                super::headers::strip_hop_by_hop(&mut head.headers);
                return Ok((head, Content::Received(Received::Driven(body))));
            }
            let backend = hyper::upgrade::on(&mut response);
            let (mut head, _) = response.into_parts();
            let now = head.headers.get(UPGRADE).cloned();
            super::headers::strip_hop_by_hop(&mut head.headers);
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.extend(now.map(|now| (UPGRADE, now)));
            return Ok((head, Content::Upgraded(Upgraded { client, backend, driver })));
        }
        Err(unreachable(&trip.route, &last))
    }
}

impl Upgraded {
    /// Carries bytes both ways until both ends have ended, one breaks, or nothing passes for too long. The request
    /// counts as being at work until then.
    pub(super) fn start(self, proxy: &Proxy, mut record: Record) {
        let stop = proxy.stop.clone();
        proxy.tasks.spawn(async move {
            let metrics = record.metrics.clone();
            metrics.upgraded.inc();
            let moved = Arc::new(AtomicU64::new(0));
            let outcome = stop.run_until_cancelled(self.carry(moved.clone())).await;
            record.broken = !matches!(outcome, Some(Ok(())));
            record.sent = moved.load(Relaxed);
            metrics.upgraded.dec();
            // Here it is over.
            drop(record);
        });
    }

    async fn carry(self, moved: Arc<AtomicU64>) -> std::io::Result<()> {
        let Self { client, backend, driver } = self;
        let (client, backend, ()) = tokio::join!(client, backend, driver);
        let mut client =
            Counted { inner: TokioIo::new(client.map_err(std::io::Error::other)?), moved: moved.clone() };
        let mut backend =
            Counted { inner: TokioIo::new(backend.map_err(std::io::Error::other)?), moved: moved.clone() };
        let carrying = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER);
        let mut carrying = std::pin::pin!(carrying);
        let mut seen = 0;
        loop {
            match tokio::time::timeout(IDLE, carrying.as_mut()).await {
                Ok(outcome) => return outcome.map(drop),
                Err(_) => {
                    let now = moved.load(Relaxed);
                    if now == seen {
                        return Err(std::io::ErrorKind::TimedOut.into());
                    }
                    seen = now;
                }
            }
        }
    }
}

/// Counts the bytes read.
struct Counted<S> {
    inner: S,
    moved: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.moved.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
