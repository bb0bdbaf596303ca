//! Consumers against a real Redis: `cargo xtask test` names the program in DHOW_TEST_REDIS.
use super::super::call::{Call, Caller, Failure};
use super::super::place::Place;
use super::consumer::Consumer;
use super::metrics::Counters;
use super::redis::{self as own, Backend};
use super::report::Said;
use super::settings::{Settings, Source};
use super::surroundings::Surroundings;
use async_trait::async_trait;
use client::ObjectKey;
use client::fake_api::ambient;
use parking_lot::Mutex;
use redis::{ConnectionAddr, IntoConnectionInfo};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Everything here takes seconds.
const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("within the limit")
}

/// A real one, with its data in a file.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    async fn start(dir: &Path, port: Option<u16>) -> Option<Self> {
        let Some(program) = std::env::var_os("DHOW_TEST_REDIS") else {
            eprintln!("not run: DHOW_TEST_REDIS names no redis-server");
            return None;
        };
        let free = || TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let port = port.unwrap_or_else(free);
        let mut command = Command::new(program);
        command.args(["-", "--dir"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let config = format!(
            "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly yes\nappendfsync always\nrequirepass pass\n"
        );
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        let redis = Self { child, port };
        soon(async {
            while redis.try_ask(&["PING"]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        Some(redis)
    }

    async fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://:pass@127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    async fn ask(&self, words: &[&str]) -> redis::Value {
        self.try_ask(words).await.unwrap()
    }

    async fn length(&self, stream: &str) -> i64 {
        match self.ask(&["XLEN", stream]).await {
            redis::Value::Int(n) => n,
            other => panic!("{other:?}"),
        }
    }

    async fn pending(&self) -> i64 {
        match self.ask(&["XPENDING", "s", "f"]).await {
            redis::Value::Array(parts) => match parts[0] {
                redis::Value::Int(n) => n,
                _ => panic!("{parts:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// All fields of the entries of the dead-letter stream.
    async fn dead(&self) -> Vec<BTreeMap<String, String>> {
        let entries: Vec<(String, Vec<(String, String)>)> =
            redis::from_redis_value(self.ask(&["XRANGE", "s-dead", "-", "+"]).await).unwrap();
        entries.into_iter().map(|(_, fields)| fields.into_iter().collect()).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status that a body is answered with.
type Answer = Box<dyn Fn(&str) -> Result<u16, Failure> + Send + Sync>;

/// Answers calls by a function of the body, and remembers them: ID, attempt, body.
struct Handler {
    answer: Answer,
    calls: Mutex<Vec<(String, u64, String)>>,
    /// Calls hang while it is set.
    hangs: AtomicBool,
}

impl Handler {
    fn new(answer: impl Fn(&str) -> Result<u16, Failure> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Box::new(answer), calls: Mutex::default(), hangs: AtomicBool::new(false) })
    }

    fn bodies(&self) -> Vec<String> {
        let mut all: Vec<String> = self.calls.lock().iter().map(|(_, _, body)| body.clone()).collect();
        all.sort();
        all
    }

    fn attempts(&self) -> Vec<u64> {
        self.calls.lock().iter().map(|(_, attempt, _)| *attempt).collect()
    }
}

#[async_trait]
impl Caller for Handler {
    async fn call(&self, call: Call) -> Result<u16, Failure> {
        let header = |name: &str| {
            let found = call.headers.iter().find(|(own, _)| own == name).expect("a header");
            found.1.to_str().unwrap().to_owned()
        };
        let body = String::from_utf8(call.body.to_vec()).unwrap();
        self.calls.lock().push((header("ce-id"), header("ce-attempt").parse().unwrap(), body.clone()));
        if self.hangs.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        (self.answer)(&body)
    }
}

struct World {
    port: u16,
    has_pods: AtomicBool,
    /// How many times it was asked where the function is.
    asked: AtomicUsize,
}

#[async_trait]
impl Surroundings for World {
    fn place(&self) -> Place {
        self.asked.fetch_add(1, Relaxed);
        let pods = self.has_pods.load(Relaxed).then(|| SocketAddr::from(([127, 0, 0, 1], 1)));
        Place { addresses: pods.into_iter().collect(), host: "f-r1.default.svc".into() }
    }
    async fn backend(&self) -> Result<Backend, own::Failure> {
        let info = format!("redis://:pass@127.0.0.1:{}/0", self.port).into_connection_info().unwrap();
        let ConnectionAddr::Tcp(_, port) = info.addr() else { panic!("TCP") };
        Ok(Backend {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], *port))],
            login: info.redis_settings().clone(),
            shown: "redis://redis:6379/0".into(),
        })
    }
}

struct Started {
    said: watch::Receiver<Option<Said>>,
    counters: Arc<Counters>,
    world: Arc<World>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    dead: Arc<Mutex<Vec<String>>>,
}

fn settings() -> Settings {
    Settings {
        function: ObjectKey::new("default", "f"),
        uid: "u".into(),
        trigger: "t".into(),
        source: Source::Url(String::new()),
        stream: "s".into(),
        group: "f".into(),
        consumer: "dhow/u/t".into(),
        dead_letter_stream: "s-dead".into(),
        path: "/".into(),
        concurrency: 10,
        max_attempts: 3,
        backoff: Duration::from_millis(20),
        visibility: Duration::from_secs(60),
        timeout: Duration::from_secs(30),
    }
}

fn start(port: u16, settings: Settings, handler: &Arc<Handler>) -> Started {
    let (said, seen) = watch::channel(None);
    let (stop, shutdown, wake) =
        (CancellationToken::new(), CancellationToken::new(), Arc::new(Notify::new()));
    let world = Arc::new(World { port, has_pods: AtomicBool::new(true), asked: AtomicUsize::new(0) });
    let (counters, dead) = (Arc::new(Counters::default()), Arc::new(Mutex::new(Vec::new())));
    let buried = dead.clone();
    let consumer = Consumer {
        settings,
        surroundings: world.clone(),
        caller: handler.clone(),
        ambient: ambient(),
        counters: counters.clone(),
        said,
        wake: wake.clone(),
        stop: stop.clone(),
        shutdown: shutdown.clone(),
        dead: Box::new(move |text| buried.lock().push(text)),
    };
    let task = tokio::spawn(consumer.run());
    Started { said: seen, counters, world, wake, stop, shutdown, task, dead }
}

impl Started {
    async fn until_said(&mut self, what: impl Fn(&Said) -> bool) -> Said {
        let said = soon(self.said.wait_for(|s| s.as_ref().is_some_and(&what))).await;
        said.expect("it runs").clone().expect("something")
    }

    /// As a process that dies: nothing is settled.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn until(holds: impl AsyncFn() -> bool) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn messages_are_delivered_acknowledged_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    for n in 0..50 {
        redis.ask(&["XADD", "s", "*", "data", &format!("{n:03}")]).await;
    }
    let handler = Handler::new(|_| Ok(204));
    let mut started = start(redis.port, settings(), &handler);
    until(async || handler.calls.lock().len() == 50).await;
    for n in 50..60 {
        redis.ask(&["XADD", "s", "*", "data", &format!("{n:03}")]).await;
        until(async || handler.calls.lock().len() == n + 1).await;
    }
    assert_eq!(handler.bodies(), (0..60).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    let said = started.until_said(|s| s.pending == Some(0)).await;
    assert_eq!(
        (said.is_ready, said.reason, said.last_result.as_deref()),
        (true, "Consuming", Some("answered 204"))
    );
    assert_eq!((redis.pending().await, redis.length("s-dead").await), (0, 0));
    assert_eq!(started.counters.delivered.load(Relaxed), 60);
    started.stop.cancel();
    soon(started.task).await.unwrap();
}

#[tokio::test]
async fn what_fails_is_tried_again_and_ends_in_the_dead_letter_stream_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    let handler = Handler::new(|body| if body == "bad" { Ok(500) } else { Ok(200) });
    let started = start(redis.port, settings(), &handler);
    redis.ask(&["XADD", "s", "7-7", "data", "bad"]).await;
    redis.ask(&["XADD", "s", "*", "data", "good"]).await;
    until(async || redis.length("s-dead").await == 1).await;
    let dead = redis.dead().await;
    for (name, value) in [
        ("dhow-reason", "answered 500"),
        ("dhow-attempts", "3"),
        ("dhow-stream", "s"),
        ("dhow-id", "7-7"),
        ("dhow-group", "f"),
        ("dhow-function", "default/f"),
        ("data", "bad"),
    ] {
        assert_eq!(dead[0].get(name).map(String::as_str), Some(value), "{dead:?}");
    }
    let mut attempts = handler.calls.lock().clone();
    attempts.retain(|(id, _, _)| id == "7-7");
    assert_eq!(attempts.iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    until(async || redis.pending().await == 0).await;
    assert_eq!((started.counters.failed.load(Relaxed), started.counters.dead_lettered.load(Relaxed)), (3, 1));
    assert!(started.dead.lock()[0].contains("7-7 of s went to s-dead after 3 attempts: answered 500"));
}

#[tokio::test]
async fn what_cannot_be_delivered_at_all_goes_there_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    let handler = Handler::new(|_| Ok(200));
    let started = start(redis.port, settings(), &handler);
    // The first while it waits for one: longer than it would read. The second is read by others only.
    let long = "x".repeat(6 << 20);
    redis.ask(&["XADD", "s", "*", "data", &long]).await;
    until(async || redis.length("s-dead").await == 1).await;
    redis.ask(&["XADD", "s", "*", "data", &long[..(1 << 20) + 1]]).await;
    let client = redis::Client::open(format!("redis://:pass@127.0.0.1:{}", redis.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let add = redis::cmd("XADD").arg("s").arg("*").arg("field").arg(&[0xff_u8][..]).to_owned();
    let _: String = add.query_async(&mut connection).await.unwrap();
    redis.ask(&["XADD", "s", "*", "data", "fits"]).await;
    until(async || handler.bodies() == ["fits"]).await;
    until(async || redis.length("s-dead").await == 3 && redis.pending().await == 0).await;
    let reasons: Vec<String> = started.dead.lock().clone();
    assert!(
        reasons[0].contains("after 0 attempts: it has 6291460 bytes; 1048576 are delivered"),
        "{}",
        reasons[0]
    );
    assert!(reasons.iter().any(|r| r.contains("not UTF-8")), "{reasons:?}");
    assert_eq!(redis.ask(&["XLEN", "s"]).await, redis::Value::Int(4), "the stream keeps what it had");
}

#[tokio::test]
async fn a_message_of_countless_fields_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    let handler = Handler::new(|_| Ok(200));
    let mut many = vec!["XADD", "s", "*"];
    // Beside the others in one answer it would be more than a connection reads.
    many.extend(["f", ""].repeat(350_000));
    redis.ask(&many).await;
    let others: Vec<String> = (0..9).map(|n| format!("{n}")).collect();
    for other in &others {
        redis.ask(&["XADD", "s", "*", "data", other]).await;
    }
    let started = start(redis.port, settings(), &handler);
    until(async || handler.bodies().len() == 9 && redis.pending().await == 0).await;
    let mut bodies = handler.bodies();
    bodies.sort();
    assert_eq!(bodies, others);
    assert_eq!(redis.length("s-dead").await, 1);
    assert!(started.dead.lock()[0].contains("too many fields; 8192 are delivered at most"));
}

#[tokio::test]
async fn a_redis_that_dies_and_comes_back_loses_nothing_and_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    let handler = Handler::new(|_| Ok(200));
    let mut started = start(redis.port, settings(), &handler);
    for n in 0..30 {
        redis.ask(&["XADD", "s", "*", "data", &format!("{n:03}")]).await;
    }
    until(async || handler.calls.lock().len() > 5).await;
    let port = redis.port;
    drop(redis);
    let said = started.until_said(|s| !s.is_ready).await;
    assert_eq!(said.reason, "RedisUnavailable");
    assert!(
        said.message.contains("redis://redis:6379/0") && !said.message.contains("pass"),
        "{}",
        said.message
    );
    assert!(!started.counters.connected.load(Relaxed));
    let redis = Redis::start(dir.path(), Some(port)).await.unwrap();
    for n in 30..40 {
        redis.ask(&["XADD", "s", "*", "data", &format!("{n:03}")]).await;
    }
    until(async || handler.bodies().into_iter().collect::<std::collections::BTreeSet<_>>().len() == 40).await;
    until(async || redis.pending().await == 0).await;
    started.until_said(|s| s.is_ready).await;
    assert_eq!(redis.length("s-dead").await, 0);
}

#[tokio::test]
async fn a_process_that_dies_in_a_call_makes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    redis.ask(&["XADD", "s", "*", "data", "x"]).await;
    let handler = Handler::new(|_| Ok(200));
    handler.hangs.store(true, Relaxed);
    let started = start(redis.port, settings(), &handler);
    until(async || handler.attempts() == [1]).await;
    started.die().await;
    assert_eq!(redis.pending().await, 1);
    handler.hangs.store(false, Relaxed);
    let _again = start(redis.port, settings(), &handler);
    until(async || handler.attempts() == [1, 2]).await;
    until(async || redis.pending().await == 0).await;
}

