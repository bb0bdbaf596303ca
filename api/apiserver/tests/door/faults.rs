//! The store fails as stores fail.
use crate::cluster::*;
use serde_json::json;
use std::sync::Arc;
use store::{Faults, FaultyStore};

async fn faulty() -> (Cluster, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::around(memory(), Faults::default(), 7));
    (Cluster::over(store.clone()).await, store)
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_everything_once_and_in_order_though_the_stores_watch_breaks() {
    let (c, store) = faulty().await;
    let head = c.store.head().await.unwrap();
    let mut watch = c.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={head}")).await;
    store.set_faults(Faults { broken_watch: 300, ..Faults::default() });
    for i in 0..200 {
        c.post(CONFIG_MAPS, config_map(&format!("c{i}"), json!({}))).await.expect(201);
        assert_eq!(watch.shown().await, format!("ADDED c{i}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_a_503_and_trying_again_tells_what_became_of_it() {
    let (c, store) = faulty().await;
    store.set_faults(Faults { lost_answer: 1000, ..Faults::default() });
    let lost = c.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!((lost.code, lost.json()["reason"].as_str().unwrap()), (503, "ServiceUnavailable"));
    store.set_faults(Faults::default());
    let again = c.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    assert_eq!((again.code, again.json()["reason"].as_str().unwrap()), (409, "AlreadyExists"));
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_store() {
    let (c, store) = faulty().await;
    store.set_faults(Faults { read_error: 1000, ..Faults::default() });
    let (ready, read) = (c.get("/readyz").await, c.get(CONFIG_MAPS).await);
    store.set_faults(Faults::default());
    assert_eq!(read.code, 503);
    assert_eq!(ready.code, 500);
    assert!(ready.text.contains("[-]store failed"), "{}", ready.text);
    assert_eq!(c.get("/readyz").await.text, "ok");
}
