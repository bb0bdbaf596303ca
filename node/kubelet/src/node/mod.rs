//! This machine as a Node: registered, kept up to date, alive by its Lease.
pub mod facts;
pub mod lease;
pub mod status;

use client::k8s_openapi::api::core::v1 as core;
use client::kube::api::{Api, Patch, PatchParams, PostParams};
use client::{Client, is_already_exists, is_not_found};
use cri::RuntimeService;
use facts::Machine;
use machinery::ambient::Ambient;
use machinery::interface::OFFERS_ANNOTATION;
use serde_json::json;
use status::{NodeSettings, RuntimeState, compute_node_status, differs, labels, new_node};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the status is looked at (kubelet `--node-status-update-frequency`: 10 s).
const LOOK: Duration = Duration::from_secs(10);
/// While the runtime is not ready, so that the node is Ready soon after it.
const LOOK_UNREADY: Duration = Duration::from_millis(250);
/// A status that did not change is written this often (kubelet `nodeStatusReportFrequency`: 5 min).
const REPORT: Duration = Duration::from_secs(300);
/// How long the first registration waits for a runtime that is just starting.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between tries to register, doubled up to the longest (upstream: 200 ms up to 7 s).
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Asks the runtime how it is.
pub async fn observe_runtime(runtime: &dyn RuntimeService) -> RuntimeState {
    let down = |e: &cri::Error| format!("container runtime is down: {e}");
    let version = match runtime.version(cri::VersionRequest { version: "v1".into() }).await {
        Ok(v) => v,
        Err(e) => return RuntimeState { unready: Some(down(&e)), ..Default::default() },
    };
    let mut state =
        RuntimeState { name: version.runtime_name, version: version.runtime_version, ..Default::default() };
    match runtime.status(cri::StatusRequest { verbose: true }).await {
        Ok(mut answer) => {
            state.offers = answer.info.remove("offers").unwrap_or_default();
            state.handlers = answer
                .runtime_handlers
                .into_iter()
                .map(|h| {
                    let f = h.features.unwrap_or_default();
                    (h.name, f.recursive_read_only_mounts, f.user_namespaces)
                })
                .collect();
            let unready: Vec<String> = answer
                .status
                .iter()
                .flat_map(|s| &s.conditions)
                .filter(|c| !c.status && matches!(c.r#type.as_str(), "RuntimeReady" | "NetworkReady"))
                .map(|c| {
                    let what = if c.r#type == "NetworkReady" {
                        "container runtime network"
                    } else {
                        "container runtime"
                    };
                    format!("{what} not ready: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
                })
                .collect();
            state.unready = (!unready.is_empty()).then(|| unready.join(", "));
        }
        Err(e) => state.unready = Some(down(&e)),
    }
    state
}

/// Waits until the runtime tells its name: container ids carry it.
pub async fn runtime_name(runtime: &dyn RuntimeService) -> String {
    let mut wait = Duration::from_millis(5);
    loop {
        match runtime.version(cri::VersionRequest { version: "v1".into() }).await {
            Ok(v) => return v.runtime_name,
            Err(error) => tracing::debug!(%error, "the runtime does not answer yet"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK_UNREADY);
    }
}

/// The node's labels, and the interfaces it offers to components.
type Described = (std::collections::BTreeMap<String, String>, String);

/// Keeps the Node object. Runs until dropped.
pub(crate) struct NodeKeeper {
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) settings: NodeSettings,
    pub(crate) machine: Machine,
    pub(crate) ambient: Ambient,
}

impl NodeKeeper {
    pub(crate) async fn run(self) {
        let api: Api<core::Node> = Api::all(self.client.clone());
        let began = Instant::now();
        let mut runtime = observe_runtime(&*self.runtime).await;
        let mut pause = Duration::from_millis(5);
        while runtime.unready.is_some() && began.elapsed() < PATIENCE {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
            runtime = observe_runtime(&*self.runtime).await;
        }
        let mut shown: Option<(core::NodeStatus, Instant)> = None;
        let mut labelled = None;
        let mut retry = RETRY_MIN;
        loop {
            let before = shown.as_ref().map(|(s, _)| s);
            let now = self.ambient.now();
            let status = compute_node_status(&self.settings, &self.machine, &runtime, before, now);
            let labels = (labels(&self.settings, &self.machine, &runtime), runtime.offers.clone());
            let due = match &shown {
                None => true,
                Some((old, at)) => {
                    at.elapsed() >= REPORT || differs(old, &status) || labelled.as_ref() != Some(&labels)
                }
            };
            if due {
                let written = match shown {
                    None => self.register(&api, &labels, &status).await,
                    Some(_) => self.update(&api, labelled.as_ref() != Some(&labels), &labels, &status).await,
                };
                match written {
                    Ok(status) => {
                        shown = Some((status, Instant::now()));
                        labelled = Some(labels);
                        retry = RETRY_MIN;
                    }
                    Err(error) => {
                        if is_not_found(&error) {
                            // Somebody deleted the node; it comes back while this process lives.
                            shown = None;
                        }
                        tracing::warn!(node = self.settings.name, %error, "cannot write the node's status, trying again");
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(RETRY_MAX);
                        continue;
                    }
                }
            }
            tokio::time::sleep(if runtime.unready.is_some() { LOOK_UNREADY } else { LOOK }).await;
            let now = observe_runtime(&*self.runtime).await;
            // A runtime that is away has not lost its handlers.
            runtime = match now.unready.is_some() && now.handlers.is_empty() {
                true => RuntimeState { unready: now.unready, ..runtime },
                false => now,
            };
        }
    }

    /// Creates the node, or takes over the one that is there.
    async fn register(
        &self,
        api: &Api<core::Node>,
        labels: &Described,
        status: &core::NodeStatus,
    ) -> Result<core::NodeStatus, client::kube::Error> {
        let node = new_node(&self.settings, labels, status.clone());
        match api.create(&PostParams::default(), &node).await {
            Ok(made) => {
                let has = made
                    .status
                    .is_some_and(|s| s.conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready")));
                if has { Ok(status.clone()) } else { self.update(api, false, labels, status).await }
            }
            Err(e) if is_already_exists(&e) => {
                let old = api.get(&self.settings.name).await?;
                let status = compute_node_status(
                    &self.settings,
                    &self.machine,
                    &runtime_of(status),
                    old.status.as_ref(),
                    self.ambient.now(),
                );
                self.update(api, true, labels, &status).await
            }
            Err(e) => Err(e),
        }
    }

    async fn update(
        &self,
        api: &Api<core::Node>,
        relabel: bool,
        (labels, offers): &Described,
        status: &core::NodeStatus,
    ) -> Result<core::NodeStatus, client::kube::Error> {
        let name = &self.settings.name;
        let params = PatchParams::default();
        if relabel {
            let annotations = json!({ OFFERS_ANNOTATION: offers });
            let patch = json!({ "metadata": { "labels": labels, "annotations": annotations } });
            api.patch(name, &params, &Patch::Merge(&patch)).await?;
        }
        let patch = json!({ "status": status });
        api.patch_status(name, &params, &Patch::Strategic(&patch)).await?;
        Ok(status.clone())
    }
}

/// The runtime's state as a status shows it.
fn runtime_of(status: &core::NodeStatus) -> RuntimeState {
    let info = status.node_info.as_ref();
    let (name, version) =
        info.and_then(|i| i.container_runtime_version.split_once("://")).unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    RuntimeState {
        name: name.to_owned(),
        version: version.to_owned(),
        handlers: status
            .runtime_handlers
            .iter()
            .flatten()
            .map(|h| {
                let f = h.features.clone().unwrap_or_default();
                (
                    h.name.clone().unwrap_or_default(),
                    f.recursive_read_only_mounts.unwrap_or(false),
                    f.user_namespaces.unwrap_or(false),
                )
            })
            .collect(),
        offers: String::new(),
        unready: ready.filter(|c| c.status != "True").and_then(|c| c.message.clone()),
    }
}
