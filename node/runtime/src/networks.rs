//! What sandboxes may reach and be reached by, as the kubelet tells it (`dhow.runtime.v1alpha1.PodNetwork`).
//!
//! Nothing of it is on disk: containers that follow it live inside this process and end with it, and the kubelet tells
//! it again before it makes new ones.
use crate::error::no_sandbox;
use crate::open::Runtime;
use cri::{
    Error, SetNetworkPolicyRequest, SetNetworkPolicyResponse, UpdateServicesRequest, UpdateServicesResponse,
};
use network_policy::{Rules, Service, Services};
use parking_lot::Mutex;
use shim::Network;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The senders' side of every container's [`Network`].
pub(crate) struct Networks {
    /// By sandbox.
    rules: Mutex<HashMap<String, watch::Sender<Arc<Rules>>>>,
    services: watch::Sender<Option<Arc<Services>>>,
    /// What the kubelet calls the state of `services`; 0 until it told.
    version: Mutex<u64>,
}

impl Default for Networks {
    fn default() -> Self {
        Self { rules: Mutex::default(), services: watch::Sender::new(None), version: Mutex::new(0) }
    }
}

impl Networks {
    /// The network of a sandbox's containers.
    pub(crate) fn of(&self, sandbox: &str, namespace: &str) -> Network {
        let mut all = self.rules.lock();
        let rules = all.entry(sandbox.to_owned()).or_insert_with(|| watch::Sender::new(Arc::default()));
        Network {
            namespace: namespace.to_owned(),
            rules: rules.subscribe(),
            services: self.services.subscribe(),
        }
    }

    /// Forgets a sandbox that is gone.
    pub(crate) fn forget(&self, sandbox: &str) {
        self.rules.lock().remove(sandbox);
    }

    fn set(&self, sandbox: &str, rules: Rules) {
        let mut all = self.rules.lock();
        let sender = all.entry(sandbox.to_owned()).or_insert_with(|| watch::Sender::new(Arc::default()));
        sender.send_if_modified(|held| {
            let other = **held != rules;
            if other {
                *held = Arc::new(rules);
            }
            other
        });
    }
}

fn read<T: serde::de::DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text)
        .map_err(|e| Error::InvalidArgument(format!("the {what} cannot be read: {e}")))
}

impl Runtime {
    pub(crate) fn take_rules(
        &self,
        request: &SetNetworkPolicyRequest,
    ) -> Result<SetNetworkPolicyResponse, Error> {
        let rules = read("rules", &request.rules)?;
        let id = &request.pod_sandbox_id;
        // Under the lock of what exists: a sandbox that is removed meanwhile is forgotten after this.
        let state = self.inner.state.lock();
        if !state.sandboxes.contains_key(id) {
            return Err(no_sandbox(id));
        }
        self.inner.networks.set(id, rules);
        Ok(SetNetworkPolicyResponse { services_version: *self.inner.networks.version.lock() })
    }

    pub(crate) fn take_services(
        &self,
        request: &UpdateServicesRequest,
    ) -> Result<UpdateServicesResponse, Error> {
        let changed: Vec<Service> = read("services", &request.services)?;
        let removed: Vec<(String, String)> = read("names of services", &request.removed)?;
        let networks = &self.inner.networks;
        let mut version = networks.version.lock();
        if request.from != 0 && request.from != *version {
            return Err(Error::FailedPrecondition(format!(
                "these changes are to version {} of the services, and this runtime has {version}",
                request.from
            )));
        }
        let mut services = match (request.from, &*networks.services.borrow()) {
            (1.., Some(held)) => (**held).clone(),
            _ => Services::new(&request.cluster_domain),
        };
        removed.iter().for_each(|key| services.remove(key));
        changed.into_iter().for_each(|service| services.insert(service));
        networks.services.send_replace(Some(Arc::new(services)));
        *version = request.to;
        Ok(UpdateServicesResponse {})
    }
}
