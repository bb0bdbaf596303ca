//! What the runtime is told of a pod and its containers: pure translation from Kubernetes' words into CRI's.
use crate::actions::Start;
use crate::observed::spec_hash;
use crate::status::qos::qos_class;
use client::k8s_openapi::api::core::v1 as core;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// The CPU period of a quota (kernel default, 100 ms).
const CPU_PERIOD_US: i64 = 100_000;
/// The smallest quota the kernel takes (1 ms).
const MIN_QUOTA_US: i64 = 1_000;
/// The smallest share the kernel takes.
const MIN_SHARES: i64 = 2;
/// A host name's longest label (RFC 1035).
const MAX_HOSTNAME: usize = 63;

fn meta(pod: &core::Pod) -> (String, String, String) {
    let m = &pod.metadata;
    (
        m.namespace.clone().unwrap_or_default(),
        m.name.clone().unwrap_or_default(),
        m.uid.clone().unwrap_or_default(),
    )
}

/// The directory below the pod logs where a pod's logs lie: `namespace_name_uid`.
pub fn log_dir_name(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

/// The log file of a container below its pod's directory: `web/0.log`.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Name servers as the node has them, for pods that take the node's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dns {
    /// The node's own settings.
    pub host: cri::DnsConfig,
    /// The cluster's name servers; empty when it has none.
    pub cluster_servers: Vec<String>,
    pub cluster_domain: String,
}

impl Dns {
    /// Reads the text of a resolv.conf.
    pub fn parse_resolv_conf(text: &str) -> cri::DnsConfig {
        let mut out = cri::DnsConfig::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let rest = match words.next() {
                Some("nameserver") => {
                    out.servers.extend(words.next().map(str::to_owned));
                    continue;
                }
                Some(keyword @ ("search" | "options")) => (keyword, words.map(str::to_owned).collect()),
                _ => continue,
            };
            match rest {
                ("search", list) => out.searches = list,
                (_, list) => out.options = list,
            }
        }
        out
    }

    fn of(&self, pod: &core::Pod, spec: &core::PodSpec) -> cri::DnsConfig {
        let host_network = spec.host_network == Some(true);
        let mut out = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
            "None" => cri::DnsConfig::default(),
            "ClusterFirst" if !host_network => self.cluster(pod),
            "ClusterFirstWithHostNet" => self.cluster(pod),
            _ => self.host.clone(),
        };
        if let Some(own) = &spec.dns_config {
            out.servers.extend(own.nameservers.iter().flatten().cloned());
            out.searches.extend(own.searches.iter().flatten().cloned());
            for o in own.options.iter().flatten() {
                let name = o.name.clone().unwrap_or_default();
                out.options.push(match &o.value {
                    Some(v) => format!("{name}:{v}"),
                    None => name,
                });
            }
        }
        out
    }

    fn cluster(&self, pod: &core::Pod) -> cri::DnsConfig {
        if self.cluster_servers.is_empty() {
            return self.host.clone();
        }
        let (namespace, _, _) = meta(pod);
        let domain = &self.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(self.host.searches.iter().cloned());
        cri::DnsConfig { servers: self.cluster_servers.clone(), searches, options: vec!["ndots:5".into()] }
    }
}

