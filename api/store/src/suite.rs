//! What every [`Store`] must do. Implementations call [`run`] from a test; each check makes its own store.
use crate::{Error, Event, Expect, Kv, Op, Store};
use bytes::Bytes;
use futures::stream::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock the suite moves by hand.
#[derive(Clone, Default)]
pub struct Hands(Arc<AtomicU64>);

impl Hands {
    pub fn clock(&self) -> crate::Clock {
        let hands = self.0.clone();
        Arc::new(move || hands.load(Ordering::SeqCst))
    }
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

fn put(value: &str) -> Op {
    Op::Put { value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

type Watch = crate::Events;

/// The next event that is not a progress report; panics when none comes within ten seconds.
async fn next(watch: &mut Watch) -> Result<Event, Error> {
    let event = async {
        loop {
            match watch.next().await {
                Some(Ok(Event::Progress(_))) => {}
                Some(other) => return other,
                None => panic!("the watch ended"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), event).await.expect("an event within ten seconds")
}

fn text(kv: &Option<Kv>) -> Option<&str> {
    kv.as_ref().map(|kv| std::str::from_utf8(&kv.value).expect("UTF-8"))
}

fn keys(kvs: &[Kv]) -> Vec<&str> {
    kvs.iter().map(|kv| kv.key.as_str()).collect()
}

/// Runs every check, each on a store of its own made by `make`, which is handed the clock to use.
///
/// # Panics
/// When a check fails.
pub async fn run<S: Store>(mut make: impl FnMut(Hands) -> S) {
    let mut fresh = || Arc::new(make(Hands::default())) as Arc<dyn Store>;
    expectations(fresh()).await;
    versions(fresh()).await;
    pages(fresh()).await;
    reads_in_the_past(fresh()).await;
    watches(fresh()).await;
    a_long_past_comes_in_parts(fresh()).await;
    a_watch_sees_what_happens_while_it_starts(fresh()).await;
    compaction(fresh()).await;
    sizes(fresh()).await;
    racing_writers(fresh()).await;
    let hands = Hands::default();
    expiry(Arc::new(make(hands.clone())), hands).await;
}

async fn expectations(s: Arc<dyn Store>) {
    assert_eq!(s.head().await.expect("head"), 0);
    let one = s.commit("/a", Expect::Absent, put("1")).await.expect("create");
    assert_eq!((one.revision, one.previous), (1, None));
    match s.commit("/a", Expect::Absent, put("2")).await {
        Err(Error::Conflict { current: Some(kv) }) => assert_eq!(kv.value, "1"),
        other => panic!("creating twice: {other:?}"),
    }
    assert!(matches!(s.commit("/a", Expect::ModRevision(7), put("2")).await, Err(Error::Conflict { .. })));
    assert!(matches!(
        s.commit("/b", Expect::ModRevision(1), put("2")).await,
        Err(Error::Conflict { current: None })
    ));
    assert!(matches!(s.commit("/b", Expect::Any, Op::Delete).await, Err(Error::Conflict { current: None })));
    assert_eq!(s.head().await.expect("head"), 1, "a refused commit takes no revision");
    let two = s.commit("/a", Expect::ModRevision(1), put("2")).await.expect("update");
    assert_eq!((two.revision, text(&two.previous)), (2, Some("1")));
    let three = s.commit("/a", Expect::ModRevision(2), Op::Delete).await.expect("delete");
    assert_eq!((three.revision, text(&three.previous)), (3, Some("2")));
    assert_eq!(s.get("/a", None).await.expect("get"), (None, 3));
}

async fn versions(s: Arc<dyn Store>) {
    for value in ["1", "2", "3"] {
        s.commit("/a", Expect::Any, put(value)).await.expect("put");
    }
    let kv = s.get("/a", None).await.expect("get").0.expect("a value");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (1, 3, 3));
    s.commit("/a", Expect::Any, Op::Delete).await.expect("delete");
    s.commit("/a", Expect::Absent, put("4")).await.expect("create again");
    let kv = s.get("/a", None).await.expect("get").0.expect("a value");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

async fn pages(s: Arc<dyn Store>) {
    for key in ["/p/c", "/p/a", "/q/x", "/p/b", "/p", "/p/d"] {
        s.commit(key, Expect::Any, put(key)).await.expect("put");
    }
    let all = s.list("/p/", None, 0, None).await.expect("list");
    assert_eq!((keys(&all.kvs), all.remaining, all.revision), (vec!["/p/a", "/p/b", "/p/c", "/p/d"], 0, 6));
    let first = s.list("/p/", None, 3, None).await.expect("list");
    assert_eq!((keys(&first.kvs), first.remaining), (vec!["/p/a", "/p/b", "/p/c"], 1));
    s.commit("/p/bb", Expect::Any, put("late")).await.expect("put");
    s.commit("/p/d", Expect::Any, Op::Delete).await.expect("delete");
    let second = s.list("/p/", Some("/p/c"), 3, Some(first.revision)).await.expect("list");
    assert_eq!((keys(&second.kvs), second.remaining), (vec!["/p/d"], 0), "pages are of one revision");
    let now = s.list("/p/", None, 0, None).await.expect("list");
    assert_eq!(keys(&now.kvs), vec!["/p/a", "/p/b", "/p/bb", "/p/c"]);
}

async fn reads_in_the_past(s: Arc<dyn Store>) {
    s.commit("/a", Expect::Any, put("1")).await.expect("put");
    s.commit("/b", Expect::Any, put("1")).await.expect("put");
    s.commit("/a", Expect::Any, put("2")).await.expect("put");
    s.commit("/b", Expect::Any, Op::Delete).await.expect("delete");
    s.commit("/a", Expect::Any, put("3")).await.expect("put");
    for (at, a, b) in
        [(1, Some("1"), None), (2, Some("1"), Some("1")), (3, Some("2"), Some("1")), (4, Some("2"), None)]
    {
        assert_eq!(text(&s.get("/a", Some(at)).await.expect("get").0), a, "/a at {at}");
        assert_eq!(text(&s.get("/b", Some(at)).await.expect("get").0), b, "/b at {at}");
        let listed = s.list("/", None, 0, Some(at)).await.expect("list").kvs.len();
        assert_eq!(listed, usize::from(a.is_some()) + usize::from(b.is_some()), "list at {at}");
    }
    assert!(matches!(s.get("/a", Some(6)).await, Err(Error::FutureRevision { asked: 6, head: 5 })));
    assert!(matches!(s.list("/", None, 0, Some(6)).await, Err(Error::FutureRevision { .. })));
}

async fn watches(s: Arc<dyn Store>) {
    s.commit("/w/a", Expect::Any, put("1")).await.expect("put");
    s.commit("/other", Expect::Any, put("x")).await.expect("put");
    s.commit("/w/a", Expect::Any, put("2")).await.expect("put");
    s.commit("/w/a", Expect::Any, Op::Delete).await.expect("delete");
    let mut from_start = s.watch("/w/", 0).await.expect("watch");
    let mut from_three = s.watch("/w/", 3).await.expect("watch");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut from_start).await.expect("event"));
    }
    assert!(matches!(&seen[0], Event::Put { kv, previous: None } if kv.value == "1" && kv.mod_revision == 1));
    assert!(matches!(&seen[1], Event::Put { kv, previous: Some(p) } if kv.value == "2" && p.value == "1"));
    assert!(matches!(&seen[2], Event::Delete { revision: 4, previous: Some(p), .. } if p.value == "2"));
    assert_eq!(next(&mut from_three).await.expect("event").revision(), 4);
    s.commit("/w/b", Expect::Any, put("live")).await.expect("put");
    for watch in [&mut from_start, &mut from_three] {
        let event = next(watch).await.expect("event");
        assert!(matches!(event, Event::Put { kv, previous: None } if kv.value == "live" && kv.version == 1));
    }
    assert!(matches!(s.watch("/w/", 9).await, Err(Error::FutureRevision { .. })));
}

/// However much has happened, one watcher holds a part of it; the parts make the whole.
async fn a_long_past_comes_in_parts(s: Arc<dyn Store>) {
    const WRITES: u64 = 24;
    let large = "x".repeat(512 * 1024);
    for n in 0..WRITES {
        s.commit(&format!("/l/{}", n % 5), Expect::Any, put(&large)).await.expect("put");
    }
    let (mut after, mut parts, mut most) = (0, 0, 0);
    while after < WRITES {
        let mut watch = s.watch("/l/", after).await.expect("watch");
        parts += 1;
        let mut bytes = 0;
        loop {
            match next(&mut watch).await {
                Ok(Event::Put { kv, previous }) => {
                    assert_eq!(kv.mod_revision, after + 1, "each once, in order");
                    after = kv.mod_revision;
                    bytes += kv.value.len() + previous.map_or(0, |kv| kv.value.len());
                }
                Err(Error::Lagged) => break,
                other => panic!("{other:?}"),
            }
            if after == WRITES {
                break;
            }
        }
        most = most.max(bytes);
    }
    assert!(parts > 4 && most <= 4 * 1024 * 1024, "{parts} parts, {most} bytes in the largest");
    let mut watch = s.watch("/l/", after).await.expect("watch");
    s.commit("/l/0", Expect::Any, put("live")).await.expect("put");
    assert!(matches!(next(&mut watch).await, Ok(Event::Put { kv, .. }) if kv.value == "live"));
}

/// Writers and a starting watch race; each revision must arrive once, in order.
async fn a_watch_sees_what_happens_while_it_starts(s: Arc<dyn Store>) {
    const WRITES: u64 = 300;
    let writer = {
        let s = s.clone();
        tokio::spawn(async move {
            for n in 0..WRITES {
                s.commit(&format!("/r/{}", n % 7), Expect::Any, put("v")).await.expect("put");
            }
        })
    };
    let mut after = 0;
    while after < WRITES {
        let mut watch = s.watch("/r/", after).await.expect("watch");
        // A few events from each watch, so that many watches start while writes go on.
        for _ in 0..20.min(WRITES - after) {
            let event = next(&mut watch).await.expect("event");
            assert_eq!(event.revision(), after + 1);
            after += 1;
        }
    }
    writer.await.expect("the writer");
}

async fn compaction(s: Arc<dyn Store>) {
    for n in 0..10 {
        s.commit("/a", Expect::Any, put(&n.to_string())).await.expect("put");
    }
    s.compact(5).await.expect("compact");
    assert_eq!(s.compacted().await.expect("compacted"), 5);
    assert!(matches!(s.get("/a", Some(4)).await, Err(Error::Compacted { asked: 4, oldest: 5 })));
    assert!(matches!(s.watch("/a", 4).await, Err(Error::Compacted { .. })));
    assert_eq!(text(&s.get("/a", Some(5)).await.expect("get").0), Some("4"));
    let mut watch = s.watch("/a", 5).await.expect("watch");
    assert_eq!(next(&mut watch).await.expect("event").revision(), 6);
    s.compact(3).await.expect("compacting again, further back, changes nothing");
    assert_eq!(s.compacted().await.expect("compacted"), 5);
    assert!(matches!(s.compact(99).await, Err(Error::FutureRevision { .. })));
}

async fn sizes(s: Arc<dyn Store>) {
    let at_limit = Op::Put { value: vec![7; crate::MAX_VALUE_BYTES].into(), ttl: None };
    s.commit("/big", Expect::Any, at_limit).await.expect("a value at the limit");
    let over = Op::Put { value: vec![7; crate::MAX_VALUE_BYTES + 1].into(), ttl: None };
    assert!(matches!(s.commit("/big", Expect::Any, over).await, Err(Error::TooLarge { .. })));
    let kv = s.get("/big", None).await.expect("get").0.expect("a value");
    assert_eq!(kv.value.len(), crate::MAX_VALUE_BYTES);
}

/// Many writers add one to the same counter by compare-and-swap: none of the additions may be lost.
async fn racing_writers(s: Arc<dyn Store>) {
    s.commit("/n", Expect::Absent, put("0")).await.expect("put");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let s = s.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                loop {
                    let kv = s.get("/n", None).await.expect("get").0.expect("the counter");
                    let n: u64 = std::str::from_utf8(&kv.value).expect("UTF-8").parse().expect("a number");
                    let expect = Expect::ModRevision(kv.mod_revision);
                    match s.commit("/n", expect, put(&(n + 1).to_string())).await {
                        Ok(_) => break,
                        Err(Error::Conflict { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a writer");
    }
    assert_eq!(text(&s.get("/n", None).await.expect("get").0), Some("160"));
}

async fn expiry(s: Arc<dyn Store>, hands: Hands) {
    let brief =
        |v: &str| Op::Put { value: Bytes::copy_from_slice(v.as_bytes()), ttl: Some(Duration::from_secs(60)) };
    s.commit("/e/brief", Expect::Any, brief("b")).await.expect("put");
    s.commit("/e/renewed", Expect::Any, brief("r")).await.expect("put");
    s.commit("/e/kept", Expect::Any, put("k")).await.expect("put");
    hands.advance(Duration::from_secs(30));
    s.commit("/e/renewed", Expect::Any, brief("r2")).await.expect("put");
    let mut watch = s.watch("/e/", s.head().await.expect("head")).await.expect("watch");
    hands.advance(Duration::from_secs(31));
    // A store without a thread of its own settles when it is used.
    s.head().await.expect("head");
    let event = next(&mut watch).await.expect("event");
    assert!(matches!(&event, Event::Delete { key, .. } if key == "/e/brief"), "{event:?}");
    let left = s.list("/e/", None, 0, None).await.expect("list");
    assert_eq!(keys(&left.kvs), vec!["/e/kept", "/e/renewed"]);
}
