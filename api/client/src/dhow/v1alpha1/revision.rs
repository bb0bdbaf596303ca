//! Revision: one unchangeable version of a Function.
use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

/// One version of a Function, called `<function>-r<N>`. Its controller makes a Deployment and a Service of the same
/// name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Revision {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: RevisionSpec,
    #[serde(default)]
    pub status: Option<RevisionStatus>,
}

super::namespaced_kind!(Revision, RevisionSpec, RevisionStatus, "revisions");

/// The part of a Function's spec whose change makes a new revision. The fields are [`FunctionSpec`]'s.
///
/// [`FunctionSpec`]: super::FunctionSpec
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    #[serde(default)]
    pub image: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyvalue: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

impl RevisionSpec {
    /// `spec.port`, or the default.
    pub fn port_or_default(&self) -> i32 {
        self.port.unwrap_or(super::function::DEFAULT_PORT)
    }
}

/// How it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    #[serde(default)]
    pub replicas: i32,
    #[serde(default)]
    pub ready_replicas: i32,
    /// `Ready`: it can serve. `Active`: requests are sent to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_writes_its_kind_and_reads_itself_back() {
        let spec = RevisionSpec { image: "hello:1".into(), timeout_seconds: Some(5), ..Default::default() };
        let r = Revision {
            metadata: ObjectMeta { name: Some("hello-r1".into()), ..ObjectMeta::default() },
            spec,
            status: None,
        };
        let v = serde_json::to_value(&r).unwrap();
        assert_eq!(
            v,
            json!({ "apiVersion": "dhow.dev/v1alpha1", "kind": "Revision", "metadata": { "name": "hello-r1" },
                    "spec": { "image": "hello:1", "timeoutSeconds": 5 } })
        );
        assert_eq!(serde_json::from_value::<Revision>(v).unwrap(), r);
        assert_eq!(
            <Revision as kube::Resource>::url_path(&(), Some("a")),
            "/apis/dhow.dev/v1alpha1/namespaces/a/revisions"
        );
    }
}
