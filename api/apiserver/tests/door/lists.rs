use crate::cluster::*;
use serde_json::{Value, json};

async fn filled(names: &[&str]) -> Cluster {
    let c = Cluster::new().await;
    for name in names {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"odd": (name.len() % 2 == 1).to_string()});
        c.post(CONFIG_MAPS, object).await.expect(201);
    }
    c
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn pages_are_of_one_revision_whatever_happens_between_them() {
    let c = filled(&["a", "b", "d", "e", "f"]).await;
    let first = c.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    c.post(CONFIG_MAPS, config_map("c", json!({}))).await.expect(201);
    c.delete(&format!("{CONFIG_MAPS}/e"), json!(null)).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = c.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["d", "e"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = c.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&last), ["f"]);
    assert_eq!(last["metadata"].get("continue"), None);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_comes_with_one_that_goes_on() {
    let c = filled(&["a", "b", "d"]).await;
    let first = c.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200);
    c.post(CONFIG_MAPS, config_map("z", json!({}))).await.expect(201);
    c.store.compact(c.store.head().await.unwrap()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = c.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let rest = c.get(&format!("{CONFIG_MAPS}?continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["b", "d", "z"]);
    assert_eq!(c.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn selectors_choose_and_limits_count_what_was_chosen() {
    let c = filled(&["a", "bb", "d", "ee", "f"]).await;
    let odd = c.get(&format!("{CONFIG_MAPS}?labelSelector=odd%3Dtrue&limit=2")).await.expect(200);
    assert_eq!(names(&odd), ["a", "d"]);
    assert_eq!(odd["metadata"].get("remainingItemCount"), None);
    let token = odd["metadata"]["continue"].as_str().unwrap();
    let rest =
        c.get(&format!("{CONFIG_MAPS}?labelSelector=odd%3Dtrue&limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["f"]);
    assert_eq!(
        names(&c.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dbb")).await.json()),
        ["bb"]
    );
    assert_eq!(
        names(
            &c.get("/api/v1/configmaps?fieldSelector=metadata.name!%3Dbb,metadata.namespace%3Ddefault")
                .await
                .json()
        )
        .len(),
        4
    );
    let unknown = c.get(&format!("{CONFIG_MAPS}?fieldSelector=data.x%3Dy")).await;
    assert_eq!(unknown.code, 400);
    assert!(unknown.message().ends_with("field label not supported: data.x"), "{}", unknown.message());
    assert_eq!(c.get(&format!("{CONFIG_MAPS}?labelSelector=a%20b%20c")).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn pods_are_selected_by_node_and_phase() {
    let c = Cluster::new().await;
    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = json!("n1");
    c.post(PODS, bound).await.expect(201);
    c.post(PODS, pod("free")).await.expect(201);
    let list = async |selector: &str| {
        let list = c.get(&format!("/api/v1/pods?fieldSelector={selector}")).await.expect(200);
        names(&list).join(",")
    };
    assert_eq!(list("spec.nodeName%3Dn1").await, "bound");
    assert_eq!(list("spec.nodeName%3D").await, "free");
    assert_eq!(list("status.phase!%3DSucceeded").await, "bound,free");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_is_read_exactly_and_one_that_will_be_is_refused() {
    let c = filled(&["a"]).await;
    let then = c.store.head().await.unwrap();
    c.post(CONFIG_MAPS, config_map("b", json!({}))).await.expect(201);
    let exact =
        c.get(&format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["a"]);
    assert_eq!(names(&c.get(&format!("{CONFIG_MAPS}?resourceVersion={then}")).await.json()), ["a", "b"]);
    assert_eq!(names(&c.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.json()), ["a", "b"]);
    let future = c.get(&format!("{CONFIG_MAPS}?resourceVersion=99999")).await;
    assert_eq!((future.code, future.headers["retry-after"].to_str().unwrap()), (504, "1"));
    c.store.compact(c.store.head().await.unwrap()).await.unwrap();
    let gone = c.get(&format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await;
    assert_eq!(gone.expect(410)["reason"], "Expired");
}

#[tokio::test(start_paused = true)]
async fn lists_come_as_tables_and_as_metadata() {
    let c = filled(&["a"]).await;
    let table = c
        .get_as(CONFIG_MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .await
        .expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(table["metadata"]["resourceVersion"].is_string());
    let metadata = c
        .get_as(CONFIG_MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        .await
        .expect(200);
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(metadata["items"][0]["metadata"]["name"], "a");
    assert_eq!(c.get_as(CONFIG_MAPS, "application/xml").await.code, 406);
}

#[tokio::test(start_paused = true)]
async fn both_event_apis_show_the_same_events() {
    let c = Cluster::new().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "it runs", "type": "Normal", "source": {"component": "me"},
        "firstTimestamp": "2027-01-15T08:00:00Z", "lastTimestamp": "2027-01-15T08:00:00Z", "count": 1,
    });
    c.post("/api/v1/namespaces/default/events", event).await.expect(201);
    let newer = c.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(newer["apiVersion"], "events.k8s.io/v1");
    assert_eq!(newer["note"], "it runs");
    assert_eq!(newer["regarding"]["name"], "p");
    let mut watch = c.watch("/apis/events.k8s.io/v1/events?watch=1").await;
    let seen = watch.next().await.unwrap();
    assert_eq!(seen["object"]["note"], "it runs");
    tokio::time::sleep(std::time::Duration::from_secs(3_601)).await;
    c.get("/api/v1/namespaces/default/events/e").await.expect(404);
}
