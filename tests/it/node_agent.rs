//! A node that pretends: it registers, renews its Lease, and reports its pods as running, ready or ended, as
//! their annotations ask. `test/exit: N` ends a pod with that code, `test/never-ready` keeps it from being ready.
use client::{Change, Informers, ObjectKey, Selection};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use machinery::ambient::Ambient;
use machinery::meta;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a pod takes to run: enough for a rollout to be seen in steps.
const START: Duration = Duration::from_millis(100);
/// As kubelets renew their Leases.
const RENEW: Duration = Duration::from_secs(10);

pub struct NodeAgent {
    stop: CancellationToken,
}

impl NodeAgent {
    pub async fn start(
        name: &str,
        client: Client,
        ambient: Ambient,
        stop: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let agent = Agent { name: name.to_owned(), client: client.clone(), ambient };
        agent.register().await;
        let (leases, pods) = (agent.clone(), agent);
        let informers = Informers::new(client, stop.clone());
        tasks.spawn(run_until(stop.clone(), async move { leases.renew().await }));
        tasks.spawn(run_until(stop.clone(), async move { pods.run_pods(informers).await }));
        Self { stop }
    }

    /// The machine is unplugged.
    pub fn unplug(&self) {
        self.stop.cancel();
    }
}

async fn run_until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

#[derive(Clone)]
struct Agent {
    name: String,
    client: Client,
    ambient: Ambient,
}

impl Agent {
    async fn register(&self) {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({ "metadata": { "name": self.name } })).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        let resources =
            json!({ "cpu": "64", "memory": "256Gi", "pods": "10000", "ephemeral-storage": "1Ti" });
        let status = json!({ "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "pretending",
                "lastHeartbeatTime": self.time(), "lastTransitionTime": self.time(),
            }],
        }});
        api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    fn time(&self) -> String {
        meta::time(self.ambient.now())
    }

    async fn renew(&self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = json!({ "metadata": { "name": self.name }, "spec": {
            "holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": meta::micro_time(self.ambient.now()),
        }});
        api.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
        loop {
            tokio::time::sleep(RENEW).await;
            let patch = json!({ "spec": { "renewTime": meta::micro_time(self.ambient.now()) } });
            api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        }
    }

    async fn run_pods(&self, informers: Informers) {
        let pods = informers.select::<Pod>(Selection::fields(format!("spec.nodeName={}", self.name)));
        let mut changes = pods.subscribe();
        let mut starting: JoinSet<()> = JoinSet::new();
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Change::Applied(pod)) => {
                        let agent = self.clone();
                        starting.spawn(async move { agent.sync_pod(&pod).await });
                    }
                    Some(Change::Deleted(_) | Change::Resync) => {}
                    None => return,
                },
                Some(done) = starting.join_next() => done.unwrap(),
            }
        }
    }

    async fn sync_pod(&self, pod: &Pod) {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if pod.metadata.deletion_timestamp.is_some() {
            let end = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "phase": "Failed" } });
            let over = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            if !matches!(over, Some("Failed" | "Succeeded")) {
                let _ = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&end)).await;
            }
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            // It may be gone, or held by a finalizer.
            let _ = api.delete(&key.name, &now).await;
            return;
        }
        if pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_some() {
            return;
        }
        tokio::time::sleep(START).await;
        let status = self.status(pod);
        // A pod that was deleted meanwhile is no matter.
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
        let _ = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    }

    fn status(&self, pod: &Pod) -> Value {
        let asks = |key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        let exit: Option<i32> = asks("test/exit").map(|code| code.parse().unwrap());
        let ready = exit.is_none() && asks("test/never-ready").is_none();
        let number = self.ambient.random();
        let phase = match exit {
            None => "Running",
            Some(0) => "Succeeded",
            Some(_) => "Failed",
        };
        let state = match exit {
            None => json!({ "running": { "startedAt": self.time() } }),
            Some(code) => json!({ "terminated": {
                "exitCode": code, "finishedAt": self.time(), "reason": if code == 0 { "Completed" } else { "Error" },
            }}),
        };
        json!({
            "phase": phase,
            "podIP": format!("127.42.{}.{}", number % 250, number / 250 % 250 + 1),
            "startTime": self.time(),
            "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": self.time(),
            }],
            "containerStatuses": pod.spec.iter().flat_map(|s| &s.containers).map(|c| json!({
                "name": c.name, "image": c.image, "imageID": "", "restartCount": 0, "ready": ready, "state": state,
            })).collect::<Vec<_>>(),
        })
    }
}
