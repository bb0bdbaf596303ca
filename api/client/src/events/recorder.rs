//! Writes events through the API server.
use super::correlator::{Correlator, Said, Verdict};
use crate::backoff::Backoff;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use machinery::ambient::Ambient;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events that may wait to be written: client-go's broadcaster holds as many. About 1 KiB each.
const WAITING: usize = 1000;
/// Tries for one event; then it is dropped, for newer ones wait behind it.
const TRIES: u32 = 4;
const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(10);
/// How long the API server may take for one: as long as client-go's default for a request without streaming.
const ANSWER: Duration = Duration::from_secs(30);
/// The limits of events validation upstream: a longer message is cut rather than refused.
const MESSAGE_BYTES: usize = 1024;
/// The longest name of an object (a DNS subdomain).
const NAME_BYTES: usize = 253;

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Tells people about objects. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Said>,
    dropped: Arc<AtomicU64>,
    tasks: TaskTracker,
}

impl Recorder {
    /// A recorder that speaks as `component` (`kubelet`) on `host` (a node's name, or empty). It writes until
    /// `shutdown`. Must be called inside a tokio runtime.
    pub fn new(
        client: Client,
        ambient: Ambient,
        component: &str,
        host: &str,
        shutdown: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|h| !h.is_empty()),
        };
        let writer =
            Writer { client, ambient, source, dropped: dropped.clone(), correlator: Correlator::default() };
        let tasks = TaskTracker::new();
        tasks.spawn(async move { shutdown.run_until_cancelled(writer.run(waiting)).await });
        tasks.close();
        Self { queue, dropped, tasks }
    }

    /// Says something about an object of a type known at compile time. Never waits, never fails.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_about(object.object_ref(&()), event_type, reason, message);
    }

    /// Says something about whatever `about` refers to (a `fieldPath` names a container:
    /// `spec.containers{web}`). Never waits, never fails.
    pub fn event_about(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES - 3));
            message.push_str("...");
        }
        let said = Said { about, event_type: event_type.as_str(), reason: reason.to_owned(), message };
        if self.queue.try_send(said).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were not written: the queue was full, an object had too many, or the API server refused.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits, after the shutdown, until the writer has ended.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }
}

struct Writer {
    client: Client,
    ambient: Ambient,
    source: EventSource,
    dropped: Arc<AtomicU64>,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Said>) {
        while let Some(said) = waiting.recv().await {
            // On a dead connection there is no answer; the events behind must not wait for ever.
            let written = tokio::time::timeout(TRIES * (ANSWER + RETRY_CAP), self.write(&said)).await;
            if !written.unwrap_or(false) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// False when the event was dropped.
    async fn write(&mut self, said: &Said) -> bool {
        // Events about cluster-scoped objects live in the default namespace.
        let namespace = said.about.namespace.clone().filter(|n| !n.is_empty());
        let api = Api::<Event>::namespaced(self.client.clone(), namespace.as_deref().unwrap_or("default"));
        let mut verdict = self.correlator.judge(said, self.ambient.now().as_second());
        let mut backoff = Backoff::new(&said.reason, RETRY_BASE, RETRY_CAP);
        for _ in 0..TRIES {
            let result = match &verdict {
                Verdict::Drop => return false,
                Verdict::Create { message } => {
                    let event = self.compose(said, message, namespace.as_deref().unwrap_or("default"));
                    let created = api.create(&PostParams::default(), &event).await;
                    if created.is_ok() {
                        self.correlator.created(said, message, event.metadata.name.unwrap_or_default());
                    }
                    created
                }
                Verdict::Repeat { name, count, message } => {
                    let now = Time(self.ambient.now());
                    let patch = json!({ "count": count, "message": message, "lastTimestamp": now });
                    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
                }
            };
            match (result, &verdict) {
                (Ok(_), _) => return true,
                // It was forgotten (its time to live is an hour): say it anew.
                (Err(e), Verdict::Repeat { message, .. }) if crate::is_not_found(&e) => {
                    self.correlator.gone(said, message);
                    verdict = Verdict::Create { message: message.clone() };
                }
                // The name is taken; the next try makes another one.
                (Err(e), _) if crate::is_already_exists(&e) => {}
                // Refused: the namespace is going away, or the event is invalid. Trying again does not help.
                (Err(kube::Error::Api(status)), _)
                    if (400..500).contains(&status.code) && status.code != 429 =>
                {
                    tracing::debug!(reason = said.reason, %status, "an event was refused");
                    return false;
                }
                (Err(error), _) => {
                    tracing::debug!(reason = said.reason, %error, "cannot write an event, trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
        false
    }

    fn compose(&self, said: &Said, message: &str, namespace: &str) -> Event {
        let now = self.ambient.now();
        // client-go's name: the object's, a dot, and something unique in hex (there the time in nanoseconds).
        let mut name =
            format!("{}.{:x}", said.about.name.as_deref().unwrap_or_default(), self.ambient.random());
        if name.len() > NAME_BYTES {
            name = self.ambient.uuid();
        }
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: said.about.clone(),
            type_: Some(said.event_type.to_owned()),
            reason: Some(said.reason.clone()),
            message: Some(message.to_owned()),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::{FakeApi, ambient};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    fn pod() -> Pod {
        let metadata =
            ObjectMeta { name: Some("web".into()), namespace: Some("shop".into()), ..Default::default() };
        Pod { metadata, ..Pod::default() }
    }

    fn recorder(api: &FakeApi) -> Recorder {
        Recorder::new(api.client(), ambient(), "kubelet", "n1", CancellationToken::new())
    }

    /// The events, once `enough` holds for them.
    async fn events(api: &FakeApi, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        for _ in 0..1000 {
            let events = api.objects();
            if enough(&events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not enough events: {:?}", api.objects());
    }

    #[tokio::test(start_paused = true)]
    async fn equal_events_are_one_object_with_a_count() {
        let api = FakeApi::default();
        let r = recorder(&api);
        r.event(&pod(), EventType::Warning, "BackOff", "again");
        r.event(&pod(), EventType::Warning, "BackOff", "again");
        r.event(&pod(), EventType::Warning, "BackOff", "again");
        let events = events(&api, |e| e.first().is_some_and(|e| e["count"] == 3)).await;
        assert_eq!(events.len(), 1);
        let e = &events[0];
        assert!(e["metadata"]["name"].as_str().unwrap().starts_with("web."));
        assert_eq!(e["involvedObject"]["kind"], "Pod");
        assert_eq!((&e["metadata"]["namespace"], &e["source"]["host"]), (&"shop".into(), &"n1".into()));
        assert_eq!(r.dropped(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_faulty_server_loses_no_event_and_a_full_queue_only_counts() {
        let api = FakeApi::default();
        api.fail(&[500, 503]);
        let r = recorder(&api);
        r.event(&pod(), EventType::Normal, "Started", "x".repeat(5000));
        let first = events(&api, |e| e.len() == 1).await;
        assert_eq!(first[0]["message"].as_str().unwrap().len(), MESSAGE_BYTES);
        api.fail(&[500; 100_000]);
        for i in 0..WAITING + 50 {
            r.event(&pod(), EventType::Normal, "Started", format!("m{i}"));
        }
        assert_eq!(r.dropped(), 50);
    }
}
