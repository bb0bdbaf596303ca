//! Components that answer requests.
use crate::text::assemble;
use crate::world::{World, soon};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shim::fake::Captured;
use shim::{Container, ContainerSpec, Shim};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HELLO: &str = include_str!("../../../../sample-workloads/hello-wat/hello.wat");

/// The sample, or the sample with something else done at the start of each request.
fn hello(first: &str) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sample-workloads/hello-wat/wit");
    let begin = "(local.set $response (call $response (call $fields)))";
    assert!(HELLO.contains(begin));
    assemble(&HELLO.replace(begin, &format!("{first} {begin}")), &wit).unwrap()
}

struct Served {
    container: Arc<dyn Container>,
    port: u16,
    log: Arc<Captured>,
}

async fn serve(world: &World, guest: &[u8], change: impl FnOnce(&mut ContainerSpec)) -> Served {
    let (mut spec, log) = world.spec(guest);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.ports = vec![port];
    change(&mut spec);
    Served { container: world.start(spec).await, port, log }
}

impl Served {
    async fn get(&self, http2: bool) -> (StatusCode, String) {
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Full<Bytes>>();
        let request = Request::get(format!("http://127.0.0.1:{}/", self.port)).body(Full::default()).unwrap();
        let response = soon(client.request(request)).await.unwrap();
        let status = response.status();
        let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends bytes as they are and gives all that comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = soon(TcpStream::connect(("127.0.0.1", self.port))).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_sample_answers_over_http_1_and_2_and_holds_nothing_between_requests() {
    let world = World::new();
    let served = serve(&world, &hello(""), |_| {}).await;
    for http2 in [false, true] {
        assert_eq!(served.get(http2).await, (StatusCode::OK, "Hello from WebAssembly text!\n".to_owned()));
    }
    soon(async {
        // The answer may arrive a moment before its guest has returned.
        while served.container.stats().sandbox.unwrap().instances > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stats = served.container.stats();
    assert_eq!(stats.memory_bytes, 0);
    assert!(stats.cpu_nanoseconds > 0 && stats.memory_peak_bytes > 0, "{stats:?}");
    let counted = stats.sandbox.unwrap();
    assert_eq!((counted.requests, counted.instances_started), ([0, 2, 0, 0, 0], 2));
    assert_eq!(counted.durations.counts.iter().sum::<u64>(), 2);
    assert_eq!((counted.instances, counted.traps, counted.timeouts, counted.egress_denials), (0, 0, 0, 0));
    soon(served.container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_costs_one_request_and_is_in_the_log() {
    let world = World::new();
    // The second instance would trap too: each has a memory of its own.
    let served =
        serve(&world, &hello("(if (i32.eqz (i32.load (i32.const 0))) (then unreachable))"), |_| {}).await;
    for _ in 0..2 {
        let (status, text) = served.get(false).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::INTERNAL_SERVER_ERROR, "the guest failed; its log says why\n")
        );
    }
    assert_eq!(served.container.exit(), None);
    let counted = served.container.stats().sandbox.unwrap();
    assert_eq!((counted.requests, counted.traps), ([0, 0, 0, 0, 2], 2));
    assert!(served.log.stderr().contains("unreachable"), "{}", served.log.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_takes_too_long_or_too_much_is_ended() {
    let world = World::new();
    let slow = serve(&world, &hello("(loop (br 0))"), |spec| {
        spec.annotations.insert("dhow.dev/timeout".into(), "100ms".into());
    })
    .await;
    assert_eq!(slow.get(false).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert!(slow.log.stderr().contains("longer than 100ms"));
    assert_eq!(slow.container.stats().sandbox.unwrap().timeouts, 1);
    let greedy = serve(&world, &hello("(loop (drop (memory.grow (i32.const 16))) (br 0))"), |spec| {
        spec.resources.memory_limit_bytes = Some(2 << 20);
    })
    .await;
    let (status, text) = greedy.get(false).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "the guest exceeded its memory limit\n")
    );
    assert!(greedy.log.stderr().contains("the limit is 2097152 bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_takes_its_guest_with_it() {
    let world = World::new();
    let served = serve(&world, &hello("(loop (br 0))"), |_| {}).await;
    let mut stream = soon(TcpStream::connect(("127.0.0.1", served.port))).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(async {
        while served.container.stats().memory_bytes == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        while served.container.stats().memory_bytes > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_beyond_the_limit_and_requests_without_a_host_are_refused() {
    let world = World::new();
    let served = serve(&world, &hello(""), |spec| {
        spec.annotations.insert("dhow.dev/max-request-body".into(), "10".into());
    })
    .await;
    let answer = served.raw(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = served.raw(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    let answer = served.raw(large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_requests_finish_and_exits_with_0_sigkill_does_not_wait() {
    let world = World::new();
    let served = serve(&world, &hello(""), |_| {}).await;
    assert_eq!(served.get(false).await.0, StatusCode::OK);
    served.container.kill(15).await.unwrap();
    let exit = soon(served.container.wait()).await;
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
    assert!(TcpStream::connect(("127.0.0.1", served.port)).await.is_err());

    let busy = serve(&world, &hello("(loop (br 0))"), |_| {}).await;
    let mut stream = soon(TcpStream::connect(("127.0.0.1", busy.port))).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon(async {
        while busy.container.stats().memory_bytes == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    busy.container.kill(15).await.unwrap();
    assert_eq!(busy.container.exit(), None, "a request is still at work");
    busy.container.kill(9).await.unwrap();
    assert_eq!(soon(busy.container.wait()).await.code, 137);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_said_when_the_container_starts() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut spec, _) = world.spec(&hello(""));
    spec.ports = vec![taken.local_addr().unwrap().port()];
    let container = soon(world.shim.create(spec)).await.unwrap();
    let error = soon(container.start()).await.unwrap_err().to_string();
    assert!(error.contains("is in use by another program"), "{error}");
    drop(taken);
    soon(container.start()).await.unwrap();
}
