//! The OCI configuration of one container: a pure function of its specification, its user and the host's abilities.
use crate::host::{CAP_SYS_RESOURCE, HostAbilities};
use crate::seccomp::default_profile;
use crate::user::User;
use serde_json::{Value, json};
use shim::{ContainerSpec, Error, Seccomp};

/// What containers get by custom (Docker, containerd, CRI-O); `runc spec` alone would give three.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// By number, from the kernel's capability.h.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What tells a container about the host and is none of its business.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// More than any program opens; the usual limit of container engines.
const MAX_OPEN_FILES: u64 = 1 << 20;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Decides the configuration. `user` was looked up in the container's own files.
pub(crate) fn compute_config(
    spec: &ContainerSpec,
    user: &User,
    host: &HostAbilities,
) -> Result<Value, Error> {
    if spec.args.is_empty() {
        return Err(Error::InvalidSpec(format!(
            "{}: neither the image nor the pod says which program to run; set command",
            spec.display_name
        )));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process(spec, user, host),
        "root": {"path": "rootfs", "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": mounts(spec, host),
        "linux": linux(spec, host),
    }))
}

fn process(spec: &ContainerSpec, user: &User, host: &HostAbilities) -> Value {
    let capabilities = capabilities(spec.privileged, host);
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !spec.env.iter().any(|(name, _)| name == "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    let open_files = host.open_files.min(MAX_OPEN_FILES);
    let mut groups = user.groups.clone();
    // A program that gives up its supplementary groups must not thereby gain what the group was denied.
    groups.push(user.gid);
    groups.extend(&spec.supplemental_groups);
    groups.sort_unstable();
    groups.dedup();
    let mut process = json!({
        "terminal": false,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
        "args": spec.args,
        "env": env,
        "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files}],
        "noNewPrivileges": false,
    });
    if let Some(wanted) = spec.resources.oom_score_adj {
        // Without the capability it can only be raised, and runc would fail without a word about why.
        let lowest = if host.has(CAP_SYS_RESOURCE) { -1000 } else { host.oom_score_adj };
        process["oomScoreAdj"] = json!(wanted.clamp(lowest, 1000));
    }
    process
}

fn capabilities(privileged: bool, host: &HostAbilities) -> Vec<&'static str> {
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, name)| {
            host.has(u32::try_from(*number).unwrap_or(0))
                && (privileged || DEFAULT_CAPABILITIES.contains(name))
        })
        .map(|(_, name)| *name)
        .collect()
}

fn mounts(spec: &ContainerSpec, host: &HostAbilities) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let sys: &[&str] =
        if spec.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", sys),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    let bind = |from: &str, to: &str, read_only: bool| {
        let access = if read_only { "ro" } else { "rw" };
        json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "rprivate", access]})
    };
    let given = |path: &str| spec.mounts.iter().any(|mount| mount.container_path == path);
    if host.has_resolv_conf && !given("/etc/resolv.conf") && !given("/etc") {
        mounts.push(bind("/etc/resolv.conf", "/etc/resolv.conf", true));
    }
    // A mount inside another must come after it.
    let mut wanted: Vec<_> = spec.mounts.iter().collect();
    wanted.sort_by_key(|mount| mount.container_path.matches('/').count());
    mounts
        .extend(wanted.iter().map(|m| bind(&m.host_path.to_string_lossy(), &m.container_path, m.read_only)));
    mounts
}

fn linux(spec: &ContainerSpec, host: &HostAbilities) -> Value {
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    if host.pure_cgroup_v2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    if let Some(path) = &spec.network_namespace {
        namespaces.push(json!({"type": "network", "path": path}));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": cgroups_path(&spec.cgroup_parent, &spec.id),
        "resources": resources(spec, host),
    });
    if spec.seccomp == Seccomp::RuntimeDefault {
        linux["seccomp"] = default_profile();
    }
    if !spec.privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    linux
}

/// Always set: runc would nest the container below this process' own group.
pub(crate) fn cgroups_path(parent: &str, id: &str) -> String {
    let parent = parent.trim_end_matches('/');
    format!("{}/{id}", if parent.is_empty() { "/dhow" } else { parent })
}

fn resources(spec: &ContainerSpec, host: &HostAbilities) -> Value {
    let wanted = &spec.resources;
    let mut resources = json!({"devices": [{"allow": spec.privileged, "access": "rwm"}]});
    if let Some(limit) = wanted.memory_limit_bytes {
        resources["memory"] = json!({"limit": limit});
        if host.swap_limit {
            // The limit of memory and swap together: none of it may be swap.
            resources["memory"]["swap"] = json!(limit);
        }
    }
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = wanted.cpu_shares {
        // The kernel's smallest is 2.
        cpu.insert("shares".into(), json!(shares.max(2)));
    }
    if let Some(quota) = wanted.cpu_quota_us.filter(|quota| *quota > 0) {
        // The kernel's smallest is 1 ms.
        cpu.insert("quota".into(), json!(quota.max(1000)));
        cpu.insert("period".into(), json!(wanted.cpu_period_us.unwrap_or(100_000)));
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    if let Some(limit) = wanted.pids_limit.filter(|limit| *limit > 0) {
        resources["pids"] = json!({"limit": limit});
    }
    resources
}

#[cfg(test)]
mod tests;
