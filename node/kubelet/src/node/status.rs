//! The Node object of this machine: a pure function of what it is and how it is.
use super::facts::Machine;
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The version of Kubernetes whose behaviour this kubelet has; `kubectl get nodes` shows it.
pub const KUBELET_VERSION: &str = concat!("v1.36.2+dhow.", env!("CARGO_PKG_VERSION"));
/// Memory kept back from pods (kubelet's default hard eviction threshold, `memory.available<100Mi`).
const RESERVED_MEMORY: u64 = 100 << 20;
/// The label that says a handler runs here: `dhow.dev/runtime.wasmtime=true`.
pub const RUNTIME_LABEL: &str = "dhow.dev/runtime.";

/// How the runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    pub name: String,
    pub version: String,
    /// Handler and whether it can mount read-only recursively and use user namespaces.
    pub handlers: Vec<(String, bool, bool)>,
    /// The interfaces it offers to WebAssembly components, separated by commas.
    pub offers: String,
    /// Why it is not ready; `None` when it is.
    pub unready: Option<String>,
}

/// What was configured.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    pub name: String,
    pub ip: String,
    pub port: u16,
    pub max_pods: u32,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<core::Taint>,
}

/// The labels of the node.
pub fn labels(s: &NodeSettings, m: &Machine, r: &RuntimeState) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), s.name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), m.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), m.architecture.clone()),
    ]);
    all.extend(
        r.handlers
            .iter()
            .filter(|h| !h.0.is_empty())
            .map(|h| (format!("{RUNTIME_LABEL}{}", h.0), "true".to_owned())),
    );
    all.extend(s.labels.clone());
    all
}

/// What pods may use.
pub fn capacity(s: &NodeSettings, m: &Machine) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("cpu".to_owned(), m.cores.to_string()),
        ("memory".to_owned(), format!("{}Ki", m.memory_bytes / 1024)),
        ("ephemeral-storage".to_owned(), format!("{}Ki", m.disk_bytes / 1024)),
        ("pods".to_owned(), s.max_pods.to_string()),
    ])
}

/// What is left of it for pods.
pub fn allocatable(s: &NodeSettings, m: &Machine) -> BTreeMap<String, String> {
    let mut all = capacity(s, m);
    all.insert("memory".to_owned(), format!("{}Ki", m.memory_bytes.saturating_sub(RESERVED_MEMORY) / 1024));
    all
}

fn quantities(map: BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    map.into_iter().map(|(k, v)| (k, Quantity(v))).collect()
}

/// The status. Times of transitions are taken on from `before`.
pub fn compute_node_status(
    s: &NodeSettings,
    m: &Machine,
    r: &RuntimeState,
    before: Option<&core::NodeStatus>,
    now: Timestamp,
) -> core::NodeStatus {
    let address =
        |kind: &str, address: &str| core::NodeAddress { type_: kind.into(), address: address.into() };
    core::NodeStatus {
        addresses: Some(vec![address("InternalIP", &s.ip), address("Hostname", &s.name)]),
        capacity: Some(quantities(capacity(s, m))),
        allocatable: Some(quantities(allocatable(s, m))),
        conditions: Some(conditions(r, before, now)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(s.port) }),
        }),
        node_info: Some(core::NodeSystemInfo {
            architecture: m.architecture.clone(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: format!("{}://{}", r.name, r.version),
            kernel_version: m.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            ..Default::default()
        }),
        runtime_handlers: Some(
            r.handlers
                .iter()
                .map(|(name, mounts, users)| core::NodeRuntimeHandler {
                    name: Some(name.clone()),
                    features: Some(core::NodeRuntimeHandlerFeatures {
                        recursive_read_only_mounts: Some(*mounts),
                        user_namespaces: Some(*users),
                    }),
                })
                .collect(),
        ),
        ..Default::default()
    }
}