#[tokio::test]
async fn another_consumers_message_is_taken_over_after_the_visibility_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    redis.ask(&["XGROUP", "CREATE", "s", "f", "0", "MKSTREAM"]).await;
    redis.ask(&["XADD", "s", "1-1", "data", "x"]).await;
    redis.ask(&["XREADGROUP", "GROUP", "f", "somebody", "STREAMS", "s", ">"]).await;
    let handler = Handler::new(|_| Ok(200));
    let s = Settings { visibility: Duration::from_millis(1500), ..settings() };
    let _started = start(redis.port, s, &handler);
    until(async || handler.attempts() == [2]).await;
    until(async || redis.pending().await == 0).await;
}

#[tokio::test]
async fn without_a_pod_nothing_is_taken_and_a_pod_that_cannot_be_reached_costs_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    redis.ask(&["XADD", "s", "*", "data", "x"]).await;
    let reached = Arc::new(AtomicBool::new(false));
    let is_reached = reached.clone();
    let handler = Handler::new(move |_| match is_reached.load(Relaxed) {
        true => Ok(200),
        false => Err(Failure::Unreached("connection refused".into())),
    });
    let mut started = start(redis.port, settings(), &handler);
    until(async || handler.calls.lock().len() >= 2).await;
    assert!(handler.attempts().iter().all(|attempt| *attempt == 1), "{:?}", handler.attempts());
    started.world.has_pods.store(false, Relaxed);
    started.wake.notify_one();
    let said = started.until_said(|s| s.reason == "NoPods").await;
    assert!(said.message.contains("stay in the stream"), "{}", said.message);
    let calls = handler.calls.lock().len();
    redis.ask(&["XADD", "s", "*", "data", "y"]).await;
    started.wake.notify_one();
    reached.store(true, Relaxed);
    assert_eq!(handler.calls.lock().len(), calls);
    started.world.has_pods.store(true, Relaxed);
    started.wake.notify_one();
    until(async || redis.pending().await == 0 && handler.bodies().contains(&"y".to_owned())).await;
    assert_eq!(started.counters.failed.load(Relaxed), 0);
}

