//! One client and what is run for it, whatever protocol lies between.
//!
//! ```text
//!   Reader ─► queue ─► stdin ─► Handler ─► Output ─► Writer
//!      └───── client gone: all of it is dropped ◄─ idle
//! ```
use crate::handler::{Client, Handler, Request};
use crate::limits::{CLOSE_TIMEOUT, INPUT_BYTES, INPUT_QUEUE, INPUT_QUEUE_BYTES};
use crate::outcome::Outcome;
use crate::output::{Channel, Output};
use crate::terminal::Sizes;
use crate::tunnel::idleness;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Input(Bytes),
    InputEnd,
    /// Bytes of the resize stream.
    Resize(Bytes),
    /// A sign of life.
    Alive,
}

/// The protocol was broken: the connection can only be closed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

/// The half of a protocol that reads.
pub(crate) trait Reader {
    /// The next event; `None` once the client has closed.
    fn next(&mut self) -> impl Future<Output = Result<Option<Event>, Broken>> + Send;
}

/// The half of a protocol that writes.
pub(crate) trait Writer {
    fn piece(&mut self, channel: Channel, piece: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Tells how it ended; nothing comes after.
    fn end(&mut self, status: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}

/// Runs what is asked for until it has ended and all is sent, or the client is gone.
pub(crate) async fn run(
    mut reader: impl Reader,
    mut writer: impl Writer,
    request: Request,
    handler: Arc<dyn Handler>,
) {
    let output = Arc::new(Output::new(request.streams.stdout, request.streams.stderr));
    let (size, sizes) = watch::channel(None);
    let (queue, queued) = mpsc::channel(INPUT_QUEUE);
    let (stdin, ours) = match request.streams.stdin {
        true => {
            let (theirs, ours) = tokio::io::duplex(INPUT_BYTES);
            (Some(theirs), Some(ours))
        }
        false => (None, None),
    };
    let moved = AtomicU64::new(0);
    let tty = request.streams.tty;
    let reading = read(&mut reader, ours.is_some().then_some(queue), tty.then_some(size), &moved);
    let feeding = feed(queued, ours);
    let client = Client { stdin, output: output.clone(), size: sizes };
    let handling = async {
        let outcome = tokio::select! {
            outcome = handler.handle(request, client) => outcome,
            () = output.closed() => Outcome::Failed(
                "the client reads too slowly, and what it has not read was too much to keep".to_owned(),
            ),
        };
        output.close();
        Ok::<_, io::Error>(outcome)
    };
    let sending = async {
        while let Some((channel, piece)) = output.next().await {
            writer.piece(channel, piece).await?;
            moved.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    let working = async {
        let (outcome, ()) = tokio::try_join!(handling, sending)?;
        Ok::<_, io::Error>(outcome)
    };
    let mut reading = std::pin::pin!(reading);
    let mut feeding = std::pin::pin!(feeding);
    let outcome = {
        let mut working = std::pin::pin!(working);
        loop {
            tokio::select! {
                done = working.as_mut() => match done {
                    Ok(outcome) => break outcome,
                    Err(error) => return tracing::debug!(%error, "a client cannot be written to"),
                },
                why = reading.as_mut() => return tracing::debug!(why, "a client left"),
                () = idleness(&moved) => return tracing::debug!("a connection was idle for too long"),
                // It never ends.
                () = feeding.as_mut() => {}
            }
        }
    };
    let closing = async {
        writer.end(outcome.status()).await?;
        // Whoever closes at once may take away what the client has not read yet.
        tokio::select! {
            _ = reading.as_mut() => {}
            () = feeding.as_mut() => {}
        }
        Ok::<_, io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, closing).await {
        tracing::debug!(%error, "a client left before it heard how it ended");
    }
}

type Piece = (Bytes, OwnedSemaphorePermit);

/// Reads until the client is gone or breaks the protocol; says which.
async fn read(
    reader: &mut impl Reader,
    mut queue: Option<mpsc::Sender<Piece>>,
    size: Option<watch::Sender<Option<crate::TerminalSize>>>,
    moved: &AtomicU64,
) -> String {
    let room = Arc::new(Semaphore::new(INPUT_QUEUE_BYTES));
    let mut sizes = Sizes::default();
    loop {
        let event = match reader.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return "it closed".to_owned(),
            Err(broken) => return broken.to_string(),
        };
        moved.fetch_add(1, Relaxed);
        match event {
            Event::Input(bytes) => {
                let Some(queue) = &queue else { continue };
                // A frame larger than all the room would wait for ever.
                let wanted = bytes.len().min(INPUT_QUEUE_BYTES) as u32;
                let Ok(place) = room.clone().acquire_many_owned(wanted).await else { continue };
                // A copy: a piece of one byte would keep the whole buffer that it came in.
                // Who fed it has gone: nobody wants the rest.
                let _ = queue.send((Bytes::copy_from_slice(&bytes), place)).await;
            }
            Event::InputEnd => queue = None,
            Event::Resize(bytes) => {
                let Some(size) = &size else { continue };
                match sizes.take(&bytes) {
                    Ok(Some(new)) => drop(size.send_replace(Some(new))),
                    Ok(None) => {}
                    Err(_) => return "what came over the resize stream is no size".to_owned(),
                }
            }
            Event::Alive => {}
        }
    }
}

/// Carries queued input to the program; what it does not take any more is dropped. Never returns.
async fn feed(mut queued: mpsc::Receiver<Piece>, mut to: Option<tokio::io::DuplexStream>) {
    while let Some((bytes, _place)) = queued.recv().await {
        if let Some(open) = &mut to
            && open.write_all(&bytes).await.is_err()
        {
            to = None;
        }
    }
    // The end of its input.
    drop(to);
    std::future::pending().await
}
