use crate::cluster::*;
use serde_json::{Value, json};
use std::time::Duration;

fn watched(query: &str) -> String {
    format!("{CONFIG_MAPS}?watch=true&{query}")
}

async fn make(c: &Cluster, name: &str) -> Value {
    c.post(CONFIG_MAPS, config_map(name, json!({}))).await.expect(201)
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let c = Cluster::new().await;
    make(&c, "a").await;
    let mut watch = c.watch(&watched("")).await;
    assert_eq!(watch.shown().await, "ADDED a");
    let b = make(&c, "b").await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &b));
    c.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"x": "y"}})).await.expect(200);
    assert_eq!(watch.shown().await, "MODIFIED a");
    c.delete(&format!("{CONFIG_MAPS}/b"), json!(null)).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["uid"], b["metadata"]["uid"]);
    assert_ne!(event["object"]["metadata"]["resourceVersion"], b["metadata"]["resourceVersion"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_revision_sees_every_later_change_and_nothing_before() {
    let c = Cluster::new().await;
    let a = make(&c, "a").await;
    let version = a["metadata"]["resourceVersion"].as_str().unwrap();
    make(&c, "b").await;
    let mut watch = c.watch(&watched(&format!("resourceVersion={version}"))).await;
    assert_eq!(watch.shown().await, "ADDED b");
    make(&c, "d").await;
    assert_eq!(watch.shown().await, "ADDED d");
    // A second watcher finds the events in the hub's ring, not in the store.
    let mut second = c.watch(&watched(&format!("resourceVersion={version}"))).await;
    assert_eq!(second.shown().await, "ADDED b");
    assert_eq!(second.shown().await, "ADDED d");
}

#[tokio::test(start_paused = true)]
async fn a_compacted_revision_is_an_error_event_of_410() {
    let c = Cluster::new().await;
    for name in ["a", "b", "d"] {
        make(&c, name).await;
    }
    c.store.compact(c.store.head().await.unwrap()).await.unwrap();
    let mut watch = c.watch(&watched("resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_does_not_exist_yet_is_refused() {
    let c = Cluster::new().await;
    let got = c.get(&watched("resourceVersion=999999")).await;
    assert_eq!(got.code, 504);
    assert_eq!(got.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_leaves_the_selection_is_deleted_and_one_that_enters_it_is_added() {
    let c = Cluster::new().await;
    let version = make(&c, "a").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = c.watch(&watched(&format!("resourceVersion={version}&labelSelector=x%3Dy"))).await;
    let label = |value: Value| {
        let c = &c;
        async move {
            let body = json!({"metadata": {"labels": {"x": value}}});
            c.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", body).await.expect(200)
        }
    };
    let entered = label(json!("y")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &entered));
    let left = label(json!("z")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["x"], "y", "the object as it was");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    c.delete(&format!("{CONFIG_MAPS}/a"), json!(null)).await.expect(200);
    make(&c, "other").await;
    c.patch(&format!("{CONFIG_MAPS}/other"), "merge-patch", json!({"metadata": {"labels": {"x": "y"}}}))
        .await
        .expect(200);
    assert_eq!(watch.shown().await, "ADDED other", "what was out of the selection went unseen");
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_marked_bookmark() {
    let c = Cluster::new().await;
    make(&c, "a").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = c.watch(&watched(query)).await;
    let first = watch.shown().await;
    let mut mark = watch.next().await.unwrap();
    if mark["type"] != "BOOKMARK" {
        mark = watch.next().await.unwrap();
    }
    assert!(first.starts_with("ADDED"));
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    make(&c, "b").await;
    assert_eq!(watch.shown().await, "ADDED b");
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let c = Cluster::new().await;
    let begun = tokio::time::Instant::now();
    let head = c.store.head().await.unwrap();
    let path = watched(&format!("resourceVersion={head}&allowWatchBookmarks=true&timeoutSeconds=150"));
    let mut watch = c.watch(&path).await;
    let mut times = Vec::new();
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "BOOKMARK");
        times.push(begun.elapsed().as_secs());
    }
    assert_eq!(times, [60, 120, 150]);
    assert_eq!(begun.elapsed().as_secs(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_carries_the_newest_version_though_nothing_matched() {
    let c = Cluster::new().await;
    let head = c.store.head().await.unwrap();
    let path = watched(&format!(
        "resourceVersion={head}&allowWatchBookmarks=true&labelSelector=never%3Dhere&timeoutSeconds=70"
    ));
    let mut watch = c.watch(&path).await;
    let made = make(&c, "a").await;
    let version: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let mark = watch.next().await.unwrap();
    let marked: u64 = mark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(marked >= version, "{marked} < {version}");
}

#[tokio::test(start_paused = true)]
async fn tables_name_their_columns_once_and_metadata_watches_leave_the_rest_out() {
    let c = Cluster::new().await;
    make(&c, "a").await;
    let mut watch =
        c.watch_as(&format!("{CONFIG_MAPS}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].as_array().is_some_and(|c| !c.is_empty()));
    make(&c, "b").await;
    let second = watch.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");

    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let mut watch = c.watch_as(&format!("{CONFIG_MAPS}?watch=1"), accept).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(event["object"].get("data"), None);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_fell_out_of_the_ring_reads_the_history_and_then_follows_again() {
    let c = Cluster::new().await;
    let head = c.store.head().await.unwrap();
    let mut slow = c.watch(&watched(&format!("resourceVersion={head}"))).await;
    // More than a ring holds, while nobody reads.
    for i in 0..1_500 {
        make(&c, &format!("c{i}")).await;
    }
    for i in 0..1_500 {
        assert_eq!(slow.shown().await, format!("ADDED c{i}"));
    }
    make(&c, "last").await;
    assert_eq!(slow.shown().await, "ADDED last");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_one_namespace_sees_no_other() {
    let c = Cluster::new().await;
    let head = c.store.head().await.unwrap();
    let mut one = c.watch(&watched(&format!("resourceVersion={head}"))).await;
    let mut all = c.watch(&format!("/api/v1/configmaps?watch=1&resourceVersion={head}")).await;
    c.post("/api/v1/namespaces/kube-system/configmaps", config_map("there", json!({}))).await.expect(201);
    make(&c, "here").await;
    assert_eq!(one.shown().await, "ADDED here");
    assert_eq!(all.shown().await, "ADDED there");
    assert_eq!(all.shown().await, "ADDED here");
}

#[tokio::test(start_paused = true)]
async fn watches_end_when_the_server_shuts_down() {
    let c = Cluster::new().await;
    let head = c.store.head().await.unwrap();
    let mut watch = c.watch(&watched(&format!("resourceVersion={head}"))).await;
    let (ended, ()) = tokio::time::timeout(Duration::from_secs(5), async {
        tokio::join!(watch.next(), c.server.shutdown())
    })
    .await
    .unwrap();
    assert!(ended.is_none());
}