#[tokio::test]
async fn a_consumer_that_is_stopped_lets_its_calls_end() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    redis.ask(&["XADD", "s", "*", "data", "x"]).await;
    let (go, gone) = watch::channel(false);
    struct Slow(watch::Receiver<bool>, AtomicBool);
    #[async_trait]
    impl Caller for Slow {
        async fn call(&self, _: Call) -> Result<u16, Failure> {
            self.1.store(true, Relaxed);
            let _ = self.0.clone().wait_for(|go| *go).await;
            Ok(200)
        }
    }
    let slow = Arc::new(Slow(gone, AtomicBool::new(false)));
    let handler = Handler::new(|_| Ok(200));
    let idle = start(redis.port, Settings { stream: "none".into(), ..settings() }, &handler);
    idle.shutdown.cancel();
    soon(idle.task).await.unwrap();
    let (said, _seen) = watch::channel(None);
    let stop = CancellationToken::new();
    let consumer = Consumer {
        settings: settings(),
        surroundings: idle.world.clone(),
        caller: slow.clone(),
        ambient: ambient(),
        counters: Arc::default(),
        said,
        wake: Arc::default(),
        stop: stop.clone(),
        shutdown: CancellationToken::new(),
        dead: Box::new(|_| {}),
    };
    let task = tokio::spawn(consumer.run());
    until(async || slow.1.load(Relaxed)).await;
    stop.cancel();
    redis.ask(&["XADD", "s", "*", "data", "later"]).await;
    go.send(true).unwrap();
    soon(task).await.unwrap();
    assert_eq!(redis.pending().await, 0, "the one under way was acknowledged, the other not taken");
}

