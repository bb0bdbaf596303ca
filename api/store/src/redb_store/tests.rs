use super::*;
use crate::suite::{self, Hands};
use bytes::Bytes;
use futures::StreamExt;
use std::time::Duration;

fn put(n: u64) -> Op {
    Op::Put { value: Bytes::from(format!("{n:01024}")), ttl: None }
}

fn open(path: &Path) -> Result<RedbStore, OpenError> {
    RedbStore::open(path, Hands::default().clock(), Retention::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redb_store_passes_the_suite() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut n = 0;
    suite::run(|hands| {
        n += 1;
        let path = directory.path().join(format!("{n}/state.redb"));
        RedbStore::open(&path, hands.clock(), Retention::default()).expect("open")
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    {
        let store = open(&path).expect("open");
        for n in 0..50 {
            store.commit(&format!("/k/{}", n % 10), Expect::Any, put(n)).await.expect("put");
        }
    }
    let store = open(&path).expect("open again");
    assert_eq!(store.head().await.expect("head"), 50);
    assert_eq!(store.list("/k/", None, 0, None).await.expect("list").kvs.len(), 10);
    let mut watch = store.watch("/k/", 48).await.expect("history is kept too");
    assert_eq!(watch.next().await.expect("an event").expect("no error").revision(), 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_can_read_the_file_whoever_may_enter_its_directory() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let mode = || std::fs::metadata(&path).expect("the file").permissions().mode() & 0o777;
    drop(open(&path).expect("a new store"));
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened to all");
    drop(open(&path).expect("the same store"));
    assert_eq!(mode(), 0o600);
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let _held = open(&path).expect("open");
    match open(&path) {
        Err(OpenError::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("opened twice: {:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn a_file_cut_short_anywhere_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    {
        let store = open(&path).expect("open");
        for n in 0..200 {
            store.commit(&format!("/k/{n}"), Expect::Any, put(n)).await.expect("put");
        }
    }
    let whole = std::fs::read(&path).expect("read");
    for length in
        [1, 8, 31, 32, 63, 64, 100, 4095, 4096, whole.len() / 2, whole.len() - 4096, whole.len() - 1]
    {
        std::fs::write(&path, &whole[..length]).expect("write");
        match open(&path) {
            Err(e @ OpenError::Damaged { .. }) => assert!(e.to_string().contains("copy"), "{e}"),
            other => panic!("{length} of {} bytes: {:?}", whole.len(), other.map(|_| ())),
        }
        assert_eq!(std::fs::read(&path).expect("read"), &whole[..length], "the file was touched");
    }
    std::fs::write(&path, b"not a store at all, but long enough to look like one").expect("write");
    assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
    std::fs::write(&path, &whole).expect("write");
    assert_eq!(open(&path).expect("the whole file opens").head().await.expect("head"), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_stays_bounded_under_a_steady_load() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let retention = Retention { revisions: 500, bytes: 64 << 20 };
    let store = Arc::new(RedbStore::open(&path, Hands::default().clock(), retention).expect("open"));
    let mut sizes = Vec::new();
    for round in 0..4u64 {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..32u64 {
            let store = store.clone();
            tasks.spawn(async move {
                for n in 0..80 {
                    let key = format!("/k/{}", (writer * 80 + n) % 256);
                    store.commit(&key, Expect::Any, put(round * 10_000 + n)).await.expect("put");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a writer");
        }
        sizes.push(std::fs::metadata(&path).expect("metadata").len());
    }
    let head = store.head().await.expect("head");
    assert_eq!(head, 4 * 32 * 80);
    assert!(store.compacted().await.expect("compacted") >= head - 500);
    assert_eq!(sizes[1], sizes[3], "the file grew under a steady load: {sizes:?}");
}

#[tokio::test]
async fn history_is_bounded_in_bytes_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let retention = Retention { revisions: 10_000, bytes: 10 << 10 };
    let path = directory.path().join("state.redb");
    let store = RedbStore::open(&path, Hands::default().clock(), retention).expect("open");
    for n in 0..100 {
        store.commit("/k", Expect::Any, put(n)).await.expect("put");
    }
    let kept = 100 - store.compacted().await.expect("compacted");
    assert!((5..=10).contains(&kept), "{kept} revisions of 1 KiB in 10 KiB");
}

#[tokio::test]
async fn keys_expire_after_a_restart_as_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let hands = Hands::default();
    let brief = Op::Put { value: Bytes::from_static(b"x"), ttl: Some(Duration::from_secs(5)) };
    {
        let store = RedbStore::open(&path, hands.clock(), Retention::default()).expect("open");
        store.commit("/e", Expect::Any, brief).await.expect("put");
    }
    hands.advance(Duration::from_secs(6));
    let store = RedbStore::open(&path, hands.clock(), Retention::default()).expect("open");
    let mut watch = store.watch("/e", 1).await.expect("watch");
    let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("in time");
    assert!(matches!(event, Some(Ok(crate::Event::Delete { revision: 2, .. }))), "{event:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_expire_while_the_writer_never_rests() {
    let directory = tempfile::tempdir().expect("a directory");
    let hands = Hands::default();
    let store = RedbStore::open(&directory.path().join("state.redb"), hands.clock(), Retention::default());
    let store = store.expect("open");
    let brief = Op::Put { value: Bytes::from_static(b"x"), ttl: Some(Duration::from_secs(5)) };
    store.commit("/e", Expect::Any, brief).await.expect("put");
    hands.advance(Duration::from_secs(6));
    // Far less than a second lies between two of these writes.
    let busy = async {
        let mut n = 0;
        while store.get("/e", None).await.expect("get").0.is_some() {
            n += 1;
            store.commit("/k", Expect::Any, put(n)).await.expect("put");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), busy).await.expect("the key is still there");
}
