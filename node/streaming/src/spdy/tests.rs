use super::*;
use crate::example::{Example, write_all};
use crate::handler::{Streams, Target};
use crate::limits::{IDLE_TIMEOUT, MAX_OUTPUT_BYTES};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

/// A client of the kind kubectl is.
struct Peer {
    io: DuplexStream,
    buffer: BytesMut,
    decoder: Decoder,
    compressor: Compressor,
    decompressor: Decompressor,
    opened: BTreeMap<u32, &'static str>,
    serving: JoinHandle<()>,
    example: Arc<Example>,
}

impl Peer {
    fn new(container: &str, streams: Streams) -> Self {
        let (theirs, ours) = tokio::io::duplex(64 << 10);
        let example = Arc::new(Example::default());
        let target = Target::Exec { command: vec!["x".into()] };
        let request = Request { container_id: container.into(), target, streams };
        let serving = tokio::spawn(serve(theirs, request, example.clone()));
        Self {
            io: ours,
            buffer: BytesMut::new(),
            decoder: Decoder::default(),
            compressor: Compressor::new().unwrap(),
            decompressor: Decompressor::new(),
            opened: BTreeMap::new(),
            serving,
            example,
        }
    }

    async fn opened(container: &str, streams: Streams) -> Self {
        let mut peer = Self::new(container, streams);
        let wanted = [
            ("error", true),
            ("stdin", streams.stdin),
            ("stdout", streams.stdout),
            ("stderr", streams.stderr),
            ("resize", streams.tty),
        ];
        for (name, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            peer.open(name).await;
        }
        peer
    }

    async fn open(&mut self, name: &'static str) {
        let stream = self.opened.len() as u32 * 2 + 1;
        let block = self.compressor.write(&[("streamtype", name)]).unwrap();
        self.send(frame::syn_stream(stream, &block)).await;
        let reply = self.frame().await.expect("a reply");
        let Frame::Headers { stream: replied, block, .. } = reply else { panic!("{reply:?}") };
        self.decompressor.read(&block).unwrap();
        assert_eq!(replied, stream);
        self.opened.insert(stream, name);
    }

    async fn send(&mut self, frame: Bytes) {
        write_all(&mut self.io, &frame).await;
    }