fn conditions(
    r: &RuntimeState,
    before: Option<&core::NodeStatus>,
    now: Timestamp,
) -> Vec<core::NodeCondition> {
    let ready = match &r.unready {
        None => ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("Ready", "False", "KubeletNotReady", why.clone()),
    };
    let all = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available".to_owned(),
        ),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned()),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available".to_owned(),
        ),
        ready,
    ];
    let now = crate::status::seconds(now);
    all.into_iter()
        .map(|(kind, status, reason, message)| {
            let old = before.and_then(|b| b.conditions.as_ref()?.iter().find(|c| c.type_ == kind));
            let since = old.filter(|o| o.status == status).and_then(|o| o.last_transition_time.clone());
            core::NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since.unwrap_or(Time(now))),
            }
        })
        .collect()
}

/// The whole object, to be created.
pub fn new_node(
    s: &NodeSettings,
    (labels, offers): &(BTreeMap<String, String>, String),
    status: core::NodeStatus,
) -> core::Node {
    core::Node {
        metadata: ObjectMeta {
            name: Some(s.name.clone()),
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([
                ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned()),
                (machinery::interface::OFFERS_ANNOTATION.to_owned(), offers.clone()),
            ])),
            ..Default::default()
        },
        spec: Some(core::NodeSpec {
            taints: (!s.taints.is_empty()).then(|| s.taints.clone()),
            ..Default::default()
        }),
        status: Some(status),
    }
}

/// Whether two statuses differ in anything but the heartbeat.
pub fn differs(a: &core::NodeStatus, b: &core::NodeStatus) -> bool {
    let bare = |s: &core::NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    bare(a) != bare(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> NodeSettings {
        NodeSettings {
            name: "n1".into(),
            ip: "127.0.0.1".into(),
            port: 10250,
            max_pods: 110,
            ..Default::default()
        }
    }

    fn machine() -> Machine {
        Machine { cores: 2, memory_bytes: 1 << 30, architecture: "amd64".into(), ..Default::default() }
    }

    fn runtime(unready: Option<&str>) -> RuntimeState {
        RuntimeState {
            name: "dhow".into(),
            version: "0.1.0".into(),
            handlers: vec![("".into(), false, false), ("wasmtime".into(), true, false)],
            offers: String::new(),
            unready: unready.map(str::to_owned),
        }
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn the_node_says_what_it_is_and_which_runtimes_it_has() {
        let status = compute_node_status(&settings(), &machine(), &runtime(None), None, at(10));
        let info = status.node_info.as_ref().unwrap();
        assert!(info.kubelet_version.starts_with("v1.36."));
        assert_eq!(info.container_runtime_version, "dhow://0.1.0");
        assert_eq!(status.capacity.as_ref().unwrap()["memory"].0, "1048576Ki");
        assert_eq!(status.allocatable.as_ref().unwrap()["memory"].0, "946176Ki");
        let labels = labels(&settings(), &machine(), &runtime(None));
        assert_eq!(labels["dhow.dev/runtime.wasmtime"], "true");
        assert_eq!(labels["kubernetes.io/hostname"], "n1");
        assert!(!labels.contains_key("dhow.dev/runtime."));
    }

    #[test]
    fn readiness_follows_the_runtime_and_keeps_the_time_of_its_last_change() {
        let first = compute_node_status(&settings(), &machine(), &runtime(None), None, at(10));
        let second = compute_node_status(&settings(), &machine(), &runtime(None), Some(&first), at(20));
        assert!(!differs(&first, &second), "only the heartbeat changed");
        let third =
            compute_node_status(&settings(), &machine(), &runtime(Some("down")), Some(&second), at(30));
        assert!(differs(&second, &third));
        let ready = |s: &core::NodeStatus| {
            let c = s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Ready").unwrap().clone();
            (c.status, c.last_transition_time.unwrap().0.as_second())
        };
        assert_eq!(ready(&second), ("True".into(), 10));
        assert_eq!(ready(&third), ("False".into(), 30));
    }
}
