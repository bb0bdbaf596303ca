//! Facts about the pod that its containers may read: `fieldRef` and `resourceFieldRef`.
use client::k8s_openapi::api::core::v1 as core;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// What the node knows of a pod beyond the object.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    pub pod_ips: Vec<String>,
    pub host_ip: String,
    pub node_name: String,
    /// `cpu`, `memory`: what a container without a limit may use.
    pub allocatable: BTreeMap<String, String>,
}

/// A map as the downward API writes it: `key="value"` a line, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a `fieldRef`; `None` for a path that is not supported.
pub fn field(pod: &core::Pod, facts: &PodFacts, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into())
        }
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return None,
    })
}

/// The value of a `resourceFieldRef`: a whole number of the divisor, rounded up. `own` is the container that
/// asks.
pub fn resource(
    pod: &core::Pod,
    own: Option<&core::Container>,
    facts: &PodFacts,
    r: &core::ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let container = match r.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => {
            let all =
                spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
            all.into_iter().find(|c| c.name == name).ok_or_else(|| format!("container {name} not found"))?
        }
        None => own.ok_or("containerName is required")?,
    };
    let (kind, name) = r
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", r.resource))?;
    let resources = container.resources.as_ref();
    let get = |map: Option<
        &BTreeMap<String, client::k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >| { map.and_then(|m| m.get(name)).map(|q| q.0.clone()) };
    let value = match kind {
        // A container without a limit may use the node.
        "limits" => {
            get(resources.and_then(|r| r.limits.as_ref())).or_else(|| facts.allocatable.get(name).cloned())
        }
        "requests" => get(resources.and_then(|r| r.requests.as_ref()))
            .or_else(|| get(resources.and_then(|r| r.limits.as_ref()))),
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    let parse = |text: &str| Quantity::parse(text).map_err(|e| format!("{text:?}: {e}"));
    let value = parse(value.as_deref().unwrap_or("0"))?.0;
    let divisor = match r.divisor.as_ref().map(|d| d.0.as_str()) {
        None | Some("" | "0") => parse("1")?.0,
        Some(text) => parse(text)?.0,
    };
    if divisor <= 0 {
        return Err("divisor must be positive".into());
    }
    Ok(((value + divisor - 1) / divisor).to_string())
}
