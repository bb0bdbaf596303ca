//! What a container's pod may reach and be reached by, as it is now.
use network_policy::{Rules, Services};
use std::sync::Arc;
use tokio::sync::watch;

/// A pod's rules and the cluster's Services; both change while the container runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    /// The pod's namespace: where a Service is looked for by its bare name.
    pub namespace: String,
    /// All open until somebody says otherwise.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// `None` until somebody tells: names and addresses of Services are then the system's business.
    pub services: watch::Receiver<Option<Arc<Services>>>,
}

impl Network {
    /// Waits for other rules than those last seen through this very value; for ever when no others will come.
    pub async fn rules_changed(&mut self) {
        if self.rules.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for Network {
    /// A network without rules, and nobody who would make some.
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            rules: watch::channel(Arc::default()).1,
            services: watch::channel(None).1,
        }
    }
}
