//! `dhow.dev/v1alpha1`: Function, a program that answers HTTP, named by its image.
use k8s_openapi::api::core::v1::{EnvVar, LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize, Serializer};

/// A program that answers HTTP. Its controller makes a Deployment and a Service of the same name; the gateway
/// routes its hosts and paths to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Function {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: FunctionSpec,
    #[serde(default)]
    pub status: Option<FunctionStatus>,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    #[serde(default)]
    pub image: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// The server's default is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The port the program serves on; the server's default is 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Host names that reach it, beside `<name>.localhost` and `<name>.<namespace>.localhost`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Path prefixes that reach it; all paths when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

impl FunctionSpec {
    /// `spec.replicas`, or the default.
    pub fn replicas_or_default(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }
    /// `spec.port`, or the default.
    pub fn port_or_default(&self) -> i32 {
        self.port.unwrap_or(8080)
    }
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub replicas: i32,
    #[serde(default)]
    pub ready_replicas: i32,
    /// Where the gateway serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `Ready`.
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

impl k8s_openapi::Resource for Function {
    const API_VERSION: &'static str = "dhow.dev/v1alpha1";
    const GROUP: &'static str = "dhow.dev";
    const KIND: &'static str = "Function";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "functions";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Function {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// With `apiVersion` and `kind`, as k8s-openapi's own types write themselves.
impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: &'a ObjectMeta,
            spec: &'a FunctionSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: &'a Option<FunctionStatus>,
        }
        Wire {
            api_version: <Self as k8s_openapi::Resource>::API_VERSION,
            kind: <Self as k8s_openapi::Resource>::KIND,
            metadata: &self.metadata,
            spec: &self.spec,
            status: &self.status,
        }
        .serialize(serializer)
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
