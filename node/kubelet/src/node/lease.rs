//! The node's Lease: renewed, it says the node is alive; the node lifecycle controller watches it.
use client::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use client::k8s_openapi::api::core::v1::Node;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use client::kube::api::{Api, Patch, PatchParams, PostParams};
use client::{Client, is_already_exists, is_not_found};
use machinery::ambient::Ambient;
use serde_json::json;
use std::time::Duration;

/// Where node leases are.
const NAMESPACE: &str = "kube-node-lease";
/// How long a lease holds (kubelet `nodeLeaseDurationSeconds`).
const DURATION_SECONDS: i32 = 40;
/// A quarter of it: three renewals may fail before the node counts as away.
const RENEW: Duration = Duration::from_secs(10);
/// Between tries, doubled up to the longest (upstream: 200 ms up to 7 s).
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Keeps the lease. Runs until dropped.
pub(crate) async fn run(client: Client, node: String, ambient: Ambient) {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut retry = RETRY_MIN;
    loop {
        match renew(&api, &nodes, &node, &ambient).await {
            Ok(()) => {
                retry = RETRY_MIN;
                tokio::time::sleep(RENEW).await;
            }
            Err(error) => {
                tracing::debug!(node, %error, "cannot renew the node's lease, trying again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(
    api: &Api<Lease>,
    nodes: &Api<Node>,
    node: &str,
    ambient: &Ambient,
) -> Result<(), client::kube::Error> {
    let time = machinery::meta::micro_time(ambient.now());
    let patch = json!({ "spec": { "holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": time } });
    match api.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => return Ok(()),
        Err(e) if is_not_found(&e) => {}
        Err(e) => return Err(e),
    }
    // The lease goes when its node goes.
    let owner = nodes.get_opt(node).await?.and_then(|n| {
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.to_owned(),
            uid: n.metadata.uid?,
            ..Default::default()
        })
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|o| vec![o]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(ambient.now())),
            ..Default::default()
        }),
    };
    match api.create(&PostParams::default(), &lease).await {
        Err(e) if !is_already_exists(&e) => Err(e),
        _ => Ok(()),
    }
}
