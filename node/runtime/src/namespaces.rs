//! What namespaces keep on this node beyond their pods (`dhow.runtime.v1alpha1.NamespaceData`).
use crate::open::Runtime;
use cri::{Error, ForgetNamespacesResponse};
use std::collections::BTreeSet;

impl Runtime {
    /// Removes what these namespaces keep, but for those that have a sandbox here. What cannot be removed now is told
    /// of as kept.
    pub(crate) async fn forget_all(&self, namespaces: &[String]) -> Result<ForgetNamespacesResponse, Error> {
        let shims = &self.inner.config.shims;
        for namespace in namespaces {
            let is_used =
                self.inner.state.lock().sandboxes.values().any(|sandbox| sandbox.namespace == *namespace);
            if is_used {
                continue;
            }
            for shim in shims {
                match shim.forget_namespace(namespace).await {
                    Ok(()) => tracing::info!(namespace, "what a namespace kept here was removed"),
                    Err(error) => tracing::warn!(namespace, %error, "what a namespace kept here stays"),
                }
            }
        }
        let mut kept = BTreeSet::new();
        for shim in shims {
            kept.extend(shim.kept_namespaces().await.map_err(|e| Error::Unavailable(e.to_string()))?);
        }
        Ok(ForgetNamespacesResponse { namespaces: kept.into_iter().collect() })
    }
}
