use super::*;
use crate::fake_api::FakeApi;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

const PATH: &str = "/api/v1/configmaps";

fn config(value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "v": value },
            "metadata": { "managedFields": [{ "manager": "kubectl", "operation": "Update" }] } })
}

fn start(api: &FakeApi) -> (Informers, Informer<ConfigMap>, CancellationToken) {
    let shutdown = CancellationToken::new();
    let informers = Informers::new(api.client(), shutdown.clone());
    let maps = informers.get::<ConfigMap>();
    (informers, maps, shutdown)
}

/// A change as text: `+name=value`, `-name`, `!`.
fn shown(change: Change<ConfigMap>) -> String {
    let name = |m: &ConfigMap| m.metadata.name.clone().unwrap();
    match change {
        Change::Applied(m) => format!("+{}={}", name(&m), m.data.as_ref().unwrap()["v"]),
        Change::Deleted(m) => format!("-{}", name(&m)),
        Change::Resync => "!".into(),
    }
}

async fn hear(changes: &mut Subscription<ConfigMap>, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard
            .push(shown(timeout(Duration::from_secs(600), changes.next()).await.expect("a change").unwrap()));
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn a_list_in_pages_is_followed_by_what_changes() {
    let api = FakeApi::default().with_page(2);
    for name in ["a", "b", "c", "d", "e"] {
        api.put(PATH, name, config("1"));
    }
    let (informers, maps, _stop) = start(&api);
    assert!(maps.synced().await);
    assert_eq!(maps.len(), 5);
    assert_eq!(maps.list()[4].metadata.name.as_deref(), Some("e"));
    assert!(maps.get("", "c").unwrap().metadata.managed_fields.is_none());

    let mut changes = maps.subscribe();
    assert_eq!(hear(&mut changes, 5).await, ["+a=1", "+b=1", "+c=1", "+d=1", "+e=1"]);
    api.put(PATH, "b", config("2"));
    api.remove(PATH, "c");
    api.put(PATH, "f", config("1"));
    assert_eq!(hear(&mut changes, 3).await, ["+b=2", "-c", "+f=1"]);
    assert!(maps.get("", "c").is_none());
    assert_eq!(maps.list_where(|m| m.data.as_ref().unwrap()["v"] == "2").len(), 1);

    // A second user of the kind shares the watch.
    let before = api.requests().len();
    assert!(informers.get::<ConfigMap>().synced().await);
    assert_eq!(api.requests().len(), before);
}

#[tokio::test(start_paused = true)]
async fn after_an_expired_version_subscribers_hear_exactly_what_differs() {
    let api = FakeApi::default();
    for name in ["a", "b", "c"] {
        api.put(PATH, name, config("1"));
    }
    let (_informers, maps, _stop) = start(&api);
    maps.synced().await;
    let mut changes = maps.subscribe();
    hear(&mut changes, 3).await;
    // The watch begins after the list; wait until it is there.
    api.put(PATH, "a", config("2"));
    assert_eq!(hear(&mut changes, 1).await, ["+a=2"]);
    api.expire(|api| {
        api.remove(PATH, "a");
        api.put(PATH, "a", config("3"));
        api.remove(PATH, "b");
        api.put(PATH, "d", config("1"));
    });
    assert_eq!(hear(&mut changes, 4).await, ["-a", "+a=3", "+d=1", "-b"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_or_ends_or_refuses_every_watch_is_asked_ever_more_seldom() {
    for refuse in [FakeApi::close_watches, FakeApi::expire_watches] {
        let api = FakeApi::default();
        api.fail(&[503, 500, 503]);
        refuse(&api);
        let (_informers, maps, _stop) = start(&api);
        assert!(timeout(Duration::from_secs(2), maps.synced()).await.unwrap());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        // At most one attempt each 22 s (30 s less a quarter), of a list and a watch, and a few at the beginning.
        assert!(api.requests().len() < 2 * 3600 / 22 + 20, "{}", api.requests().len());
        assert!(api.requests().len() > 3600 / 30);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gives_no_answer_is_asked_again() {
    let api = FakeApi::default();
    api.put(PATH, "a", config("1"));
    api.fall_silent(1);
    let (_informers, maps, _stop) = start(&api);
    assert!(timeout(Duration::from_secs(120), maps.synced()).await.unwrap());
    let mut changes = maps.subscribe();
    hear(&mut changes, 1).await;
    // The watch gets no answer either, and what happens meanwhile is not lost.
    api.fall_silent(1);
    api.expire(|api| api.put(PATH, "a", config("2")));
    assert_eq!(hear(&mut changes, 1).await, ["+a=2"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_fell_behind_starts_again_from_everything() {
    let api = FakeApi::default();
    let (_informers, maps, _stop) = start(&api);
    maps.synced().await;
    let mut slow = maps.subscribe();
    let mut quick = maps.subscribe();
    for i in 0..1100 {
        api.put(PATH, &format!("m{i:04}"), config("1"));
        hear(&mut quick, 1).await;
    }
    api.remove(PATH, "m0000");
    hear(&mut quick, 1).await;
    let heard = hear(&mut slow, 1100).await;
    assert_eq!((heard[0].as_str(), heard[1].as_str(), heard[1099].as_str()), ("!", "+m0001=1", "+m1099=1"));
    api.put(PATH, "new", config("1"));
    assert_eq!(hear(&mut slow, 1).await, ["+new=1"]);
}

#[tokio::test(start_paused = true)]
async fn the_shutdown_ends_watches_subscriptions_and_waiting() {
    let api = FakeApi::default();
    api.fail(&[500; 1000]);
    let (informers, maps, stop) = start(&api);
    let mut changes = maps.subscribe();
    stop.cancel();
    assert!(!maps.synced().await);
    assert!(changes.next().await.is_none());
    assert!(maps.subscribe().next().await.is_none());
    informers.ended().await;
}

#[tokio::test(start_paused = true)]
async fn dynamic_informers_know_kinds_by_name() {
    let api = FakeApi::default();
    api.put(PATH, "a", config("1"));
    let informers = Informers::new(api.client(), CancellationToken::new());
    let resource = api_resource("v1", "ConfigMap", "configmaps");
    let whole = informers.dynamic(&resource);
    let meta = informers.metadata(&resource);
    assert!(whole.synced().await && meta.synced().await);
    assert_eq!(whole.get("", "a").unwrap().data["data"]["v"], "1");
    assert_eq!(meta.get("", "a").unwrap().types.as_ref().unwrap().kind, "ConfigMap");
}
