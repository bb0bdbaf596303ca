//! Components that answer requests.
use crate::text::assemble;
use crate::world::{World, soon};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use network_policy::{Allow, Direction, Peers, Rules};
use shim::fake::Captured;
use shim::{Container, ContainerSpec, Shim};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

const HELLO: &str = include_str!("../../../../sample-workloads/hello-wat/hello.wat");

const FIELDS: &str = "  resource fields {
    constructor();
";
const MORE_FIELDS: &str = "  variant header-error { invalid-syntax, forbidden, immutable }
  resource fields {
    constructor();
    append: func(name: string, value: list<u8>) -> result<_, header-error>;
";

/// The sample with parts of its text replaced.
pub fn hello_replaced(parts: &[(&str, &str)]) -> Vec<u8> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sample-workloads/hello-wat/wit");
    // The sample's interfaces are no more than it needs; some guests need one function more.
    let wit = tempfile::tempdir().unwrap();
    std::fs::create_dir(wit.path().join("deps")).unwrap();
    for file in ["world.wit", "deps/io.wit", "deps/http.wit"] {
        let text = std::fs::read_to_string(sample.join(file)).unwrap();
        std::fs::write(wit.path().join(file), text.replace(FIELDS, MORE_FIELDS)).unwrap();
    }
    let mut text = HELLO.to_owned();
    for (from, to) in parts {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    assemble(&text, wit.path()).unwrap()
}

/// The sample, or the sample with something else done at the start of each request.
pub fn hello(first: &str) -> Vec<u8> {
    let begin = "(local.set $response (call $response (call $fields)))";
    hello_replaced(&[(begin, &format!("{first} {begin}"))])
}

pub struct Served {
    pub container: Arc<dyn Container>,
    pub port: u16,
    pub log: Arc<Captured>,
}

pub async fn serve(world: &World, guest: &[u8], change: impl FnOnce(&mut ContainerSpec)) -> Served {
    let (mut spec, log) = world.spec(guest);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.ports = vec![port];
    change(&mut spec);
    Served { container: world.start(spec).await, port, log }
}

impl Served {
    pub async fn get(&self, http2: bool) -> (StatusCode, String) {
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Full<Bytes>>();
        let request = Request::get(format!("http://127.0.0.1:{}/", self.port)).body(Full::default()).unwrap();
        let response = soon(client.request(request)).await.unwrap();
        let status = response.status();
        let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends bytes as they are and gives all that comes back.
    pub async fn raw(&self, bytes: &[u8]) -> String {
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
async fn the_log_names_the_functions_a_request_trapped_in() {
    let world = World::new();
    // Whatever $taken finds is an error.
    let guest = hello_replaced(&[(
        "(if (i32.load8_u (global.get $at)) (then unreachable))",
        "(if (i32.const 1) (then unreachable))",
    )]);
    let served = serve(&world, &guest, |_| {}).await;
    assert_eq!(served.get(false).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let log = served.log.stderr();
    assert!(log.contains("unreachable") && log.contains("!taken"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_takes_too_long_or_too_much_is_ended() {
    let world = World::new();
    let slow = serve(&world, &hello("(loop (br 0))"), |spec| {
        spec.annotations.insert("dhow.dev/timeout".into(), "100ms".into());
        // Else a third of that, and which of the two ends it depends on how busy the machine is.
        spec.annotations.insert("dhow.dev/request-cpu".into(), "100ms".into());
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

/// Reads one answer of the sample's to its end.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let text = |seen: &[u8]| String::from_utf8_lossy(seen).into_owned();
    soon(async {
        while !text(&seen).ends_with("\r\n0\r\n\r\n") {
            let byte = stream.read_u8().await;
            seen.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}", text(&seen))));
        }
    })
    .await;
    text(&seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cross_with_sigterm_are_answered_and_told_that_they_are_the_last() {
    const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    let world = World::new();
    let served = serve(&world, &hello(""), |_| {}).await;
    let mut kept = soon(TcpStream::connect(("127.0.0.1", served.port))).await.unwrap();
    kept.write_all(POST).await.unwrap();
    assert!(!read_answer(&mut kept).await.contains("connection: close"));
    served.container.kill(15).await.unwrap();
    // Over the connection there was, and over one made just now by whoever has not heard yet.
    let mut new = soon(TcpStream::connect(("127.0.0.1", served.port))).await.unwrap();
    for stream in [&mut kept, &mut new] {
        stream.write_all(POST).await.unwrap();
        let answer = read_answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is closed");
    }
    assert_eq!(soon(served.container.wait()).await.code, 0);
    assert!(TcpStream::connect(("127.0.0.1", served.port)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_closes_holds_a_stopping_server_for_a_second_only() {
    let world = World::new();
    let served = serve(&world, &hello(""), |_| {}).await;
    let mut kept = soon(TcpStream::connect(("127.0.0.1", served.port))).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut kept).await;
    let silent = soon(TcpStream::connect(("127.0.0.1", served.port))).await.unwrap();
    served.container.kill(15).await.unwrap();
    assert_eq!(soon(served.container.wait()).await.code, 0);
    drop((kept, silent));
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

const P3: &str = include_str!("../../../../sample-workloads/hello-p3/hello-p3.wat");

fn hello_p3(first: &str) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sample-workloads/hello-p3/wit");
    let begin = "(call $drop-request (local.get $request))";
    assert!(P3.contains(begin));
    assemble(&P3.replace(begin, &format!("{first} {begin}")), &wit).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_wasi_0_3_answers_and_a_trap_costs_one_request() {
    let world = World::new();
    let served = serve(&world, &hello_p3(""), |_| {}).await;
    for http2 in [false, true, false] {
        assert_eq!(served.get(http2).await, (StatusCode::OK, "Hello from WASI 0.3!\n".to_owned()));
    }
    soon(async {
        while served.container.stats().memory_bytes > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let trapping = serve(&world, &hello_p3("unreachable"), |_| {}).await;
    for _ in 0..2 {
        assert_eq!(trapping.get(false).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert!(trapping.log.stderr().contains("unreachable"), "{}", trapping.log.stderr());
    let slow = serve(&world, &hello_p3("(loop (br 0))"), |spec| {
        spec.annotations.insert("dhow.dev/timeout".into(), "100ms".into());
    })
    .await;
    assert_eq!(slow.get(false).await.0, StatusCode::GATEWAY_TIMEOUT);
}

/// Traps in the request after the `most`th that an instance serves.
fn trap_after(most: u32) -> String {
    format!(
        "(if (i32.ge_u (i32.load (i32.const 0)) (i32.const {most})) (then unreachable))
         (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_as_many_requests_as_the_pod_permits_and_none_after_a_trap() {
    let world = World::new();
    for guest in [hello(&trap_after(2)), hello_p3(&trap_after(2))] {
        // With two requests an instance, none sees a third.
        let twice = serve(&world, &guest, |spec| {
            spec.annotations.insert("dhow.dev/instance-reuse".into(), "2".into());
        })
        .await;
        for _ in 0..6 {
            assert_eq!(ask(&twice).await, StatusCode::OK);
        }
        // With more, the third traps, and the fourth has a new instance.
        let often = serve(&world, &guest, |spec| {
            spec.annotations.insert("dhow.dev/instance-reuse".into(), "100".into());
        })
        .await;
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(ask(&often).await.as_u16());
        }
        assert_eq!(answers, [200, 200, 500, 200, 200, 500]);
    }
}

/// One request, its instance back among the idle ones: the answer may arrive a moment before.
async fn ask(served: &Served) -> StatusCode {
    let requests = served.container.stats().cpu_nanoseconds;
    let status = served.get(false).await.0;
    soon(async {
        let mut seen = requests;
        // Quiet: no instance has used the processor since the last look.
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = served.container.stats().cpu_nanoseconds;
            if now == seen && now > requests {
                break;
            }
            seen = now;
        }
    })
    .await;
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_instance_is_kept_a_while_and_is_gone_at_once_when_the_container_stops() {
    let world = World::new();
    let reused = |spec: &mut ContainerSpec| {
        spec.annotations.insert("dhow.dev/instance-reuse".into(), "100".into());
    };
    let stopped = serve(&world, &hello(""), reused).await;
    assert_eq!(stopped.get(false).await.0, StatusCode::OK);
    assert!(stopped.container.stats().memory_bytes > 0);
    stopped.container.kill(15).await.unwrap();
    assert_eq!(soon(stopped.container.wait()).await.code, 0);
    assert_eq!(stopped.container.stats().memory_bytes, 0);

    let quiet = serve(&world, &hello(""), reused).await;
    assert_eq!(quiet.get(false).await.0, StatusCode::OK);
    assert!(quiet.container.stats().memory_bytes > 0);
    soon(async {
        while quiet.container.stats().memory_bytes > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_full_of_idle_instances_gives_them_up_for_another_container() {
    let world = World::new();
    let mut idle = Vec::new();
    for _ in 0..crate::world::MAX_INSTANCES {
        let served = serve(&world, &hello(""), |spec| {
            spec.annotations.insert("dhow.dev/instance-reuse".into(), "100".into());
        })
        .await;
        assert_eq!(served.get(false).await.0, StatusCode::OK);
        idle.push(served);
    }
    let another = serve(&world, &hello(""), |_| {}).await;
    assert_eq!(another.get(false).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_nothing_any_more_for_want_of_memory_is_oom_killed_with_the_figures() {
    let world = World::new();
    let greedy = serve(&world, &hello("(loop (drop (memory.grow (i32.const 16))) (br 0))"), |spec| {
        spec.resources.memory_limit_bytes = Some(2 << 20);
    })
    .await;
    for _ in 0..10 {
        assert_eq!(greedy.container.exit(), None);
        assert_eq!(greedy.get(false).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }
    let exit = soon(greedy.container.wait()).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    assert!(exit.message.contains("the limit is 2097152 bytes"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_beyond_its_limit_breaks_off() {
    let world = World::new();
    let served = serve(&world, &hello(""), |spec| {
        spec.annotations.insert("dhow.dev/max-response-body".into(), "10".into());
    })
    .await;
    let answer = served.raw(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(!answer.contains("Hello from") && !answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
}

/// Rules whose ingress is these peers alone.
fn only(peers: &[&str]) -> Arc<Rules> {
    let addresses = peers.iter().map(|peer| peer.parse().unwrap()).collect();
    let allow = Allow { peers: Peers::These { addresses, blocks: Vec::new() }, ports: None };
    Arc::new(Rules { ingress: Direction::Isolated(vec![allow]), ..Rules::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_connect_follows_the_pods_rules_and_connections_that_may_not_be_any_more_are_cut() {
    let world = World::new();
    let (rules, seen) = watch::channel(Arc::default());
    let served = serve(&world, &hello(""), |spec| spec.network.rules = seen).await;
    let port = served.port;
    // Two pods of this machine, and the node itself.
    let ask = |from: &'static str| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let mut stream = soon(socket.connect(([127, 0, 0, 1], port).into())).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        let answered = soon(stream.read_exact(&mut head)).await.is_ok_and(|_| &head == b"HTTP/1.1 200");
        answered.then_some(stream)
    };
    assert!(ask("127.42.0.1").await.is_some());
    rules.send_replace(only(&["127.42.0.1"]));
    let mut kept = ask("127.42.0.1").await.expect("it is on the list");
    assert!(ask("127.42.0.2").await.is_none());
    assert!(ask("127.0.0.1").await.is_some(), "the node is never kept out");
    // The connection stands, in the middle of nothing.
    rules.send_replace(only(&["127.42.0.2"]));
    let mut rest = Vec::new();
    let _ = soon(kept.read_to_end(&mut rest)).await;
    assert!(ask("127.42.0.1").await.is_none() && ask("127.42.0.2").await.is_some());
    rules.send_replace(Arc::default());
    assert!(ask("127.42.0.1").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_hosts_that_cannot_be_read_is_refused() {
    let world = World::new();
    let (mut spec, _) = world.spec(&hello(""));
    spec.annotations.insert("dhow.dev/egress".into(), "https://example.com".into());
    let error = soon(world.shim.create(spec)).await.err().unwrap().to_string();
    assert!(error.contains("annotation dhow.dev/egress: \"https://example.com\" is neither"), "{error}");
}
