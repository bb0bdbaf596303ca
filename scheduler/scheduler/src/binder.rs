//! What the scheduler tells the API server: bindings, and why a pod has none.
use crate::pod_info::PodInfo;
use async_trait::async_trait;
use client::Client;
use client::k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use client::kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::future::Future;
use std::time::Duration;

/// How long the API server may take: well beyond what a store under load needs to commit.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a binding or a condition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The pod is gone, or another of its name is there.
    #[error("the pod {pod} is gone")]
    Gone { pod: String },
    /// The connection may be dead; whether the request took effect, the watch will show.
    #[error("no answer about {what} of pod {pod} within {ANSWER:?}")]
    NoAnswer { what: &'static str, pod: String },
    #[error("cannot write {what} of pod {pod}")]
    Api {
        what: &'static str,
        pod: String,
        #[source]
        source: Box<client::kube::Error>,
    },
}

/// The extension point Bind, and the writer of a pod's PodScheduled condition.
#[async_trait]
pub trait Binder: Send + Sync + 'static {
    /// Gives the pod its node.
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError>;

    /// Says in the pod's status that it has no node, and why.
    async fn explain(&self, pod: &PodInfo, condition: PodCondition) -> Result<(), BindError>;
}

/// Binds through the API server.
pub struct ApiBinder {
    client: Client,
}

impl ApiBinder {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.key.namespace)
    }
}

/// Waits for the answer to a request.
async fn answer<T>(
    what: &'static str,
    pod: &PodInfo,
    request: impl Future<Output = Result<T, client::kube::Error>> + Send,
) -> Result<(), BindError> {
    let name = || pod.key.to_string();
    match tokio::time::timeout(ANSWER, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) if client::is_not_found(&source) => Err(BindError::Gone { pod: name() }),
        Ok(Err(source)) => Err(BindError::Api { what, pod: name(), source: Box::new(source) }),
        Err(_) => Err(BindError::NoAnswer { what, pod: name() }),
    }
}

#[async_trait]
impl Binder for ApiBinder {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                // A pod that was deleted and made anew must not get the old one's node.
                uid: pod.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let (pods, params) = (self.pods(pod), PostParams::default());
        let request =
            pods.create_subresource::<_, serde_json::Value>("binding", &pod.key.name, &params, &binding);
        answer("the binding", pod, request).await
    }

    async fn explain(&self, pod: &PodInfo, condition: PodCondition) -> Result<(), BindError> {
        // The uid makes the patch fail on another pod of the same name. Conditions merge by type.
        let patch = json!({
            "metadata": { "uid": pod.pod.metadata.uid },
            "status": { "conditions": [condition] },
        });
        let (pods, params, patch) = (self.pods(pod), PatchParams::default(), Patch::Strategic(&patch));
        answer("the status", pod, pods.patch_status(&pod.key.name, &params, &patch)).await
    }
}

/// The PodScheduled condition to write, or None if the pod says so already.
pub fn plan_condition(pod: &Pod, reason: &str, message: &str, now: Time) -> Option<PodCondition> {
    let held = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .find(|c| c.type_ == "PodScheduled");
    let same_status = held.is_some_and(|c| c.status == "False");
    if let Some(held) = held
        && same_status
        && held.reason.as_deref() == Some(reason)
        && held.message.as_deref() == Some(message)
    {
        return None;
    }
    let since = held.filter(|_| same_status).and_then(|c| c.last_transition_time.clone());
    Some(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(now)),
        ..PodCondition::default()
    })
}
