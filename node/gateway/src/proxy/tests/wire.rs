//! What passes through, and how.
use super::*;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_request_reaches_a_live_backend_although_others_are_dead() {
    let gateway = gateway(&[dead().await, echo().await.0, dead().await]).await;
    for _ in 0..3 {
        let answer = ask(
            &gateway,
            "POST /p?q=1 HTTP/1.1\r\nHost: f.localhost\r\nConnection: close, X-Private\r\nX-Private: 1\r\n\
             X-Forwarded-For: 6.6.6.6\r\nContent-Length: 4\r\n\r\nping",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("POST /p?q=1 HTTP/1.1") && answer.ends_with("ping"), "{answer}");
        assert!(answer.contains("x-forwarded-for: 127.0.0.1") && !answer.contains("6.6.6.6"), "{answer}");
        assert!(answer.contains("x-forwarded-proto: http\n"), "{answer}");
        assert!(answer.contains("x-forwarded-host: f.localhost\n"), "{answer}");
        assert!(answer.contains("traceparent: 00-"), "{answer}");
        assert!(!answer.to_lowercase().contains("x-private"), "{answer}");
    }
}

#[tokio::test]
async fn connections_to_a_backend_are_kept_and_those_to_one_that_is_gone_are_not() {
    let (address, connections) = echo().await;
    let gateway = gateway(&[address]).await;
    for _ in 0..5 {
        assert!(ask(&gateway, &get("f.localhost")).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(connections.load(Relaxed), 1);
    gateway.metrics.table().store(Arc::new(table(&[], &json!({}))));
    gateway.server.backends_changed();
    gateway.metrics.table().store(Arc::new(table(&[address], &json!({}))));
    assert!(ask(&gateway, &get("f.localhost")).await.starts_with("HTTP/1.1 200"));
    assert_eq!(connections.load(Relaxed), 2);
    assert_eq!(gateway.metrics.table().load().routes().len(), 2, "a function's and its service's");
}

/// A backend that closes each connection after one answer without saying that it will.
async fn forgetful() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("write");
            // The next request is read, and no answer comes.
            tokio::spawn(async move {
                let _ = stream.read_u8().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_kept_connection_that_breaks_before_an_answer_costs_a_get_nothing_and_a_post_is_not_done_twice() {
    let gateway = gateway(&[forgetful().await]).await;
    for _ in 0..4 {
        let answer = ask(&gateway, &get("f.localhost")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    }
    let post = "POST / HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1";
    let answer = ask(&gateway, post).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let (address, _) = backend(|request| async move { Response::new(request.into_body()) }).await;
    let gateway = gateway(&[address]).await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("connect");
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: f.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await
        .expect("write");
    // The first piece is back before the second is sent.
    let head = read_until(&mut stream, "3\r\none\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.expect("write");
    read_until(&mut stream, "3\r\ntwo\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_when_the_backend_takes_the_body() {
    let gateway = gateway(&[echo().await.0]).await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("connect");
    let head = "POST / HTTP/1.1\r\nHost: f.localhost\r\nContent-Length: 4\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("write");
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    stream.write_all(b"ping").await.expect("write");
    let answer = read_until(&mut stream, "ping").await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("expect"), "{answer}");
    let nobody = head.replace("f.localhost", "nobody.example");
    assert!(ask(&gateway, &nobody).await.starts_with("HTTP/1.1 404"), "no body is asked for in vain");
}

#[tokio::test]
async fn a_websocket_passes_messages_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.expect("send");
                    }
                }
            });
        }
    });
    let gateway = gateway(&[address]).await;
    let stream = TcpStream::connect(gateway.address).await.expect("connect");
    let (mut socket, answer) =
        tokio_tungstenite::client_async("ws://f.localhost/chat", stream).await.expect("a handshake");
    assert_eq!(answer.status(), 101);
    let large = "x".repeat(300_000);
    for text in ["hello", large.as_str(), ""] {
        socket.send(Message::text(text)).await.expect("send");
        let back = socket.next().await.expect("a message").expect("whole");
        assert_eq!(back.into_text().expect("text").as_str(), text);
    }
    assert_eq!(gateway.metrics.upgraded.get(), 1);
    socket.close(None).await.expect("close");
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test]
async fn an_upgrade_that_the_backend_does_not_want_is_an_ordinary_answer() {
    let gateway = gateway(&[echo().await.0]).await;
    let upgrade = |to: &str| {
        format!("GET / HTTP/1.1\r\nHost: f.localhost\r\nConnection: upgrade, close\r\nUpgrade: {to}\r\n\r\n")
    };
    let answer = ask(&gateway, &upgrade("websocket")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("upgrade: websocket"), "{answer}");
    // HTTP/2 is not passed on at all.
    let answer = ask(&gateway, &upgrade("h2c")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("upgrade"), "{answer}");
}

async fn h2(gateway: &Gateway) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(gateway.address).await.expect("connect");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_clients_are_served_by_http1_backends() {
    let gateway = gateway(&[echo().await.0]).await;
    let mut sender = h2(&gateway).await;
    let request = Request::get("http://f.localhost/x?y").body(Full::default()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let text = answer.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(text.starts_with("GET /x?y HTTP/1.1\n") && text.contains("host: f.localhost"), "{text}");
}

#[tokio::test]
async fn grpc_is_http2_to_the_backend_and_keeps_its_trailers() {
    let (address, connections) = backend(|request| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "7".parse().expect("a value"));
        let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\0")), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
        Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
    })
    .await;
    let gateway = gateway(&[address]).await;
    let mut sender = h2(&gateway).await;
    for _ in 0..3 {
        let request = Request::post("http://f.localhost/pkg.Service/Method")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "7");
    }
    assert_eq!(connections.load(Relaxed), 1, "one connection carries them all");
}

#[tokio::test]
async fn running_requests_end_before_the_gateway_does() {
    let (address, _) = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Response::new(Full::new(Bytes::from_static(b"done")))
    })
    .await;
    let mut gateway = gateway(&[address]).await;
    let mut stream = TcpStream::connect(gateway.address).await.expect("connect");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: f.localhost\r\n\r\n").await.expect("write");
    while gateway.metrics.in_flight.get() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.shutdown.cancel();
    assert!(read_until(&mut stream, "done").await.starts_with("HTTP/1.1 200"));
    tokio::time::timeout(LIMIT, &mut gateway.ended).await.expect("in time").expect("no panic");
    assert_eq!(gateway.metrics.connections.get(), 0);
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length() {
    let (address, _) = backend(|_| async {
        Response::builder().header("content-length", "5").body(Empty::<Bytes>::new()).expect("a response")
    })
    .await;
    let gateway = gateway(&[address]).await;
    let answer = ask(&gateway, &get("f.localhost").replace("GET", "HEAD")).await;
    assert!(answer.to_lowercase().contains("content-length: 5"), "{answer}");
}
