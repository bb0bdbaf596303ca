//! A small API server in memory, for tests of crates that may not depend on the real one: objects by path, list in
//! pages, watch, merge patch, the pods/binding subresource, and faults on request. It knows no kinds, no defaults
//! and no validation.
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use machinery::ambient::Ambient;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Frames = mpsc::Sender<Value>;

#[derive(Default)]
struct State {
    revision: u64,
    /// Objects by full path: `/api/v1/namespaces/default/pods/a`.
    objects: BTreeMap<String, Value>,
    /// What happened, for watches that begin later: revision, path, frame.
    history: Vec<(u64, String, Value)>,
    watches: Vec<(String, Frames)>,
    requests: Vec<String>,
    /// Answers to give instead, first to last: a status code.
    failures: Vec<u16>,
    /// Watches end as soon as they begin.
    closes_watches: bool,
    /// So many requests get no answer at all.
    silent: usize,
    /// Watches are refused: every version is too old.
    expires_watches: bool,
    page: usize,
}

#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

/// An ambient for tests: tokio's clock and a counter.
pub fn ambient() -> Ambient {
    let start = tokio::time::Instant::now();
    let counter = std::sync::atomic::AtomicU64::new(1);
    Ambient::new(
        move || jiff::Timestamp::UNIX_EPOCH + start.elapsed(),
        move || counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
    )
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let api = self.clone();
        crate::in_process(tower::service_fn(move |r| api.clone().answer(r)), "default")
    }

    /// Lists answer with so many objects at most.
    pub fn with_page(self, page: usize) -> Self {
        self.state.lock().page = page;
        self
    }

    /// The collection `path` gets an object called `name`; watchers hear of it.
    pub fn put(&self, path: &str, name: &str, mut object: Value) {
        let mut s = self.state.lock();
        s.revision += 1;
        let full = format!("{path}/{name}");
        let old = s.objects.get(&full);
        let created = old.is_none();
        let uid = old.map_or_else(|| json!(format!("uid-{}", s.revision)), |o| o["metadata"]["uid"].clone());
        object["metadata"]["name"] = json!(name);
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(s.revision.to_string());
        s.objects.insert(full.clone(), object.clone());
        s.send(&full, json!({ "type": if created { "ADDED" } else { "MODIFIED" }, "object": object }));
    }

    pub fn remove(&self, path: &str, name: &str) {
        let mut s = self.state.lock();
        s.revision += 1;
        let full = format!("{path}/{name}");
        let mut object = s.objects.remove(&full).unwrap();
        object["metadata"]["resourceVersion"] = json!(s.revision.to_string());
        s.send(&full, json!({ "type": "DELETED", "object": object }));
    }

    /// Changes objects as if no watcher had heard of it, then tells every watcher that its version is too old.
    pub fn expire(&self, change: impl FnOnce(&FakeApi)) {
        let watches = std::mem::take(&mut self.state.lock().watches);
        change(self);
        let gone = json!({ "type": "ERROR", "object": status(410, "Expired") });
        for (_, frames) in watches {
            frames.try_send(gone.clone()).unwrap();
        }
    }

    pub fn close_watches(&self) {
        let mut s = self.state.lock();
        s.watches.clear();
        s.closes_watches = true;
    }

    pub fn expire_watches(&self) {
        self.state.lock().expires_watches = true;
    }

    /// The next `count` requests get no answer, as on a dead connection.
    pub fn fall_silent(&self, count: usize) {
        self.state.lock().silent = count;
    }

    pub fn fail(&self, codes: &[u16]) {
        self.state.lock().failures = codes.to_vec();
    }

    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    pub fn objects(&self) -> Vec<Value> {
        self.state.lock().objects.values().cloned().collect()
    }

    async fn answer(self, request: Request<Body>) -> Result<Reply, Infallible> {
        // One turn of the scheduler, as any server takes.
        tokio::task::yield_now().await;
        let silent = {
            let mut s = self.state.lock();
            let silent = s.silent > 0;
            s.silent = s.silent.saturating_sub(1);
            silent
        };
        if silent {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let body: Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut s = self.state.lock();
        s.requests.push(format!("{} {path}?{query}", parts.method));
        if !s.failures.is_empty() {
            let code = s.failures.remove(0);
            return Ok(reply(code, &status(code, "Faulty")));
        }
        if query.contains("watch=true") {
            return Ok(s.watch(&path, &query));
        }
        Ok(match parts.method {
            Method::GET => match s.objects.get(&path) {
                Some(object) => reply(200, object),
                None if is_collection(&path) => s.list(&path, &query),
                None => reply(404, &status(404, "NotFound")),
            },
            Method::POST if path.ends_with("/binding") => {
                let path = path.trim_end_matches("/binding");
                let Some(mut held) = s.objects.get(path).cloned() else {
                    return Ok(reply(404, &status(404, "NotFound")));
                };
                if held["spec"]["nodeName"].is_string() {
                    return Ok(reply(409, &status(409, "Conflict")));
                }
                drop(s);
                held["spec"]["nodeName"] = body["target"]["name"].clone();
                let (collection, name) = path.rsplit_once('/').unwrap();
                self.put(collection, name, held);
                reply(
                    201,
                    &json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success" }),
                )
            }
            Method::POST => {
                let name = match body["metadata"]["name"].as_str() {
                    Some(name) => name.to_owned(),
                    None => format!("{}{}", body["metadata"]["generateName"].as_str().unwrap(), s.revision),
                };
                if s.objects.contains_key(&format!("{path}/{name}")) {
                    return Ok(reply(409, &status(409, "AlreadyExists")));
                }
                drop(s);
                self.put(&path, &name, body);
                reply(201, &self.state.lock().objects[&format!("{path}/{name}")])
            }
            Method::PUT => {
                let Some(held) = s.objects.get(&path) else {
                    return Ok(reply(404, &status(404, "NotFound")));
                };
                if held["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Ok(reply(409, &status(409, "Conflict")));
                }
                drop(s);
                let (collection, name) = path.rsplit_once('/').unwrap();
                self.put(collection, name, body);
                reply(200, &self.state.lock().objects[&path])
            }
            Method::PATCH => {
                let path = path.strip_suffix("/status").unwrap_or(&path).to_owned();
                let Some(mut held) = s.objects.get(&path).cloned() else {
                    return Ok(reply(404, &status(404, "NotFound")));
                };
                drop(s);
                merge(&mut held, &body);
                let (collection, name) = path.rsplit_once('/').unwrap();
                self.put(collection, name, held);
                reply(200, &self.state.lock().objects[&path])
            }
            Method::DELETE => {
                let Some(held) = s.objects.get(&path).cloned() else {
                    return Ok(reply(404, &status(404, "NotFound")));
                };
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != held["metadata"]["uid"] {
                    return Ok(reply(409, &status(409, "Conflict")));
                }
                drop(s);
                let (collection, name) = path.rsplit_once('/').unwrap();
                self.remove(collection, name);
                reply(200, &held)
            }
            _ => reply(405, &status(405, "MethodNotAllowed")),
        })
    }
}

