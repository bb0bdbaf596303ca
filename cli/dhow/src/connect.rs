//! Which cluster a command talks to.
use anyhow::{Context, Result};
use client::Client;
use client::kube::config::Kubeconfig;
use std::path::PathBuf;

/// Flags of every command that talks to a cluster.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Cluster {
    /// The kubeconfig file [default: $KUBECONFIG, then the one `dhow up` wrote, then ~/.kube/config]; `dhow up` writes it
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
        let client = client::from_kubeconfig(kubeconfig, self.context.as_deref())
            .await
            .with_context(|| format!("no connection with {}", path.display()))?;
        Ok(Connection { client, namespace })
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
