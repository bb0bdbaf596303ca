//! SPDY/3.1, as far as Kubernetes' remotecommand uses it: what `kubectl` before 1.31 speaks, and later ones fall back to.
//!
//! The client opens a stream for each of error, stdin, stdout, stderr and resize (header `streamtype`); each is answered
//! by SYN_REPLY. There is no flow control in it: moby/spdystream, the one implementation there is on the other side,
//! neither sends WINDOW_UPDATE nor heeds it, so TCP alone slows a sender down.
mod dictionary;
mod frame;
mod headers;
mod opening;

use crate::handler::{Handler, Request};
use crate::limits::STREAMS_TIMEOUT;
use crate::output::Channel;
use crate::session::{self, Broken, Event, Reader, Writer};
use bytes::{Bytes, BytesMut};
use frame::{Decoder, Frame, Malformed};
use headers::{Compressor, Decompressor};
use opening::{Kind, Opened, Opening};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

/// The versions of the protocol above it. The fifth differs over WebSocket only.
pub(crate) const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "v5.channel.k8s.io"];

/// What is read at once.
const CHUNK: usize = 32 << 10;

type Shared<S> = Arc<Mutex<WriteHalf<S>>>;

/// Serves an upgraded connection to its end.
pub(crate) async fn serve<S>(io: S, request: Request, handler: Arc<dyn Handler>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (read, write) = tokio::io::split(io);
    let write: Shared<S> = Arc::new(Mutex::new(write));
    let mut wire = Wire {
        read,
        write: write.clone(),
        buffer: BytesMut::new(),
        decoder: Decoder::default(),
        decompressor: Decompressor::new(),
    };
    let opened = match tokio::time::timeout(STREAMS_TIMEOUT, wire.open(&request)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return tracing::debug!(%error, "a client opened no streams"),
        Err(_) => return tracing::debug!("a client did not open its streams in time"),
    };
    session::run(Receiver { wire, opened, input_ends: false }, Sender { write, opened }, request, handler)
        .await;
}

/// A connection's frames.
struct Wire<S> {
    read: ReadHalf<S>,
    write: Shared<S>,
    buffer: BytesMut,
    decoder: Decoder,
    decompressor: Decompressor,
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire<S> {
    /// The next frame but pings, which are answered; `None` at the end. Keeps what it has when it is dropped.
    async fn frame(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(CHUNK);
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        let mut write = self.write.lock().await;
        write.write_all(&frame).await?;
        write.flush().await
    }

    /// A ping is the client's when its number is odd; then it wants it back.
    async fn pong(&mut self, id: u32) -> io::Result<()> {
        if id % 2 == 1 { self.send(frame::ping(id)).await } else { Ok(()) }
    }

    /// Waits until the client has opened every stream that its request speaks of.
    async fn open(&mut self, request: &Request) -> Result<Opened, Broken> {
        let mut opening = Opening::new(request.streams);
        let mut compressor = Compressor::new()?;
        while !opening.is_complete() {
            match self.frame().await? {
                None | Some(Frame::GoAway) => return Err(Broken("it closed".to_owned())),
                Some(Frame::SynStream { stream, block, .. }) => {
                    let headers = self.decompressor.read(&block)?;
                    if opening.open(stream, &headers)? {
                        self.send(frame::syn_reply(stream, &compressor.write(&[])?)).await?;
                    } else {
                        self.send(frame::rst_stream(stream, frame::REFUSED_STREAM)).await?;
                    }
                }
                Some(Frame::Ping { id }) => self.pong(id).await?,
                Some(Frame::Headers { block, .. }) => drop(self.decompressor.read(&block)?),
                Some(Frame::Data { .. }) => {
                    return Err(Broken("data came before all streams were open".to_owned()));
                }
                Some(Frame::RstStream { .. }) => return Err(Broken("it gave a stream up".to_owned())),
                Some(Frame::Other) => {}
            }
        }
        Ok(opening.opened())
    }
}

struct Receiver<S> {
    wire: Wire<S>,
    opened: Opened,
    /// The last frame brought input and its end.
    input_ends: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Reader for Receiver<S> {
    async fn next(&mut self) -> Result<Option<Event>, Broken> {
        if std::mem::take(&mut self.input_ends) {
            return Ok(Some(Event::InputEnd));
        }
        let Some(frame) = self.wire.frame().await? else { return Ok(None) };
        let opened = self.opened;
        let kind_of = |stream: u32| opened.kind(stream);
        Ok(Some(match frame {
            Frame::Data { stream, fin, data } => match kind_of(stream) {
                Some(Kind::Stdin) if fin && data.is_empty() => Event::InputEnd,
                Some(Kind::Stdin) if !data.is_empty() => {
                    self.input_ends = fin;
                    Event::Input(data)
                }
                Some(Kind::Resize) if !data.is_empty() => Event::Resize(data),
                _ => Event::Alive,
            },
            Frame::RstStream { stream } if kind_of(stream) == Some(Kind::Stdin) => Event::InputEnd,
            Frame::Ping { id } => {
                self.wire.pong(id).await?;
                Event::Alive
            }
            Frame::GoAway => return Ok(None),
            Frame::SynStream { stream, block, .. } => {
                self.wire.decompressor.read(&block)?;
                self.wire.send(frame::rst_stream(stream, frame::PROTOCOL_ERROR)).await?;
                Event::Alive
            }
            Frame::Headers { block, .. } => {
                self.wire.decompressor.read(&block)?;
                Event::Alive
            }
            Frame::RstStream { .. } | Frame::Other => Event::Alive,
        }))
    }
}

struct Sender<S> {
    write: Shared<S>,
    opened: Opened,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Sender<S> {
    async fn send(&mut self, kind: Kind, fin: bool, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = self.opened.stream(kind) else { return Ok(()) };
        let mut write = self.write.lock().await;
        write.write_all(&frame::data(stream, fin, bytes)).await?;
        write.flush().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Writer for Sender<S> {
    async fn piece(&mut self, channel: Channel, piece: Bytes) -> io::Result<()> {
        let kind = match channel {
            Channel::Stdout => Kind::Stdout,
            Channel::Stderr => Kind::Stderr,
        };
        self.send(kind, false, &piece).await
    }

    async fn end(&mut self, status: Bytes) -> io::Result<()> {
        self.send(Kind::Error, false, &status).await?;
        for kind in Kind::ALL {
            self.send(kind, true, b"").await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