fn namespaces(spec: &core::PodSpec) -> cri::NamespaceOption {
    let node = |on: Option<bool>, otherwise: cri::NamespaceMode| {
        if on == Some(true) { cri::NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node(spec.host_network, cri::NamespaceMode::Pod),
        pid: node(spec.host_pid, pid),
        ipc: node(spec.host_ipc, cri::NamespaceMode::Pod),
        ..Default::default()
    }
}

fn int(value: Option<i64>) -> Option<cri::Int64Value> {
    value.map(|value| cri::Int64Value { value })
}

/// The sandbox of a pod.
pub fn sandbox_config(
    pod: &core::Pod,
    attempt: u32,
    logs: &std::path::Path,
    dns: &Dns,
) -> cri::PodSandboxConfig {
    let empty = core::PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let (namespace, name, uid) = meta(pod);
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_NAMESPACE.into(), namespace.clone());
    labels.insert(POD_UID.into(), uid.clone());
    let mut hostname = spec.hostname.clone().unwrap_or_else(|| name.clone());
    hostname.truncate(hostname.floor_char_boundary(MAX_HOSTNAME));
    let hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    let security = spec.security_context.as_ref();
    let port_mappings = spec
        .containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| cri::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp as i32,
                Some("SCTP") => cri::Protocol::Sctp as i32,
                _ => cri::Protocol::Tcp as i32,
            },
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    cri::PodSandboxConfig {
        log_directory: logs.join(log_dir_name(&namespace, &name, &uid)).to_string_lossy().into_owned(),
        metadata: Some(cri::PodSandboxMetadata { name, uid: uid.clone(), namespace, attempt }),
        hostname,
        dns_config: Some(dns.of(pod, spec)),
        port_mappings,
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("/dhow/pod{uid}"),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                run_as_user: int(security.and_then(|s| s.run_as_user)),
                run_as_group: int(security.and_then(|s| s.run_as_group)),
                supplemental_groups: groups(security),
                privileged: spec.containers.iter().any(privileged),
                ..Default::default()
            }),
            sysctls: security
                .and_then(|s| s.sysctls.as_ref())
                .into_iter()
                .flatten()
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            ..Default::default()
        }),
    }
}

fn privileged(c: &core::Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

fn groups(security: Option<&core::PodSecurityContext>) -> Vec<i64> {
    let Some(s) = security else { return Vec::new() };
    s.fs_group.iter().chain(s.supplemental_groups.iter().flatten()).copied().collect()
}

/// Everything a container's configuration is made of.
pub struct Parts<'a> {
    pub pod: &'a core::Pod,
    pub container: &'a core::Container,
    pub start: &'a Start,
    pub env: Vec<(String, String)>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub mounts: Vec<cri::Mount>,
    /// The container paths of those mounts that are a subPath.
    pub sub_paths: Vec<String>,
    /// The image's id on this node.
    pub image_id: String,
    /// The node's memory, for the OOM score.
    pub node_memory: i64,
}

/// A container.
pub fn container_config(p: Parts<'_>) -> cri::ContainerConfig {
    let (namespace, name, uid) = meta(p.pod);
    let c = p.container;
    let image = c.image.clone().unwrap_or_default();
    let labels = BTreeMap::from([
        (CONTAINER_NAME.to_owned(), c.name.clone()),
        (POD_NAME.to_owned(), name),
        (POD_NAMESPACE.to_owned(), namespace),
        (POD_UID.to_owned(), uid),
    ]);
    let mut annotations = BTreeMap::from([
        (CONTAINER_HASH.to_owned(), spec_hash(&c.name, &image)),
        (RESTART_COUNT.to_owned(), p.start.attempt.to_string()),
        (
            "io.kubernetes.container.terminationMessagePath".to_owned(),
            c.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
        ),
        (
            "io.kubernetes.container.terminationMessagePolicy".to_owned(),
            c.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
        ),
    ]);
    let ports = declared_ports(c);
    if !ports.is_empty() {
        annotations.insert(cri::PORTS_ANNOTATION.to_owned(), ports);
    }
    if !p.sub_paths.is_empty() {
        let paths = serde_json::json!(p.sub_paths).to_string();
        annotations.insert(cri::SUB_PATHS_ANNOTATION.to_owned(), paths);
    }
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: c.name.clone(), attempt: p.start.attempt }),
        image: Some(cri::ImageSpec { image: p.image_id, user_specified_image: image, ..Default::default() }),
        command: p.command,
        args: p.args,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: p
            .env
            .into_iter()
            .map(|(key, value)| cri::KeyValue { key, value: value.into_bytes() })
            .collect(),
        mounts: p.mounts,
        devices: Vec::new(),
        labels,
        annotations,
        log_path: log_path(&c.name, p.start.attempt),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(p.pod, c, p.node_memory)),
            security_context: Some(security_context(p.pod, c)),
        }),
        ..Default::default()
    }
}

