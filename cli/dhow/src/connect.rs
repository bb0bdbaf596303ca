//! Which cluster a command talks to.
use anyhow::{Context, Result};
use client::Client;
use client::kube::config::{KubeConfigOptions, Kubeconfig};
use client::kube::{Config, client::ConfigExt};
use http_body_util::{BodyExt, Limited};
use std::path::PathBuf;

/// Flags of every command that talks to a cluster.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Cluster {
    /// The kubeconfig file [default: $KUBECONFIG, then the one `dhow up` wrote, then ~/.kube/config]; for `dhow up` the
    /// one to write [default: kubeconfig in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace to look in [default: the context's, else `default`]
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
}

/// A client and the namespace it means when none is named.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    config: Config,
}

impl Connection {
    /// Posts a body that is read while it is sent. kube's own client takes only bodies that are there as a whole.
    pub(crate) async fn post_stream<B>(&self, path: &str, body: B) -> Result<()>
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connector = self.config.rustls_https_connector()?;
        let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .build(connector);
        let base = self.config.cluster_url.to_string();
        let request = http::Request::post(format!("{}{path}", base.trim_end_matches('/'))).body(body)?;
        let response = client.request(request).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(());
        }
        let text = Limited::new(response.into_body(), 64 << 10).collect().await;
        let text = text.map(|t| t.to_bytes()).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        anyhow::bail!("{}", status["message"].as_str().unwrap_or(code.as_str()))
    }
}

impl Cluster {
    /// The file to read: flag, environment, the local cluster's, the user's.
    fn path(&self) -> Option<PathBuf> {
        if let Some(path) = &self.kubeconfig {
            return Some(path.clone());
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
            return std::env::split_paths(&list).find(|p| p.is_file());
        }
        let local = crate::dirs::default_data_dir().ok().map(|d| crate::dirs::Layout::new(d).kubeconfig());
        let home = std::env::home_dir().map(|h| h.join(".kube/config"));
        local.into_iter().chain(home).find(|p| p.is_file())
    }

    /// A client for the cluster these flags name.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let path = self.path().context(
            "there is no kubeconfig: start a cluster with `dhow up`, or name one with --kubeconfig FILE",
        )?;
        let kubeconfig = Kubeconfig::read_from(&path)
            .with_context(|| format!("{} cannot be used as a kubeconfig", path.display()))?;
        let of_context = kubeconfig
            .contexts
            .iter()
            .find(|c| Some(&c.name) == self.context.as_ref().or(kubeconfig.current_context.as_ref()))
            .and_then(|c| c.context.as_ref()?.namespace.clone());
        let namespace = self.namespace.clone().or(of_context).unwrap_or_else(|| "default".to_owned());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let unusable = || format!("{} cannot be used as a kubeconfig", path.display());
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(unusable)?;
        let client = Client::try_from(config.clone()).with_context(unusable)?;
        Ok(Connection { client, namespace, config })
    }
}

/// An error of the API as one sentence, with the next step where there is one.
pub(crate) fn explain(error: client::kube::Error) -> anyhow::Error {
    use client::kube::Error;
    match error {
        Error::Api(status) => anyhow::anyhow!("{}", status.message),
        Error::HyperError(_) | Error::Service(_) => anyhow::Error::new(error).context(
            "the API server does not answer: is `dhow up` running, and is the kubeconfig the one it wrote?",
        ),
        other => other.into(),
    }
}
