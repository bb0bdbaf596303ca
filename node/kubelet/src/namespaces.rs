//! Namespaces that are gone: what they left on this node goes too.
//!
//! Invariant: nothing is removed unless the API server said twice, a round apart, that there is no such namespace. A
//! server that does not answer, or anything else it says, removes nothing. The runtime refuses while a sandbox of the
//! namespace is here.
use client::k8s_openapi::api::core::v1::Namespace;
use client::kube::api::Api;
use client::{Client, kube};
use cri::{ForgetNamespacesRequest, RuntimeService};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds. A namespace's data is at most so much and a round older than the namespace.
pub(crate) const ROUND: Duration = Duration::from_secs(60);
/// Namespaces asked about in a round: one small request each.
const MAX_ASKED: usize = 100;

/// Until dropped.
pub(crate) async fn run(client: Client, runtime: Arc<dyn RuntimeService>) {
    let namespaces: Api<Namespace> = Api::all(client);
    let mut absent = BTreeSet::new();
    let mut last = String::new();
    loop {
        tokio::time::sleep(ROUND).await;
        match round(&namespaces, &*runtime, &mut absent, &mut last).await {
            Ok(()) => {}
            // One that is not ours keeps nothing.
            Err(cri::Error::Unimplemented(_)) => return,
            Err(error) => tracing::debug!(%error, "what namespaces left here is not known"),
        }
    }
}

/// Asks about namespaces that keep something here, those after `last` first; `absent` were not there a round ago.
async fn round(
    namespaces: &Api<Namespace>,
    runtime: &dyn RuntimeService,
    absent: &mut BTreeSet<String>,
    last: &mut String,
) -> Result<(), cri::Error> {
    let kept = runtime.forget_namespaces(ForgetNamespacesRequest::default()).await?.namespaces;
    absent.retain(|name| kept.contains(name));
    let after = kept.partition_point(|name| name <= last);
    let asked: Vec<&String> = kept[after..].iter().chain(&kept[..after]).take(MAX_ASKED).collect();
    let mut gone = Vec::new();
    for name in asked {
        if !is_gone(namespaces.get(name).await) {
            absent.remove(name);
        } else if !absent.insert(name.clone()) {
            gone.push(name.clone());
        }
        last.clone_from(name);
    }
    if !gone.is_empty() {
        tracing::info!(
            namespaces = gone.join(","),
            "what namespaces left on this node is removed: they are gone"
        );
        runtime.forget_namespaces(ForgetNamespacesRequest { namespaces: gone }).await?;
    }
    Ok(())
}

/// Whether the server says that there is none: in its own words, not only by a status code.
fn is_gone<T>(answer: Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 404 && status.reason == "NotFound")
}
