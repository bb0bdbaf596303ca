//! What the gateway says about Ingresses: its class, its address in their status, and what is wrong with them.
pub(crate) mod plan;

use crate::tls::{Certificates, Complaint};
use client::k8s_openapi::api::core::v1::Secret;
use client::k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use client::kube::Api;
use client::kube::api::{Patch, PatchParams, PostParams};
use client::{Client, EventType, Informers, Recorder, Selection};
use plan::{Reached, plan_class, plan_own, plan_status};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How long after a write that failed everything is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// Secrets that hold a certificate and its key.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";

pub(crate) struct Follower {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) reached: Reached,
    /// What the TLS listener shows, if there is one.
    pub(crate) certificates: Option<Arc<Certificates>>,
}

impl Follower {
    /// Keeps class, statuses and certificates as they should be, until the informers end.
    pub(crate) async fn run(&self, informers: &Informers) {
        let ingresses = informers.get::<Ingress>();
        let classes = informers.get::<IngressClass>();
        let secrets = informers.select::<Secret>(Selection::fields(TLS_SECRETS));
        let (mut a, mut b, mut c) = (ingresses.subscribe(), classes.subscribe(), secrets.subscribe());
        if !(ingresses.synced().await && classes.synced().await && secrets.synced().await) {
            return;
        }
        let mut class_looked_at = false;
        let mut complained = HashSet::new();
        loop {
            if !class_looked_at {
                class_looked_at = self.ensure_class(&classes.list()).await;
            }
            let own = plan_own(&ingresses.list(), &classes.list());
            if let Some(certificates) = &self.certificates {
                let complaints = certificates.follow(&own, |namespace, name| secrets.get(namespace, name));
                self.complain(complaints, &mut complained);
            }
            let all_written = self.write_statuses(&own).await && class_looked_at;
            let mut change = async || {
                tokio::select! {
                    change = a.next() => change.is_some(),
                    change = b.next() => change.is_some(),
                    change = c.next() => change.is_some(),
                }
            };
            if all_written {
                if !change().await {
                    return;
                }
                let _ = tokio::time::timeout(crate::SETTLE, async { while change().await {} }).await;
            } else {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Makes the class where it is missing. One that somebody removes later stays removed until the next start.
    async fn ensure_class(&self, classes: &[Arc<IngressClass>]) -> bool {
        let Some(class) = plan_class(classes) else { return true };
        let Ok(class) = serde_json::from_value::<IngressClass>(class) else { return true };
        match Api::all(self.client.clone()).create(&PostParams::default(), &class).await {
            Ok(_) => true,
            Err(error) if client::is_already_exists(&error) => true,
            Err(error) => {
                tracing::warn!(error = %client::error_chain(&error), "the IngressClass cannot be made");
                false
            }
        }
    }

    /// Whether every status says what it should.
    async fn write_statuses(&self, own: &[Arc<Ingress>]) -> bool {
        let mut all = true;
        for ingress in own {
            let (Some(namespace), Some(name)) = (&ingress.metadata.namespace, &ingress.metadata.name) else {
                continue;
            };
            let Some(status) = plan_status(ingress, &self.reached) else { continue };
            let api: Api<Ingress> = Api::namespaced(self.client.clone(), namespace);
            let patch = Patch::Merge(json!({ "status": { "loadBalancer": status } }));
            match api.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => {
                    tracing::warn!(namespace, name, error = %client::error_chain(&error), "the Ingress' status cannot be written");
                    all = false;
                }
            }
        }
        all
    }

    /// Says each complaint once, until it is over.
    fn complain(&self, complaints: Vec<Complaint>, complained: &mut HashSet<String>) {
        let mut now = HashSet::new();
        for Complaint { ingress, message } in complaints {
            let key = format!("{:?} {message}", ingress.metadata.uid);
            if !complained.contains(&key) {
                self.recorder.event(&*ingress, EventType::Warning, "BadCertificate", message);
            }
            now.insert(key);
        }
        *complained = now;
    }
}
