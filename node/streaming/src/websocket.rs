//! WebSocket: binary messages whose first byte is the channel (`v4.channel.k8s.io`, `v5.channel.k8s.io`).
use crate::handler::{Handler, Request};
use crate::limits::MAX_FRAME_BYTES;
use crate::output::Channel;
use crate::session::{self, Broken, Event, Reader, Writer};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the second byte is a channel on which no more comes.
const CLOSE: u8 = 255;

/// What a client and this server can agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
        }
    }

    /// The first of the client's protocols that is known here.
    pub(crate) fn choose<'a>(mut offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        offered.find_map(|name| [Self::V4, Self::V5].into_iter().find(|version| version.name() == name))
    }
}

/// Serves an upgraded connection to its end.
pub(crate) async fn serve<S>(io: S, version: Version, request: Request, handler: Arc<dyn Handler>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME_BYTES);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let mut writer = Sender(sink);
    let first = match request.streams {
        streams if streams.stdout => STDOUT,
        streams if streams.stderr => STDERR,
        _ => ERROR,
    };
    // Tells the client that the connection stands.
    if let Err(error) = writer.send(first, &[]).await {
        return tracing::debug!(%error, "a client left at once");
    }
    session::run(Receiver { stream, version }, writer, request, handler).await;
}

struct Receiver<S> {
    stream: SplitStream<WebSocketStream<S>>,
    version: Version,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Reader for Receiver<S> {
    async fn next(&mut self) -> Result<Option<Event>, Broken> {
        let message = match self.stream.next().await {
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Ok(None),
            Some(Err(error)) => return Err(Broken(error.to_string())),
            Some(Ok(message)) => message,
        };
        match message {
            Message::Binary(bytes) => Ok(Some(event_of(bytes, self.version))),
            Message::Text(_) => Err(Broken("a text message came where only binary ones belong".to_owned())),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(Some(Event::Alive)),
            Message::Close(_) => Ok(None),
        }
    }
}

/// What a message says; what is on an unknown channel says nothing.
fn event_of(mut bytes: Bytes, version: Version) -> Event {
    let Some(channel) = bytes.first().copied() else { return Event::Alive };
    let content = bytes.split_off(1);
    match channel {
        STDIN if !content.is_empty() => Event::Input(content),
        RESIZE => Event::Resize(content),
        CLOSE if version == Version::V5 && content.as_ref() == [STDIN] => Event::InputEnd,
        _ => Event::Alive,
    }
}

struct Sender<S>(SplitSink<WebSocketStream<S>, Message>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Sender<S> {
    async fn send(&mut self, channel: u8, content: &[u8]) -> io::Result<()> {
        let mut message = BytesMut::with_capacity(content.len() + 1);
        message.put_u8(channel);
        message.put_slice(content);
        self.0.send(Message::Binary(message.freeze())).await.map_err(io::Error::other)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Writer for Sender<S> {
    async fn piece(&mut self, channel: Channel, piece: Bytes) -> io::Result<()> {
        let channel = match channel {
            Channel::Stdout => STDOUT,
            Channel::Stderr => STDERR,
        };
        self.send(channel, &piece).await
    }

    async fn end(&mut self, status: Bytes) -> io::Result<()> {
        self.send(ERROR, &status).await?;
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.0.send(Message::Close(Some(close))).await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_order_of_protocols_counts() {
        let choose = |offered: &[&str]| Version::choose(offered.iter().copied());
        assert_eq!(choose(&["v5.channel.k8s.io", "v4.channel.k8s.io"]), Some(Version::V5));
        assert_eq!(choose(&["v9", "v4.channel.k8s.io", "v5.channel.k8s.io"]), Some(Version::V4));
        assert_eq!(choose(&["base64.channel.k8s.io"]), None);
    }

    #[test]
    fn messages_say_what_their_channel_says() {
        let event = |bytes: &'static [u8]| event_of(Bytes::from_static(bytes), Version::V5);
        assert_eq!(event(b"\x00abc"), Event::Input(Bytes::from_static(b"abc")));
        assert_eq!(event(b"\x04{}"), Event::Resize(Bytes::from_static(b"{}")));
        assert_eq!(event(b"\xff\x00"), Event::InputEnd);
        for nothing in [&b""[..], b"\x00", b"\x01x", b"\xff", b"\xff\x01", b"\x63zz"] {
            assert_eq!(event(nothing), Event::Alive, "{nothing:?}");
        }
        assert_eq!(event_of(Bytes::from_static(b"\xff\x00"), Version::V4), Event::Alive);
    }
}
