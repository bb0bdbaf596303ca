//! The guest's standard streams: bytes straight to the container's log, bytes straight from whoever is attached.
use crate::limits::OUTPUT_CHUNK;
use crate::log_rate::LogRate;
use bytes::Bytes;
use parking_lot::Mutex;
use shim::{Input, Output, Room, Stream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// One output stream. Every write goes through at once and in order, so nothing is held and nothing is lost when
/// the guest ends; a guest that writes faster than [`LogRate`] allows waits before its next write.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    output: Arc<dyn Output>,
    stream: Stream,
    rate: Arc<LogRate>,
    /// What each line begins with, and whether one has not yet begun.
    label: Option<(Label, Arc<AtomicBool>)>,
}

/// A text that the lines of an instance's streams begin with.
#[derive(Clone, Default)]
pub(crate) struct Label(Arc<Mutex<String>>);

impl Label {
    pub(crate) fn set(&self, text: String) {
        *self.0.lock() = text;
    }

    /// `bytes` with the text before each line that begins in them. `at_start` says whether one begins with the first,
    /// and is told whether one begins with what comes next.
    fn before_lines(&self, bytes: &[u8], at_start: &AtomicBool) -> Vec<u8> {
        let text = self.0.lock();
        let mut labelled = Vec::with_capacity(bytes.len() + text.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if at_start.swap(line.ends_with(b"\n"), Relaxed) {
                labelled.extend_from_slice(text.as_bytes());
            }
            labelled.extend_from_slice(line);
        }
        labelled
    }
}

impl GuestOutput {
    /// `rate` is the container's, for both its streams.
    pub(crate) fn new(output: Arc<dyn Output>, stream: Stream, rate: Arc<LogRate>) -> Self {
        Self { output, stream, rate, label: None }
    }

    /// The same stream, each of its lines with `label` before it.
    pub(crate) fn labelled(&self, label: &Label) -> Self {
        Self { label: Some((label.clone(), Arc::new(AtomicBool::new(true)))), ..self.clone() }
    }

    /// The same stream, written somewhere else.
    pub(crate) fn redirected(&self, output: Arc<dyn Output>) -> Self {
        Self::new(output, self.stream, self.rate.clone())
    }

    fn write_now(&self, bytes: &[u8]) {
        if let Some((label, at_start)) = &self.label {
            let labelled = label.before_lines(bytes, at_start);
            self.rate.take(labelled.len());
            self.output.write(self.stream, &labelled);
            return;
        }
        self.rate.take(bytes.len());
        self.output.write(self.stream, bytes);
    }

    /// What to wait for before the next write: the rate, and then whoever reads.
    fn pause(&self) -> Option<Room> {
        match self.rate.wait() {
            Some(wait) => Some(Box::pin(tokio::time::sleep(wait))),
            None => self.output.room(),
        }
    }

    /// Writes when the rate allows it, and whoever reads.
    pub(crate) async fn write_paced(&self, bytes: &[u8]) {
        while let Some(pause) = self.pause() {
            pause.await;
        }
        self.write_now(bytes);
    }

    /// Writes what the runtime has to say of the guest, or counts it as left out.
    pub(crate) fn note(&self, line: &str) {
        let Some(dropped) = self.rate.permit_note(line.len()) else { return };
        if dropped > 0 {
            let text =
                format!("{dropped} lines of the runtime were left out: this log is written too fast\n");
            self.output.write(self.stream, text.as_bytes());
        }
        self.output.write(self.stream, line.as_bytes());
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(PacedWriter { output: self.clone(), pause: None })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {
        while let Some(pause) = self.pause() {
            pause.await;
        }
    }
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_now(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.pause().is_some() { 0 } else { OUTPUT_CHUNK })
    }
}

/// The same as an [`AsyncWrite`].
struct PacedWriter {
    output: GuestOutput,
    pause: Option<Room>,
}

impl AsyncWrite for PacedWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            // The one begun is waited for to its end: a new one would not know who wakes this writer.
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
            }
            self.pause = self.output.pause();
            if self.pause.is_none() {
                break;
            }
        }
        let chunk = &bytes[..bytes.len().min(OUTPUT_CHUNK)];
        self.output.write_now(chunk);
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Standard input. WASI wants a reader that may be shared between threads; the lock is never contended, since it
/// is only ever reached through `&mut`.
pub(crate) struct GuestInput(Mutex<Input>);

impl GuestInput {
    pub(crate) fn new(input: Input) -> Self {
        Self(Mutex::new(input))
    }
}

impl AsyncRead for GuestInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_read(cx, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_stands_before_each_line_however_it_is_cut_into_writes() {
        let (label, at_start) = (Label::default(), AtomicBool::new(true));
        let write = |text: &str| String::from_utf8(label.before_lines(text.as_bytes(), &at_start)).unwrap();
        assert_eq!(write("none yet\n"), "none yet\n");
        label.set("t=1 ".into());
        assert_eq!(write("a\nb"), "t=1 a\nt=1 b");
        assert_eq!(write("c"), "c");
        label.set("t=2 ".into());
        assert_eq!(write("d\n"), "d\n");
        assert_eq!(write("\n"), "t=2 \n");
        assert_eq!(write(""), "");
        assert_eq!(write("e"), "t=2 e");
    }
}
