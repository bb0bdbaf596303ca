//! Faults put into the system on purpose, to prove that the simulator finds them.
use crate::door::Net;
use crate::machine::Machine;
use async_trait::async_trait;
use cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ListContainersRequest, RuntimeService,
    StartContainerRequest,
};
use futures::stream::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Committed, Error, Event, Events, Expect, Intercept, Op, Store};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The store answers a write of a ConfigMap and does not do it.
    LosesAWrite,
    /// The store's watch leaves out an event.
    SkipsAnEvent,
    /// A bound pod is bound again, elsewhere.
    BindsTwice,
    /// The store gives Services an address of its own choice.
    ChangesWhatItIsGiven,
    /// A node starts a second container of the same name.
    StartsTwice,
    /// The controllers do not come back when the faults are over.
    NoControllers,
}

pub const ALL: &[(&str, Mutant)] = &[
    ("loses-a-write", Mutant::LosesAWrite),
    ("skips-an-event", Mutant::SkipsAnEvent),
    ("binds-twice", Mutant::BindsTwice),
    ("changes-what-it-is-given", Mutant::ChangesWhatItIsGiven),
    ("starts-twice", Mutant::StartsTwice),
    ("no-controllers", Mutant::NoControllers),
];

/// A store's defect, between the API server and the tap.
pub struct Defect {
    pub mutant: Option<Mutant>,
    pub count: Arc<AtomicU64>,
}

/// The defect shows from its third occasion on, when the cluster is under way.
const OCCASION: u64 = 3;

impl Defect {
    fn is_its_time(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant) && self.count.fetch_add(1, Ordering::Relaxed) + 1 >= OCCASION
    }

    /// The value that is written instead.
    async fn corrupted(&self, inner: &dyn Store, key: &str, mut value: Value) -> Option<Value> {
        let old = inner.get(key, None).await.ok()?.0;
        let old: Option<Value> = old.and_then(|kv| serde_json::from_slice(&kv.value).ok());
        let (pods, services) =
            (key.starts_with("/registry/core/pods/"), key.starts_with("/registry/core/services/"));
        if pods
            && old.as_ref().is_some_and(|o| o["spec"]["nodeName"].is_string())
            && self.is_its_time(Mutant::BindsTwice)
        {
            value["spec"]["nodeName"] = json!("elsewhere");
            return Some(value);
        }
        if services && old.is_none() && self.is_its_time(Mutant::ChangesWhatItIsGiven) {
            value["spec"]["clusterIP"] = json!("127.96.0.99");
            value["spec"]["clusterIPs"] = json!(["127.96.0.99"]);
            return Some(value);
        }
        None
    }
}

#[async_trait]
impl Intercept for Defect {
    async fn commit(
        &self,
        inner: &dyn Store,
        key: &str,
        expect: Expect,
        mut op: Op,
    ) -> Result<Committed, Error> {
        if self.mutant.is_none() {
            return inner.commit(key, expect, op).await;
        }
        if key.starts_with("/registry/core/configmaps/") && self.is_its_time(Mutant::LosesAWrite) {
            let (previous, head) = inner.get(key, None).await?;
            return Ok(Committed { revision: head + 1, previous });
        }
        if let Op::Put { value, .. } = &mut op
            && let Ok(object) = serde_json::from_slice(value)
            && let Some(corrupted) = self.corrupted(inner, key, object).await
        {
            *value = corrupted.to_string().into();
        }
        inner.commit(key, expect, op).await
    }

    fn events(&self, prefix: &str, events: Events) -> Events {
        if self.mutant != Some(Mutant::SkipsAnEvent) || !prefix.contains("pods") {
            return events;
        }
        let count = self.count.clone();
        events
            .filter(move |event| {
                let skip = matches!(event, Ok(Event::Put { .. }))
                    && count.fetch_add(1, Ordering::Relaxed) + 1 == 10 * OCCASION;
                futures::future::ready(!skip)
            })
            .boxed()
    }
}

/// Starts a container like the one that was just started.
pub async fn start_another(
    net: &Net,
    machine: &Machine,
    id: &str,
    made: fn(&Net, &str, &str, &ContainerConfig),
    started: fn(&Net, &Machine, &str),
) {
    let listed = machine.runtime.list_containers(ListContainersRequest { filter: None }).await;
    let Some(like) = listed.ok().and_then(|l| l.containers.into_iter().find(|c| c.id == id)) else { return };
    let config = ContainerConfig {
        metadata: like.metadata.map(|m| ContainerMetadata { attempt: m.attempt + 100, ..m }),
        image: like.image,
        labels: like.labels,
        annotations: like.annotations,
        ..ContainerConfig::default()
    };
    let request = CreateContainerRequest {
        pod_sandbox_id: like.pod_sandbox_id,
        config: Some(config.clone()),
        sandbox_config: None,
    };
    if let Ok(another) = machine.runtime.create_container(request).await {
        let container_id = another.container_id;
        made(net, &machine.node, &container_id, &config);
        let request = StartContainerRequest { container_id: container_id.clone() };
        if machine.runtime.start_container(request).await.is_ok() {
            started(net, machine, &container_id);
        }
    }
}
