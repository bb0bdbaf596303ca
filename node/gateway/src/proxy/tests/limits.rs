//! What does not pass, and what the client is told.
use super::*;

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let with_dead = gateway(&[dead().await]).await;
    let without = gateway(&[]).await;
    for (gateway, host, status, text) in [
        (&with_dead, "nobody.example", "404", "dhow ls"),
        (&with_dead, "f.localhost", "502", "function default/f cannot be reached"),
        (&without, "f.localhost", "503", "function default/f has no ready pod"),
    ] {
        let answer = ask(gateway, &get(host)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
    }
    let codes = |gateway: &Gateway| {
        gateway.metrics.table().load().find("f.localhost", "/").expect("a route").memory.codes()
    };
    assert_eq!((codes(&with_dead), codes(&without)), (vec![(502, 1)], vec![(503, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_takes_too_long_is_answered_for() {
    let (address, _) = backend(|_| async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        Response::new(Full::<Bytes>::default())
    })
    .await;
    let gateway = gateway_for(&[address], json!({ "timeoutSeconds": 7 })).await;
    let begin = tokio::time::Instant::now();
    let answer = ask(&gateway, &get("f.localhost")).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("within 7 s"), "{answer}");
    assert_eq!(begin.elapsed().as_secs(), 7);
    // Its Service is asked at its own risk.
    let answer = ask(&gateway, &get("f.default.svc.localhost")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// In real time: a paused clock stands still while there is always something to do.
#[tokio::test]
async fn an_answer_that_never_ends_is_cut_off_although_its_backend_never_pauses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let backend = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        // The gateway asks; what it asks does not matter.
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"4\r\nmore\r\n".repeat(1000).as_slice()).await.is_ok() {}
    });
    let gateway = gateway_for(&[address], json!({ "timeoutSeconds": 1 })).await;
    let mut client = TcpStream::connect(gateway.address).await.expect("connect");
    client.write_all(get("f.localhost").as_bytes()).await.expect("a request");
    let reading = async {
        let mut last = Vec::new();
        let mut piece = vec![0; 1 << 16];
        while let Ok(read @ 1..) = client.read(&mut piece).await {
            last = piece[..read].to_vec();
        }
        last
    };
    let last = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it is cut off");
    assert!(!last.ends_with(b"0\r\n\r\n"), "the client must see that it is not all");
    backend.abort();
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_is_said_is_closed() {
    let gateway = gateway(&[]).await;
    assert_eq!(ask(&gateway, "").await, "");
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_that_does_nothing_gives_its_place_back() {
    let gateway = gateway(&[echo().await.0]).await;
    // A preface and empty settings, and answers to every ping: alive, but idle.
    for requests in [0, 1] {
        let stream = TcpStream::connect(gateway.address).await.expect("connect");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("a handshake");
        let connection = tokio::spawn(connection);
        for _ in 0..requests {
            let request =
                Request::get("http://f.localhost/").body(Full::<Bytes>::default()).expect("a request");
            assert_eq!(sender.send_request(request).await.expect("an answer").status(), 200);
        }
        let ended = tokio::time::timeout(Duration::from_secs(100), connection).await;
        assert!(ended.is_ok(), "after {requests} requests it is held for ever");
        drop(sender);
    }
    while gateway.metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_its_head_too_slowly_is_dropped() {
    let gateway = gateway(&[]).await;
    let answer = ask(&gateway, "GET / HTTP/1.1\r\nHost: f").await;
    assert!(!answer.contains("200"), "{answer}");
}

const AGAIN: &str = "GET / HTTP/1.1\r\nHost: f.localhost\r\n\r\n";

/// A connection that has carried one request.
async fn used_connection(gateway: &Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.expect("connect");
    stream.write_all(AGAIN.as_bytes()).await.expect("write");
    let answer = read_until(&mut stream, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream
}

async fn says_ok() -> SocketAddr {
    backend(|_| async { Response::new(Full::new(Bytes::from_static(b"ok"))) }).await.0
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_a_minute_and_a_quarter_for_its_next_request() {
    let gateway = gateway(&[says_ok().await]).await;
    let mut stream = used_connection(&gateway).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(70)).await;
        stream.write_all(AGAIN.as_bytes()).await.expect("write");
        assert!(read_until(&mut stream, "ok").await.starts_with("HTTP/1.1 200"));
    }
    let quiet = tokio::time::Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is closed");
    assert_eq!(quiet.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_later_request_has_ten_seconds_from_its_first_byte() {
    let gateway = gateway(&[says_ok().await]).await;
    for trickle in [false, true] {
        let mut stream = used_connection(&gateway).await;
        tokio::time::sleep(Duration::from_secs(33)).await;
        let begin = tokio::time::Instant::now();
        stream.write_all(b"GET / HT").await.expect("write");
        let mut byte = [0; 1];
        if trickle {
            // A byte a second keeps nothing open.
            while tokio::time::timeout(Duration::from_secs(1), stream.read(&mut byte)).await.is_err() {
                stream.write_all(b"T").await.expect("write");
            }
        } else {
            assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0, "it is closed");
        }
        let seconds = begin.elapsed().as_secs();
        assert!((10..=11).contains(&seconds), "after {seconds} s (trickle: {trickle})");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_its_body_is_told() {
    let gateway = gateway_for(&[echo().await.0], json!({ "timeoutSeconds": 600 })).await;
    let answer = ask(&gateway, "POST / HTTP/1.1\r\nHost: f.localhost\r\nContent-Length: 9\r\n\r\nfour").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn tunnels_and_requests_with_two_hosts_are_refused() {
    let gateway = gateway(&[echo().await.0]).await;
    for (request, status, text) in [
        (
            "CONNECT f.localhost:80 HTTP/1.1\r\nHost: f.localhost:80\r\nConnection: close\r\n\r\n",
            "405",
            "CONNECT",
        ),
        (
            "GET / HTTP/1.1\r\nHost: f.localhost\r\nHost: other\r\nConnection: close\r\n\r\n",
            "400",
            "one host",
        ),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "400", "no host"),
    ] {
        let answer = ask(&gateway, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_none_is_the_clients_fault() {
    let gateway = gateway(&[echo().await.0]).await;
    for chunk in ["zz\r\nping\r\n0\r\n\r\n", "4\r\nping!0\r\n\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let head = "POST / HTTP/1.1\r\nHost: f.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = ask(&gateway, &format!("{head}{chunk}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{chunk:?}: {answer}");
    }
}

/// A backend that keeps all it is sent and answers each head with 200.
async fn tapped() -> (SocketAddr, Arc<parking_lot::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let seen = Arc::new(parking_lot::Mutex::new(String::new()));
    let tap = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tap = tap.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    let answers = text.matches(" HTTP/1.1\r\n").count();
                    tap.lock().push_str(&text);
                    for _ in 0..answers {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Each of these is read differently by different programs. Whatever the gateway makes of them, the backend must
/// never see a request whose end it could place elsewhere than the gateway did.
#[tokio::test]
async fn requests_cannot_be_smuggled() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: f.localhost\r\n\r\n";
    let chunked = format!("0\r\n\r\n{hidden}");
    let length = chunked.len();
    for (name, headers, body) in [
        ("CL.TE", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), chunked.clone()),
        ("TE.CL", format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), chunked.clone()),
        (
            "two lengths",
            format!("Content-Length: 0\r\nContent-Length: {}\r\n", hidden.len()),
            hidden.to_owned(),
        ),
        ("a list of lengths", format!("Content-Length: 0, {}\r\n", hidden.len()), hidden.to_owned()),
        ("a signed length", "Content-Length: +0\r\n".to_owned(), hidden.to_owned()),
        (
            "TE twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
            chunked.clone(),
        ),
        ("TE unknown", "Transfer-Encoding: xchunked\r\n".to_owned(), chunked.clone()),
        (
            "TE with a space",
            format!("Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n"),
            chunked.clone(),
        ),
        (
            "a folded header",
            format!("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
            chunked.clone(),
        ),
        (
            "a bare CR",
            format!("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
            chunked.clone(),
        ),
        ("a NUL", format!("X-A: b\0\r\nContent-Length: {length}\r\n"), chunked.clone()),
        (
            "a hidden length",
            format!("Connection: close, Content-Length\r\nContent-Length: {length}\r\n"),
            chunked.clone(),
        ),
    ] {
        let (address, seen) = tapped().await;
        let gateway = gateway(&[address]).await;
        // The last request ends the connection, whatever became of the first.
        let request = format!(
            "POST /outer HTTP/1.1\r\nHost: f.localhost\r\n{headers}\r\n{body}{}",
            get("f.localhost").replace("GET /", "GET /last")
        );
        let answer = ask(&gateway, &request).await;
        let seen = seen.lock().clone();
        let statuses: Vec<&str> =
            answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect();
        // As a backend that believes only what the gateway wrote would read it: the head's own length.
        for piece in seen.split("POST /outer").skip(1) {
            let head = piece.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
            let both = head.contains("content-length") && head.contains("transfer-encoding");
            assert!(!both, "{name}: {seen}");
            assert_eq!(
                head.matches("content-length").count() + head.matches("transfer-encoding").count(),
                1,
                "{name}: {seen}"
            );
            if head.contains("content-length") {
                assert!(head.contains(&format!("content-length: {length}")), "{name}: {seen}");
            }
        }
        assert!(statuses.first().is_some_and(|s| *s == "400" || *s == "200"), "{name}: {answer}");
        let refused = statuses.first() == Some(&"400");
        assert!(!refused || (statuses.len() == 1 && !seen.contains("/outer")), "{name}: {answer} {seen}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_number_and_size() {
    let gateway = gateway(&[echo().await.0]).await;
    let many = "X-A: b\r\n".repeat(200);
    let large = format!("X-A: {}\r\n", "b".repeat(100_000));
    for headers in [many, large] {
        let request = format!("GET / HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\n{headers}\r\n");
        let answer = ask(&gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_ends_pods_is_tried_at_two_of_them() {
    let count = Arc::new(AtomicUsize::new(0));
    let mut pods = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        pods.push(listener.local_addr().expect("address"));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_until(&mut stream, "\r\n\r\n").await;
                counted.fetch_add(1, Relaxed);
            }
        });
    }
    let gateway = gateway(&pods).await;
    let answer = ask(&gateway, &get("f.localhost")).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(count.load(Relaxed), 2);
    let post = "POST / HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(ask(&gateway, post).await.starts_with("HTTP/1.1 502"));
    assert_eq!(count.load(Relaxed), 3, "a POST is sent once");
}