    async fn say(&mut self, name: &str, fin: bool, bytes: &[u8]) {
        let stream = *self.opened.iter().find(|(_, known)| **known == name).expect("it is open").0;
        self.send(frame::data(stream, fin, bytes)).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// What came over each stream until all had ended.
    async fn rest(&mut self) -> BTreeMap<&'static str, Vec<u8>> {
        let mut heard: BTreeMap<&'static str, Vec<u8>> = BTreeMap::new();
        let mut open: Vec<u32> = self.opened.keys().copied().collect();
        while !open.is_empty() {
            match self.frame().await.expect("streams end before the connection does") {
                Frame::Data { stream, fin, data } => {
                    heard.entry(self.opened[&stream]).or_default().extend_from_slice(&data);
                    open.retain(|other| !(fin && *other == stream));
                }
                Frame::Ping { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        heard
    }

    async fn end(self) {
        let mut running = self.example.running.subscribe();
        running.wait_for(|n| *n == 0).await.unwrap();
        drop(self.io);
        self.serving.await.unwrap();
    }
}

#[tokio::test]
async fn input_comes_back_as_output_and_the_status_last() {
    let mut peer = Peer::opened("echo", ALL).await;
    peer.say("stdin", false, b"hello ").await;
    peer.send(frame::ping(1)).await;
    peer.say("stdin", true, b"world").await;
    let heard = peer.rest().await;
    assert_eq!(heard["stdout"], b"hello world");
    assert_eq!(heard["stderr"], b"end\n");
    assert!(String::from_utf8_lossy(&heard["error"]).contains("Success"));
    peer.end().await;
}

#[tokio::test]
async fn a_megabyte_passes_through_whole_both_ways() {
    let mut peer = Peer::opened("echo", ALL).await;
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect();
    let (read, mut write) = tokio::io::split(std::mem::replace(&mut peer.io, tokio::io::duplex(1).0));
    let stdin = *peer.opened.iter().find(|(_, name)| **name == "stdin").unwrap().0;
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(32 << 10) {
            write_all(&mut write, &frame::data(stdin, false, piece)).await;
        }
        write_all(&mut write, &frame::data(stdin, true, b"")).await;
        write
    });
    let (mut read, mut heard) = (read, Vec::new());
    let mut open = peer.opened.len();
    while open > 0 {
        while let Some(frame) = peer.decoder.decode(&mut peer.buffer).unwrap() {
            let Frame::Data { stream, fin, data } = frame else { panic!("{frame:?}") };
            if peer.opened[&stream] == "stdout" {
                heard.extend_from_slice(&data);
            }
            open -= usize::from(fin);
        }
        if open > 0 {
            assert!(read.read_buf(&mut peer.buffer).await.unwrap() > 0);
        }
    }
    assert!(heard == bytes, "{} bytes came back", heard.len());
    peer.io = read.unsplit(sending.await.unwrap());
    peer.end().await;
}

#[tokio::test]
async fn an_exit_code_and_a_refusal_are_told() {
    for (container, told) in [("seven", r#""message":"7","reason":"ExitCode""#), ("fails", "no such command")]
    {
        let mut peer = Peer::opened(container, ALL).await;
        let heard = peer.rest().await;
        let error = String::from_utf8_lossy(&heard["error"]).into_owned();
        assert!(error.contains(told), "{error}");
        peer.end().await;
    }
}

#[tokio::test]
async fn the_terminals_size_reaches_the_program() {
    let mut peer =
        Peer::opened("size", Streams { stdin: false, stdout: true, stderr: false, tty: true }).await;
    peer.say("resize", false, br#"{"Width":80,"#).await;
    peer.say("resize", false, br#""Height":24}"#).await;
    assert_eq!(peer.rest().await["stdout"], b"80x24");
    peer.end().await;
}

#[tokio::test]
async fn pings_are_answered_also_while_streams_are_opened() {
    let mut peer = Peer::new("deaf", ALL);
    peer.send(frame::ping(5)).await;
    assert_eq!(peer.frame().await, Some(Frame::Ping { id: 5 }));
    peer.open("error").await;
    peer.send(frame::ping(7)).await;
    assert_eq!(peer.frame().await, Some(Frame::Ping { id: 7 }));
    for name in ["stdin", "stdout", "stderr"] {
        peer.open(name).await;
    }
    peer.send(frame::ping(9)).await;
    assert_eq!(peer.frame().await, Some(Frame::Ping { id: 9 }));
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_ran_for_it() {
    let mut peer = Peer::opened("deaf", ALL).await;
    peer.say("stdin", false, b"nobody reads this").await;
    let mut running = peer.example.running.subscribe();
    running.wait_for(|n| *n == 1).await.unwrap();
    drop(peer.io);
    running.wait_for(|n| *n == 0).await.unwrap();
    peer.serving.await.unwrap();
}

#[tokio::test]
async fn garbage_ends_the_connection_that_sent_it() {
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &[0x80, 3, 0, 1, 0, 0, 0, 1, 1],
    ];
    for bytes in garbage {
        // Before its streams are open, and after.
        for opened in [false, true] {
            let mut peer = if opened { Peer::opened("deaf", ALL).await } else { Peer::new("deaf", ALL) };
            write_all(&mut peer.io, bytes).await;
            if bytes[0] == b'G' {
                // A data frame of another stream, as long as its text says: it is passed over until more comes.
                drop(peer.io);
            }
            tokio::time::timeout(Duration::from_secs(10), peer.serving).await.expect("it ends").unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_opens_too_much_is_cut_off() {
    let mut peer = Peer::new("deaf", ALL);
    for n in 0..=crate::limits::MAX_SPDY_STREAMS as u32 {
        let block = peer.compressor.write(&[("streamtype", "video")]).unwrap();
        peer.send(frame::syn_stream(n * 2 + 1, &block)).await;
    }
    peer.serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_no_streams_is_let_go() {
    let peer = Peer::new("deaf", ALL);
    peer.serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_after_hours_and_a_ping_keeps_it() {
    let mut peer = Peer::opened("deaf", ALL).await;
    for n in 0..4 {
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        peer.send(frame::ping(n * 2 + 1)).await;
        assert!(peer.frame().await.is_some());
    }
    let began = tokio::time::Instant::now();
    peer.serving.await.unwrap();
    assert!(began.elapsed() <= IDLE_TIMEOUT * 2);
}

#[tokio::test]
async fn whoever_reads_too_slowly_is_told_so_and_nothing_more() {
    let mut peer = Peer::opened("spills", ALL).await;
    let mut running = peer.example.running.subscribe();
    running.wait_for(|n| *n == 1).await.unwrap();
    // Until then nothing is read.
    running.wait_for(|n| *n == 0).await.unwrap();
    let heard = peer.rest().await;
    assert!(heard["stdout"].len() <= MAX_OUTPUT_BYTES + (128 << 10), "{}", heard["stdout"].len());
    let error = String::from_utf8_lossy(&heard["error"]).into_owned();
    assert!(error.contains("reads too slowly"), "{error}");
    peer.end().await;
}

#[tokio::test]
async fn input_that_nobody_reads_is_bounded_and_what_nobody_wants_is_dropped() {
    let mut peer = Peer::opened("refuses-input", ALL).await;
    // Far more than any buffer holds: it is taken, because the program has closed its side.
    for _ in 0..64 {
        peer.say("stdin", false, &[0; 32 << 10]).await;
    }
    drop(peer.io);
    peer.serving.await.unwrap();
    let mut peer = Peer::opened("deaf", ALL).await;
    let mut taken = 0;
    let stdin = *peer.opened.iter().find(|(_, name)| **name == "stdin").unwrap().0;
    let piece = frame::data(stdin, false, &[0; 32 << 10]);
    while tokio::time::timeout(Duration::from_millis(200), write_all(&mut peer.io, &piece)).await.is_ok() {
        taken += 32 << 10;
        assert!(taken < 4 << 20, "a program that does not read is a sink");
    }
    peer.serving.abort();
}
