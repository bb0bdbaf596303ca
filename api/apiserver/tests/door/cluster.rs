//! A server in this process, and short ways to ask it things.
use apiserver::{ApiServer, Body, Config, UserInfo};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use machinery::ambient::Ambient;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{MemoryStore, Store};
use tower::ServiceExt;

pub struct Cluster {
    pub server: ApiServer,
    pub store: Arc<dyn Store>,
}

/// A clock that follows tokio's, and a generator that counts.
pub fn ambient() -> Ambient {
    let epoch = tokio::time::Instant::now();
    let begin = jiff::Timestamp::constant(1_800_000_000, 0);
    let count = AtomicU64::new(1);
    Ambient::new(
        move || begin + jiff::SignedDuration::try_from(epoch.elapsed()).unwrap(),
        // A step that is coprime to everything keeps generated names and addresses apart.
        move || count.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    )
}

/// A memory store on tokio's clock.
pub fn memory() -> Arc<dyn Store> {
    let epoch = tokio::time::Instant::now();
    let clock = Arc::new(move || u64::try_from(epoch.elapsed().as_millis()).unwrap());
    Arc::new(MemoryStore::new(clock, store::Retention::default()))
}

/// An answer whose body was read to its end.
pub struct Got {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }
}

impl Cluster {
    pub async fn new() -> Self {
        Self::over(memory()).await
    }
    pub async fn over(store: Arc<dyn Store>) -> Self {
        let cluster = Self::bare(Config::new(store.clone(), ambient()));
        cluster.server.ensure_bootstrap().await.unwrap();
        cluster
    }
    pub fn bare(config: Config) -> Self {
        Self { store: config.store.clone(), server: ApiServer::new(config) }
    }

    pub async fn send(&self, user: UserInfo, request: Request<Full<Bytes>>) -> http::Response<Body> {
        self.server.service(user).oneshot(request).await.unwrap()
    }
    pub async fn ask(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Got {
        let answer = self.send(UserInfo::admin(), request.body(Full::new(body.into())).unwrap()).await;
        read(answer).await
    }
    pub async fn get(&self, path: &str) -> Got {
        self.ask(Request::get(path), "").await
    }
    pub async fn get_as(&self, path: &str, accept: &str) -> Got {
        self.ask(Request::get(path).header("accept", accept), "").await
    }
    pub async fn post(&self, path: &str, body: Value) -> Got {
        self.with(Method::POST, path, "application/json", body).await
    }
    pub async fn put(&self, path: &str, body: Value) -> Got {
        self.with(Method::PUT, path, "application/json", body).await
    }
    pub async fn delete(&self, path: &str, options: Value) -> Got {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.ask(Request::delete(path).header("content-type", "application/json"), body).await
    }
    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Got {
        self.with(Method::PATCH, path, &format!("application/{kind}+json"), body).await
    }
    async fn with(&self, method: Method, path: &str, content_type: &str, body: Value) -> Got {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        self.ask(request, body.to_string()).await
    }
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::get(path).header("accept", accept).body(Full::default()).unwrap();
        let answer = self.send(UserInfo::admin(), request).await;
        if answer.status() != StatusCode::OK {
            let got = read(answer).await;
            panic!("{} {}", got.code, got.text);
        }
        Watch { body: answer.into_body(), rest: Vec::new() }
    }
}

pub async fn read(answer: http::Response<Body>) -> Got {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Got {
        code: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// An open watch.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }
    /// The next event as `TYPE name`.
    pub async fn shown(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
    })
}
pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "registry.example/app:1"}]},
            },
        },
    })
}
