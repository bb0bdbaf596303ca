//! Function: a program that answers HTTP, named by its image.
use super::{RevisionSpec, TrafficStatus, TrafficTarget, Trigger, TriggerStatus};
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The port a program serves on when nothing else is said.
pub(super) const DEFAULT_PORT: i32 = 8080;
/// How long a request may take when nothing else is said.
const DEFAULT_TIMEOUT_SECONDS: i32 = 30;
/// Revisions without traffic that are kept when nothing else is said, as ReplicaSets of a Deployment.
const DEFAULT_REVISION_HISTORY_LIMIT: i32 = 10;

/// A program that answers HTTP. Its controller makes a Revision of every version and a Service of the function's
/// name; the gateway routes its hosts and paths to the revisions that have a share of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Function {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: FunctionSpec,
    #[serde(default)]
    pub status: Option<FunctionStatus>,
}

super::namespaced_kind!(Function, FunctionSpec, FunctionStatus, "functions");

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    #[serde(default)]
    pub image: String,
    /// Interfaces that the component imports: its pods go only where they are offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// ConfigMaps and Secrets whose keys become environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Where the program may connect to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
    /// Mount paths that the program reads through wasi:config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<String>,
    /// Buckets that the program may open through wasi:keyvalue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyvalue: Vec<String>,
    /// Pods of each revision that has a share of the traffic; the server's default is `min_replicas`, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// The port the program serves on; the server's default is 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// How long a request may take as a whole at the gateway; 30 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    /// How many requests one pod works on at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// Host names that reach it, beside `<name>.localhost` and `<name>.<namespace>.localhost`; `*.example.com` stands
    /// for one label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Path prefixes that reach it; all paths when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Who gets which requests; empty: the newest ready revision gets all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
}

impl FunctionSpec {
    /// How many pods each revision with a share of the traffic has: `replicas` between `min_replicas` and
    /// `max_replicas`. Zero stays zero: the function is switched off.
    pub fn replicas_or_default(&self) -> i32 {
        let min = self.min_replicas.unwrap_or(0);
        let max = self.max_replicas.unwrap_or(i32::MAX).max(min);
        match self.replicas {
            Some(0) => 0,
            replicas => replicas.unwrap_or(1).max(min).min(max),
        }
    }

    /// `spec.port`, or the default.
    pub fn port_or_default(&self) -> i32 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// How long a request may take at the gateway, from its first byte to the last one of the answer.
    pub fn timeout_or_default(&self) -> Duration {
        let seconds = self.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// `spec.revisionHistoryLimit`, or the default.
    pub fn revision_history_limit_or_default(&self) -> usize {
        let limit = self.revision_history_limit.unwrap_or(DEFAULT_REVISION_HISTORY_LIMIT);
        usize::try_from(limit).unwrap_or(0)
    }

    /// The part whose change makes a new revision.
    pub fn revision_spec(&self) -> RevisionSpec {
        RevisionSpec {
            image: self.image.clone(),
            imports: self.imports.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            env_from: self.env_from.clone(),
            volumes: self.volumes.clone(),
            volume_mounts: self.volume_mounts.clone(),
            egress: self.egress.clone(),
            config: self.config.clone(),
            keyvalue: self.keyvalue.clone(),
            resources: self.resources.clone(),
            timeout_seconds: self.timeout_seconds,
            concurrency: self.concurrency,
            port: self.port,
            image_pull_secrets: self.image_pull_secrets.clone(),
        }
    }
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of the revision with the largest share.
    #[serde(default)]
    pub replicas: i32,
    #[serde(default)]
    pub ready_replicas: i32,
    /// The labels of its pods, as a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where the gateway serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The newest revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_created_revision: Option<String>,
    /// The newest revision that has ever been ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_ready_revision: Option<String>,
    /// What the gateway serves now: revisions that are ready and have endpoints. Until the first one is, it is
    /// empty, and the gateway sends to the Service of the function's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<TriggerStatus>,
    /// `Ready`: what is wanted is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Function {
    /// A function called `name` in `namespace`.
    pub fn new(namespace: &str, name: &str, spec: FunctionSpec) -> Self {
        Self {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_function_writes_its_kind_and_reads_itself_back() {
        let f =
            Function::new("default", "hello", FunctionSpec { image: "hello:1".into(), ..Default::default() });
        let v = serde_json::to_value(&f).unwrap();
        assert_eq!(
            v,
            json!({ "apiVersion": "dhow.dev/v1alpha1", "kind": "Function",
                    "metadata": { "name": "hello", "namespace": "default" }, "spec": { "image": "hello:1" } })
        );
        assert_eq!(serde_json::from_value::<Function>(v).unwrap(), f);
        assert_eq!(<Function as kube::Resource>::plural(&()), "functions");
        assert_eq!(
            <Function as kube::Resource>::url_path(&(), Some("a")),
            "/apis/dhow.dev/v1alpha1/namespaces/a/functions"
        );
    }
}
