//! What this process may do on this machine: it can give a container no more than it has itself.
use shim::Error;
use std::path::Path;

/// What is needed to write a configuration that the kernel will not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostAbilities {
    /// Bits as in `/proc/self/status`.
    pub(crate) capabilities: u64,
    pub(crate) oom_score_adj: i64,
    pub(crate) open_files: u64,
    pub(crate) pure_cgroup_v2: bool,
    /// Whether version 1 counts swap.
    pub(crate) swap_limit: bool,
    pub(crate) has_resolv_conf: bool,
}

/// Lowering `oom_score_adj` and raising hard limits both need it.
pub(crate) const CAP_SYS_RESOURCE: u32 = 24;

impl HostAbilities {
    pub(crate) fn has(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }
}

/// Linux containers are started as root: overlay mounts, control groups and namespaces need it.
pub(crate) fn ensure_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Unavailable(
        "Linux containers need root on the node; start dhow with sudo (WebAssembly containers need no root)"
            .to_owned(),
    ))
}

pub(crate) fn observe_abilities() -> HostAbilities {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
    let open_files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let pure_cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    HostAbilities {
        capabilities: u64::from_str_radix(bounding.trim(), 16).unwrap_or(0),
        oom_score_adj: std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0),
        open_files: open_files.map_or(1024, |(_, hard)| hard),
        pure_cgroup_v2,
        swap_limit: pure_cgroup_v2 || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        has_resolv_conf: Path::new("/etc/resolv.conf").is_file(),
    }
}