impl State {
    fn send(&mut self, path: &str, frame: Value) {
        self.history.push((self.revision, path.to_owned(), frame.clone()));
        self.watches
            .retain(|(prefix, frames)| !is_within(prefix, path) || frames.try_send(frame.clone()).is_ok());
    }

    fn list(&self, path: &str, query: &str) -> Reply {
        let from = query.split('&').find_map(|p| p.strip_prefix("continue=")).unwrap_or_default();
        let mut all =
            self.objects.iter().filter(|(k, _)| is_within(path, k) && k.replace('/', ".").as_str() > from);
        let page = if self.page == 0 { usize::MAX } else { self.page };
        let mut items = Vec::new();
        let mut last = String::new();
        for (k, v) in all.by_ref().take(page) {
            items.push(v.clone());
            last = k.replace('/', ".");
        }
        let more = all.next().is_some();
        reply(
            200,
            &json!({
                "apiVersion": "v1", "kind": "List", "items": items,
                "metadata": { "resourceVersion": self.revision.to_string(), "continue": if more { last } else { String::new() } },
            }),
        )
    }

    fn watch(&mut self, path: &str, query: &str) -> Reply {
        if self.expires_watches {
            return reply(410, &status(410, "Expired"));
        }
        let (frames, waiting) = mpsc::channel::<Value>(4096);
        let since: u64 = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="))
            .and_then(|v| v.parse().ok())
            .unwrap_or_default();
        for (_, _, frame) in self.history.iter().filter(|(v, p, _)| *v > since && is_within(path, p)) {
            frames.try_send(frame.clone()).unwrap();
        }
        if !self.closes_watches {
            self.watches.push((path.to_owned(), frames));
        }
        let stream = futures::stream::unfold(waiting, |mut waiting| async move {
            let frame = waiting.recv().await?;
            let line = Bytes::from(format!("{frame}\n"));
            Some((Ok::<_, Infallible>(http_body::Frame::data(line)), waiting))
        });
        Response::new(StreamBody::new(stream).boxed_unsync())
    }
}

/// A collection's path over all namespaces.
fn without_namespace(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    if let Some(at) = parts.iter().position(|p| *p == "namespaces")
        && parts.len() > at + 2
    {
        parts.drain(at..at + 2);
    }
    parts.join("/")
}

fn is_within(collection: &str, object: &str) -> bool {
    let own = object.rsplit_once('/').map_or("", |(own, _)| own);
    own == collection || without_namespace(own) == collection
}

/// `/api/v1/pods` and `/apis/group/version/pods`, with a namespace or without.
fn is_collection(path: &str) -> bool {
    let depth = if path.starts_with("/apis/") { 5 } else { 4 };
    without_namespace(path).split('/').count() == depth
}

/// A JSON merge patch. Of strategic patches it knows `$patch: replace` in a list: every list is replaced anyway.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (k, v) in patch {
                match v {
                    Value::Null => drop(into.remove(k)),
                    v => merge(into.entry(k.clone()).or_insert(Value::Null), v),
                }
            }
        }
        (into, Value::Array(items)) => {
            *into = items.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
        }
        (into @ Value::Null, Value::Object(_)) => {
            *into = Value::Object(Default::default());
            merge(into, patch);
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": reason })
}

fn reply(code: u16, body: &Value) -> Reply {
    let mut r = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *r.status_mut() = StatusCode::from_u16(code).unwrap();
    r
}
