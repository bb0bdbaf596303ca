//! What waits to be sent to one client.
//!
//! Invariant: it never holds more than [`MAX_OUTPUT_BYTES`] in [`MAX_PIECES`] and one write; whoever writes never waits in `write`.
use crate::limits::{FULL_OUTPUT_BYTES, MAX_OUTPUT_BYTES, MAX_PIECE_BYTES, MAX_PIECES};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// A queue between one or several writers and the client's connection.
pub struct Output {
    inner: Mutex<Inner>,
    stdout: bool,
    stderr: bool,
    /// A piece was queued, or none will be.
    filled: Notify,
    /// A piece was taken, or none will be.
    emptied: Notify,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<(Channel, Bytes)>,
    bytes: usize,
    /// No more is taken; what is there is still sent.
    closed: bool,
    overrun: bool,
}

impl Output {
    /// Keeps only what the client asked for.
    pub(crate) fn new(stdout: bool, stderr: bool) -> Self {
        Self { inner: Mutex::default(), stdout, stderr, filled: Notify::new(), emptied: Notify::new() }
    }

    /// Queues `bytes`. Once the client is too far behind it is given up: [`Self::overrun`] says so.
    pub fn write(&self, channel: Channel, bytes: &[u8]) {
        let wanted = match channel {
            Channel::Stdout => self.stdout,
            Channel::Stderr => self.stderr,
        };
        if !wanted || bytes.is_empty() {
            return;
        }
        {
            let mut inner = self.inner.lock();
            if inner.closed {
                return;
            }
            // One write of any size is taken when nothing waits: a result is not cut for being long.
            let too_many = inner.queue.len() >= MAX_PIECES || inner.bytes + bytes.len() > MAX_OUTPUT_BYTES;
            if inner.bytes > 0 && too_many {
                (inner.closed, inner.overrun) = (true, true);
            } else {
                inner.bytes += bytes.len();
                let all = Bytes::copy_from_slice(bytes);
                let pieces = (0..all.len()).step_by(MAX_PIECE_BYTES);
                let pieces = pieces.map(|at| (channel, all.slice(at..all.len().min(at + MAX_PIECE_BYTES))));
                inner.queue.extend(pieces);
            }
        }
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// Whether a writer should wait before it goes on.
    pub fn is_full(&self) -> bool {
        let inner = self.inner.lock();
        !inner.closed && (inner.bytes >= FULL_OUTPUT_BYTES || inner.queue.len() >= MAX_PIECES / 4)
    }

    /// Resolves when there is room, or nobody to send to.
    pub async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if !self.is_full() {
                return;
            }
            emptied.await;
        }
    }

    /// Takes no more.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// Resolves when no more is taken.
    pub async fn closed(&self) {
        loop {
            let changed = self.emptied.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            changed.await;
        }
    }

    /// Whether no more is taken.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Whether the client was given up because it reads too slowly.
    pub fn overrun(&self) -> bool {
        self.inner.lock().overrun
    }

    /// The next piece to send; `None` when all was sent and no more will come. One at a time.
    pub(crate) async fn next(&self) -> Option<(Channel, Bytes)> {
        loop {
            {
                let mut inner = self.inner.lock();
                if let Some((channel, piece)) = inner.queue.pop_front() {
                    inner.bytes -= piece.len();
                    drop(inner);
                    self.emptied.notify_waiters();
                    return Some((channel, piece));
                }
                if inner.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_comes_in_order_and_then_the_end() {
        let output = Output::new(true, true);
        output.write(Channel::Stdout, b"a");
        output.write(Channel::Stderr, b"b");
        output.write(Channel::Stdout, &vec![7; MAX_PIECE_BYTES + 1]);
        output.close();
        output.write(Channel::Stdout, b"too late");
        assert_eq!(output.next().await.unwrap(), (Channel::Stdout, Bytes::from_static(b"a")));
        assert_eq!(output.next().await.unwrap(), (Channel::Stderr, Bytes::from_static(b"b")));
        assert_eq!(output.next().await.unwrap().1.len(), MAX_PIECE_BYTES);
        assert_eq!(output.next().await.unwrap().1.len(), 1);
        assert!(output.next().await.is_none());
    }

    #[tokio::test]
    async fn one_that_writes_byte_by_byte_waits_too_and_in_the_end_loses_its_client() {
        let output = Output::new(true, false);
        for _ in 0..MAX_PIECES / 4 {
            assert!(!output.is_full());
            output.write(Channel::Stdout, b"x");
        }
        assert!(output.is_full());
        for _ in MAX_PIECES / 4..MAX_PIECES {
            output.write(Channel::Stdout, b"x");
        }
        assert!(!output.overrun());
        output.write(Channel::Stdout, b"x");
        assert!(output.overrun());
    }

    #[tokio::test]
    async fn a_writer_waits_for_room_and_is_let_go_when_nobody_reads() {
        let output = Output::new(true, false);
        output.write(Channel::Stdout, &vec![0; FULL_OUTPUT_BYTES]);
        assert!(output.is_full());
        let waiting = output.room();
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        output.next().await.unwrap();
        waiting.await;
        output.write(Channel::Stdout, &vec![0; MAX_PIECE_BYTES]);
        output.close();
        output.room().await;
    }

    #[tokio::test]
    async fn whoever_is_too_far_behind_is_given_up() {
        let output = Output::new(true, false);
        for _ in 0..=MAX_OUTPUT_BYTES / MAX_PIECE_BYTES {
            output.write(Channel::Stdout, &vec![0; MAX_PIECE_BYTES]);
        }
        assert!(output.overrun() && output.is_closed());
        let mut sent = 0;
        while let Some((_, piece)) = output.next().await {
            sent += piece.len();
        }
        assert_eq!(sent, MAX_OUTPUT_BYTES);
    }

    #[tokio::test]
    async fn a_stream_nobody_asked_for_is_dropped() {
        let output = Output::new(true, false);
        output.write(Channel::Stderr, b"x");
        output.close();
        assert!(output.next().await.is_none());
    }
}
