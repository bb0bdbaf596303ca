//! Clients over a socket and in process.
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::config::{
    AuthInfo, Cluster, Config, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};
use tower::{BoxError, Service};

/// A client for an API server in this process: `service` is its door, already authenticated as some user.
///
/// Must be called inside a tokio runtime; the client ends with it.
pub fn in_process<S, B>(service: S, default_namespace: &str) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, default_namespace)
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] KubeconfigError),
    #[error("no client for {server}")]
    Client {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// Who one is to the API server.
#[derive(Clone)]
pub enum Credentials {
    /// A client certificate and its key, PEM.
    Certificate { certificate_pem: String, key_pem: String },
    /// A bearer token.
    Token(String),
    /// Nobody (`system:anonymous`).
    None,
}

/// Where an API server is, how to know it, and who one is to it.
#[derive(Clone)]
pub struct Access {
    /// `https://127.0.0.1:6443`.
    pub server: String,
    /// The certificate authority that signed the server's certificate, PEM.
    pub ca_pem: String,
    pub credentials: Credentials,
    /// The namespace meant when none is named.
    pub namespace: String,
}

impl Access {
    /// The kubeconfig that says the same, with one cluster, one user and one context, all called `name`.
    /// Serialised as JSON or YAML it is what kubectl reads.
    pub fn to_kubeconfig(&self, name: &str) -> Kubeconfig {
        let user = match &self.credentials {
            Credentials::Certificate { certificate_pem, key_pem } => AuthInfo {
                client_certificate_data: Some(base64(certificate_pem.as_bytes())),
                client_key_data: Some(base64(key_pem.as_bytes()).into()),
                ..AuthInfo::default()
            },
            Credentials::Token(token) => {
                AuthInfo { token: Some(token.clone().into()), ..AuthInfo::default() }
            }
            Credentials::None => AuthInfo::default(),
        };
        Kubeconfig {
            api_version: Some("v1".into()),
            kind: Some("Config".into()),
            current_context: Some(name.into()),
            clusters: vec![NamedCluster {
                name: name.into(),
                cluster: Some(Cluster {
                    server: Some(self.server.clone()),
                    certificate_authority_data: Some(base64(self.ca_pem.as_bytes())),
                    ..Cluster::default()
                }),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: name.into(),
                auth_info: Some(user),
                ..Default::default()
            }],
            contexts: vec![NamedContext {
                name: name.into(),
                context: Some(Context {
                    cluster: name.into(),
                    user: Some(name.into()),
                    namespace: Some(self.namespace.clone()),
                    ..Context::default()
                }),
                ..Default::default()
            }],
            ..Kubeconfig::default()
        }
    }
}

/// A client over TLS.
pub async fn from_access(access: &Access) -> Result<Client, ConnectError> {
    from_kubeconfig(access.to_kubeconfig("dhow"), None).await
}

/// A client for a context of a kubeconfig, the current one unless named.
pub async fn from_kubeconfig(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Client, ConnectError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(ConnectError::Kubeconfig)?;
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client { server, source: Box::new(source) })
}

/// Standard base64 with padding, as kubeconfig's `*-data` fields hold it.
fn base64(bytes: &[u8]) -> String {
    use k8s_openapi::ByteString;
    // ByteString is base64 on the wire; serialising one never fails and gives a JSON string.
    match serde_json::to_value(ByteString(bytes.to_vec())) {
        Ok(serde_json::Value::String(s)) => s,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_becomes_a_kubeconfig_that_reads_back_the_same() {
        let access = Access {
            server: "https://127.0.0.1:6443".into(),
            ca_pem: "CA".into(),
            credentials: Credentials::Certificate { certificate_pem: "CERT".into(), key_pem: "KEY".into() },
            namespace: "default".into(),
        };
        let text = serde_json::to_string(&access.to_kubeconfig("dhow")).unwrap();
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("dhow"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Q0E="));
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.client_certificate_data.as_deref(), Some("Q0VSVA=="));
        assert!(text.contains("\"client-key-data\":\"S0VZ\""), "{text}");
    }
}