/// The TCP ports a container declares, joined by commas.
pub fn declared_ports(c: &core::Container) -> String {
    let tcp = c.ports.iter().flatten().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.map(|p| p.container_port.to_string()).collect::<Vec<_>>().join(",")
}

fn quantity(
    c: &core::Container,
    kind: fn(&core::ResourceRequirements) -> Option<&Quantities>,
    name: &str,
) -> Option<Quantity> {
    let text = c.resources.as_ref().and_then(kind)?.get(name)?;
    Quantity::parse(&text.0).ok()
}

type Quantities = BTreeMap<String, client::k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn limits(r: &core::ResourceRequirements) -> Option<&Quantities> {
    r.limits.as_ref()
}

fn requests(r: &core::ResourceRequirements) -> Option<&Quantities> {
    r.requests.as_ref()
}

/// Limits in the kernel's terms, as upstream computes them.
fn resources(pod: &core::Pod, c: &core::Container, node_memory: i64) -> cri::LinuxContainerResources {
    let cpu_limit = quantity(c, limits, "cpu").map(Quantity::milli_value);
    let cpu_request = quantity(c, requests, "cpu").map(Quantity::milli_value).or(cpu_limit);
    let memory_limit = quantity(c, limits, "memory").map(Quantity::value).unwrap_or(0);
    let memory_request = quantity(c, requests, "memory").map(Quantity::value).unwrap_or(memory_limit);
    let class = pod.spec.as_ref().map(qos_class).unwrap_or("BestEffort");
    let oom_score_adj = match class {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ if node_memory > 0 => (1000 - 1000 * memory_request.min(node_memory) / node_memory).clamp(3, 999),
        _ => 999,
    };
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: cpu_limit.filter(|m| *m > 0).map_or(0, |m| (m * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_shares: cpu_request.map_or(MIN_SHARES, |m| (m * 1024 / 1000).max(MIN_SHARES)),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj,
        ..Default::default()
    }
}

fn security_context(pod: &core::Pod, c: &core::Container) -> cri::LinuxContainerSecurityContext {
    let spec = pod.spec.as_ref();
    let of_pod = spec.and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let capabilities = own.and_then(|s| s.capabilities.as_ref()).map(|caps| cri::Capability {
        add_capabilities: caps.add.clone().unwrap_or_default(),
        drop_capabilities: caps.drop.clone().unwrap_or_default(),
        ..Default::default()
    });
    let seccomp =
        own.and_then(|s| s.seccomp_profile.as_ref()).or(of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    cri::LinuxContainerSecurityContext {
        capabilities,
        privileged: privileged(c),
        namespace_options: spec.map(namespaces),
        run_as_user: int(own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user))),
        run_as_group: int(own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group))),
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        supplemental_groups: groups(of_pod),
        no_new_privs: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: seccomp.map(|p| cri::SecurityProfile {
            profile_type: match p.type_.as_str() {
                "RuntimeDefault" => cri::ProfileType::RuntimeDefault as i32,
                "Localhost" => cri::ProfileType::Localhost as i32,
                _ => cri::ProfileType::Unconfined as i32,
            },
            localhost_ref: p.localhost_profile.clone().unwrap_or_default(),
        }),
        ..Default::default()
    }
}

/// Why the container may not run as the user it would run as: `runAsNonRoot` against the image's user. A wasm
/// image names none, and its guest has none, so only a declared root is refused.
pub fn refused_user(pod: &core::Pod, c: &core::Container, image: &cri::Image) -> Option<String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let non_root = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if non_root != Some(true) {
        return None;
    }
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let (namespace, name, uid) = meta(pod);
    let whose = format!("(pod: \"{name}_{namespace}({uid})\", container: {})", c.name);
    match (user, &image.uid) {
        (Some(0), _) => Some(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => None,
        (None, Some(u)) if u.value == 0 => {
            Some(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        (None, None) if !image.username.is_empty() => Some(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {whose}",
            image.username
        )),
        _ => None,
    }
}
