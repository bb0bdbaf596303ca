use super::*;
use crate::example::Example;
use crate::handler::Streams;
use futures::{SinkExt, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

struct World {
    server: Server,
    example: Arc<Example>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let example = Arc::new(Example::default());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let count = AtomicU64::new(1);
        let random: Random = Arc::new(move || count.fetch_add(1, Relaxed));
        let server = Server::start(example.clone(), random, tasks.clone(), shutdown.clone()).await.unwrap();
        Self { server, example, tasks, shutdown }
    }

    fn url(&self, container: &str) -> String {
        let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        let target = Target::Exec { command: vec!["x".into()] };
        self.server.url(Request { container_id: container.into(), target, streams }).unwrap()
    }

    async fn connect(&self, container: &str, version: &'static str) -> WebSocketStream<TcpStream> {
        let url = self.url(container);
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(version));
        let stream = TcpStream::connect(self.server.address).await.unwrap();
        let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], version);
        socket
    }

    /// One request as bytes; the head of the answer.
    async fn raw(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.server.address).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { break };
            answer.push(byte);
        }
        String::from_utf8(answer).unwrap()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::Binary(Bytes::from_static(bytes))
}

/// What came over each channel until the server closed, and with which code.
async fn rest(socket: &mut WebSocketStream<TcpStream>) -> ([Vec<u8>; 5], Option<u16>) {
    let mut heard: [Vec<u8>; 5] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => heard[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(close) => return (heard, close.map(|close| close.code.into())),
            _ => {}
        }
    }
    (heard, None)
}

#[tokio::test]
async fn a_websocket_carries_input_output_and_the_end() {
    let world = World::new().await;
    let mut socket = world.connect("echo", "v5.channel.k8s.io").await;
    assert_eq!(socket.next().await.unwrap().unwrap(), binary(b"\x01"), "the connection stands");
    socket.send(binary(b"\x00hello")).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    socket.send(binary(b"\xff\x00")).await.unwrap();
    let (heard, code) = rest(&mut socket).await;
    assert_eq!((heard[1].as_slice(), heard[2].as_slice()), (&b"hello"[..], &b"end\n"[..]));
    assert!(String::from_utf8_lossy(&heard[3]).contains("Success"));
    assert_eq!(code, Some(1000));
    world.end().await;
}

#[tokio::test]
async fn the_older_version_knows_no_end_of_input_and_the_exit_code_all_the_same() {
    let world = World::new().await;
    let mut socket = world.connect("seven", "v4.channel.k8s.io").await;
    let (heard, code) = rest(&mut socket).await;
    assert!(String::from_utf8_lossy(&heard[3]).contains(r#""message":"7""#));
    assert_eq!(code, Some(1000));
    world.end().await;
}

#[tokio::test]
async fn a_url_works_once() {
    let world = World::new().await;
    let url = world.url("seven");
    let path = url.split_at(url.rfind("/exec/").unwrap()).1.to_owned();
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    let first = world.raw(&path, spdy).await;
    assert!(first.starts_with("HTTP/1.1 101") && first.contains("v4.channel.k8s.io"), "{first}");
    assert!(world.raw(&path, spdy).await.starts_with("HTTP/1.1 404"));
    assert!(world.raw("/exec/guessed", spdy).await.starts_with("HTTP/1.1 404"));
    world.end().await;
}

#[tokio::test]
async fn what_cannot_be_agreed_on_is_refused_and_costs_no_token() {
    let world = World::new().await;
    let url = world.url("seven");
    let path = url.split_at(url.rfind("/exec/").unwrap()).1.to_owned();
    let websocket =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, status) in [
        (String::new(), 400),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\n".to_owned(), 400),
        (
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: channel.k8s.io\r\n"
                .to_owned(),
            403,
        ),
        (
            format!("{websocket}Sec-WebSocket-Version: 12\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n"),
            400,
        ),
        (format!("{websocket}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: x\r\n"), 400),
        (format!("X: {}\r\n", "x".repeat(2 * MAX_HEAD_BYTES)), 431),
    ] {
        let answer = world.raw(&path, &headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {answer}");
    }
    let good =
        format!("{websocket}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n");
    assert!(world.raw(&path, &good).await.starts_with("HTTP/1.1 101"));
    world.end().await;
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_or_leaves_ends_alone() {
    let world = World::new().await;
    let mut running = world.example.running.subscribe();
    let mut innocent = world.connect("echo", "v5.channel.k8s.io").await;
    for n in 0..3 {
        let mut other = world.connect("deaf", "v5.channel.k8s.io").await;
        running.wait_for(|n| *n == 2).await.unwrap();
        match n {
            0 => drop(other),
            1 => other.send(Message::text("words")).await.unwrap(),
            _ => {
                let frame = vec![0; crate::limits::MAX_FRAME_BYTES + 1];
                // The server hangs up in the middle of it.
                let _ = other.send(Message::Binary(frame.into())).await;
            }
        }
        running.wait_for(|n| *n == 1).await.unwrap();
    }
    innocent.send(binary(b"\x00still here")).await.unwrap();
    innocent.send(binary(b"\xff\x00")).await.unwrap();
    assert_eq!(rest(&mut innocent).await.0[1], b"still here");
    world.end().await;
}

#[tokio::test]
async fn only_so_many_are_served_at_once_and_the_shutdown_ends_them() {
    let world = World::new().await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(world.connect("deaf", "v4.channel.k8s.io").await);
    }
    let url = world.url("deaf");
    let path = url.split_at(url.rfind("/exec/").unwrap()).1.to_owned();
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    assert!(world.raw(&path, spdy).await.starts_with("HTTP/1.1 503"));
    let mut running = world.example.running.subscribe();
    running.wait_for(|n| *n == MAX_CONNECTIONS).await.unwrap();
    drop(held.pop());
    running.wait_for(|n| *n == MAX_CONNECTIONS - 1).await.unwrap();
    world.end().await;
    assert_eq!(*running.borrow_and_update(), 0);
}
