//! A connection of which only so much is read.
//!
//! Invariant: between two refills no more than the allowance is read, whatever the server sends: the client's parser
//! holds an answer whole before anybody can look at its size.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much may be read until the next refill.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    left: Arc<AtomicUsize>,
    full: usize,
}

impl Allowance {
    pub(super) fn new(full: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(full)), full }
    }

    /// Before each command.
    pub(super) fn refill(&self) {
        self.left.store(self.full, Relaxed);
    }

    /// Whether reading ended because nothing was left.
    pub(super) fn is_used_up(&self) -> bool {
        self.left.load(Relaxed) == 0
    }
}

pub(super) struct Bounded<S> {
    inner: S,
    allowance: Allowance,
}

impl<S> Bounded<S> {
    pub(super) fn new(inner: S, allowance: Allowance) -> Self {
        Self { inner, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.allowance.left.load(Relaxed);
        if left == 0 {
            let text = format!("an answer is longer than {} bytes", self.allowance.full);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        let most = buf.remaining().min(left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        // Refilled meanwhile: then a little more may be read, by one buffer at most.
        let _ = self.allowance.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(read)));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn no_more_is_read_than_the_allowance_until_it_is_refilled() {
        let allowance = Allowance::new(4);
        let mut bounded = Bounded::new(&b"0123456789"[..], allowance.clone());
        let mut text = [0; 4];
        bounded.read_exact(&mut text).await.unwrap();
        assert_eq!((&text, allowance.is_used_up()), (b"0123", true));
        assert!(bounded.read_u8().await.unwrap_err().to_string().contains("longer than 4 bytes"));
        allowance.refill();
        bounded.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"4567");
    }
}