#[tokio::test]
async fn a_consumer_that_is_full_waits_and_does_not_look_around() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    let handler = Handler::new(|_| Ok(200));
    handler.hangs.store(true, Relaxed);
    let mut started = start(redis.port, Settings { concurrency: 1, ..settings() }, &handler);
    for body in ["x", "y"] {
        redis.ask(&["XADD", "s", "*", "data", body]).await;
    }
    started.until_said(|s| s.pending == Some(1)).await;
    // Looks at pending messages come every second.
    let began = tokio::time::Instant::now();
    until(async || began.elapsed() > Duration::from_millis(2500)).await;
    assert!(started.world.asked.load(Relaxed) < 20, "{} times", started.world.asked.load(Relaxed));
    assert_eq!(handler.calls.lock().len(), 1, "no more than one is under way");
}

#[tokio::test]
async fn what_redis_refuses_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(dir.path(), None).await else { return };
    redis.ask(&["SET", "s", "no stream"]).await;
    let handler = Handler::new(|_| Ok(200));
    let mut started = start(redis.port, settings(), &handler);
    let said = started.until_said(|s| s.reason == "RedisRefused").await;
    assert!(said.message.contains("WRONGTYPE"), "{}", said.message);
    redis.ask(&["DEL", "s"]).await;
    redis.ask(&["XADD", "s", "*", "data", "x"]).await;
    started.until_said(|s| s.is_ready).await;
    until(async || handler.bodies() == ["x"]).await;
    // The group is taken away under it.
    redis.ask(&["XGROUP", "DESTROY", "s", "f"]).await;
    redis.ask(&["XADD", "s", "*", "data", "y"]).await;
    until(async || handler.bodies().contains(&"y".to_owned())).await;
}
