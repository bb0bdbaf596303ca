//! Deciding, without doing anything: which shim runs a container, and what it is told. Pure.
use cri::{
    ContainerConfig, Error, LinuxContainerResources, LinuxContainerSecurityContext, Mount, NamespaceMode,
    PORTS_ANNOTATION, PodSandboxConfig, ProfileType, SUB_PATHS_ANNOTATION, Signal,
};
use images::RunConfig;
use shim::{ImageKind, Resources, Seccomp};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the choice of a shim looks at.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) handler: &'a str,
    pub(crate) kind: ImageKind,
    /// What it lacks, in words, if it cannot work here.
    pub(crate) missing: Option<String>,
}

fn describe(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Wasm => "WebAssembly",
        ImageKind::Linux => "a Linux image",
    }
}

/// Which of the candidates runs an image of this kind, in a sandbox with this handler (empty: whichever fits).
pub(crate) fn choose_shim(
    handler: &str,
    kind: ImageKind,
    image: &str,
    candidates: &[Candidate<'_>],
) -> Result<usize, Error> {
    let fits = |candidate: &&Candidate<'_>| {
        candidate.kind == kind && (handler.is_empty() || candidate.handler == handler)
    };
    if let Some(ready) =
        candidates.iter().position(|candidate| fits(&candidate) && candidate.missing.is_none())
    {
        return Ok(ready);
    }
    if let Some(Candidate { handler, missing: Some(missing), .. }) = candidates.iter().find(fits) {
        return Err(Error::FailedPrecondition(format!(
            "{image} is {}, and {handler} cannot run it here: {missing}",
            describe(kind)
        )));
    }
    match candidates.iter().find(|candidate| candidate.handler == handler) {
        Some(other) => Err(Error::InvalidArgument(format!(
            "{image} is {}, but the pod's runtime class wants {handler}, which runs {}",
            describe(kind),
            describe(other.kind)
        ))),
        None => Err(Error::FailedPrecondition(format!(
            "{image} is {}, and nothing on this node runs that",
            describe(kind)
        ))),
    }
}

/// Checks the handler a sandbox asks for.
pub(crate) fn check_handler(handler: &str, candidates: &[Candidate<'_>]) -> Result<(), Error> {
    if handler.is_empty() {
        return Ok(());
    }
    match candidates.iter().find(|candidate| candidate.handler == handler) {
        None => {
            let known: Vec<&str> = candidates.iter().map(|candidate| candidate.handler).collect();
            let known = known.join(", ");
            Err(Error::InvalidArgument(format!(
                "runtime handler {handler:?} is unknown here; there are: {known}"
            )))
        }
        Some(Candidate { missing: Some(missing), .. }) => {
            Err(Error::FailedPrecondition(format!("runtime handler {handler} cannot work here: {missing}")))
        }
        Some(_) => Ok(()),
    }
}

/// The program and its arguments. The pod's command replaces entrypoint and cmd, its args replace cmd alone; a wasm
/// file without an entrypoint is called by its image's name.
pub(crate) fn compute_args(
    config: &ContainerConfig,
    image: &RunConfig,
    kind: ImageKind,
    image_name: &str,
) -> Result<Vec<String>, Error> {
    let mut args = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [&config.command[..], &config.args].concat(),
        (true, false) => [&image.entrypoint[..], &config.args].concat(),
        (true, true) => [&image.entrypoint[..], &image.cmd].concat(),
    };
    if kind == ImageKind::Wasm && config.command.is_empty() && image.entrypoint.is_empty() {
        args.insert(0, image_name.to_string());
    }
    match args.is_empty() {
        true => Err(Error::InvalidArgument("neither the image nor the pod says which program to run".into())),
        false => Ok(args),
    }
}

/// The image's environment with the pod's on top; the later of two equal names wins.
pub(crate) fn compute_env(config: &ContainerConfig, image: &RunConfig) -> Vec<(String, String)> {
    let of_image = image.env.iter().map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_string(), value.to_string())
    });
    let of_pod =
        config.envs.iter().map(|env| (env.key.clone(), String::from_utf8_lossy(&env.value).into_owned()));
    let mut merged: Vec<(String, String)> = Vec::new();
    for (name, value) in of_image.chain(of_pod) {
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => merged.push((name, value)),
        }
    }
    merged
}

/// `uid[:gid]` or a name: the pod's word before the image's.
pub(crate) fn compute_user(config: &ContainerConfig, image: &RunConfig) -> String {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(context) = context else { return image.user.clone() };
    match (&context.run_as_user, context.run_as_username.as_str(), &context.run_as_group) {
        (Some(user), _, Some(group)) => format!("{}:{}", user.value, group.value),
        (Some(user), _, None) => user.value.to_string(),
        (None, "", Some(group)) => {
            let user = image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            format!("{user}:{}", group.value)
        }
        (None, "", None) => image.user.clone(),
        (None, name, Some(group)) => format!("{name}:{}", group.value),
        (None, name, None) => name.to_string(),
    }
}

/// Limits in the shim's terms; CRI's 0 is "not given".
pub(crate) fn compute_resources(linux: Option<&LinuxContainerResources>) -> Resources {
    let Some(linux) = linux else { return Resources::default() };
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    Resources {
        memory_limit_bytes: positive(linux.memory_limit_in_bytes),
        cpu_quota_us: (linux.cpu_quota > 0).then_some(linux.cpu_quota),
        cpu_period_us: positive(linux.cpu_period),
        cpu_shares: positive(linux.cpu_shares),
        // CRI gives a limit of processes by the cgroup version 2 name only.
        pids_limit: linux.unified.get("pids.max").and_then(|value| value.parse().ok()),
        oom_score_adj: (linux.oom_score_adj != 0).then_some(linux.oom_score_adj),
    }
}

/// `8080,9090`.
pub(crate) fn compute_ports(config: &ContainerConfig) -> Result<Vec<u16>, Error> {
    let Some(text) = config.annotations.get(PORTS_ANNOTATION) else { return Ok(Vec::new()) };
    text.split(',')
        .map(str::trim)
        .filter(|port| !port.is_empty())
        .map(|port| match port.parse() {
            Ok(0) | Err(_) => {
                Err(Error::InvalidArgument(format!("annotation {PORTS_ANNOTATION}: {port:?} is no port")))
            }
            Ok(port) => Ok(port),
        })
        .collect()
}

/// What a shim is told: the pod's annotations with the container's own on top, which the kubelet makes and no pod can
/// forge.
pub(crate) fn compute_annotations(
    pod: &BTreeMap<String, String>,
    container: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = pod.clone();
    all.extend(container.iter().map(|(key, value)| (key.clone(), value.clone())));
    all
}

/// Mounts in the shim's terms. Image volumes are not known here yet.
pub(crate) fn compute_mounts(mounts: &[Mount]) -> Result<Vec<shim::Mount>, Error> {
    mounts
        .iter()
        .map(|mount| {
            if mount.host_path.is_empty() {
                let path = &mount.container_path;
                return Err(Error::InvalidArgument(format!(
                    "the mount at {path} names no path of this node"
                )));
            }
            Ok(shim::Mount {
                host_path: PathBuf::from(&mount.host_path),
                container_path: mount.container_path.clone(),
                read_only: mount.readonly,
                pinned: None,
            })
        })
        .collect()
}

/// Which system calls a container may make. A privileged one may make all (CRI's `privileged`).
pub(crate) fn compute_seccomp(context: &LinuxContainerSecurityContext) -> Result<Seccomp, Error> {
    let Some(profile) = context.seccomp.as_ref().filter(|_| !context.privileged) else {
        return Ok(Seccomp::Unconfined);
    };
    match profile.profile_type() {
        ProfileType::Unconfined => Ok(Seccomp::Unconfined),
        ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        ProfileType::Localhost => Err(Error::InvalidArgument(format!(
            "the seccomp profile {:?} of the node cannot be loaded: this runtime knows RuntimeDefault and Unconfined",
            profile.localhost_ref
        ))),
    }
}

/// Where what is mounted lies at a path that others can put a link into: the container's own annotation, which no pod
/// can forge.
pub(crate) fn compute_sub_paths(config: &ContainerConfig) -> Result<Vec<String>, Error> {
    let Some(text) = config.annotations.get(SUB_PATHS_ANNOTATION) else { return Ok(Vec::new()) };
    serde_json::from_str(text)
        .map_err(|e| Error::InvalidArgument(format!("annotation {SUB_PATHS_ANNOTATION}: {e}")))
}

/// The signal that asks a container to end: the pod's word, else the image's, else SIGTERM.
pub(crate) fn compute_stop_signal(config: &ContainerConfig, image: &RunConfig) -> i32 {
    const SIGTERM: i32 = 15;
    config.stop_signal().number().or_else(|| signal_by_name(&image.stop_signal)).unwrap_or(SIGTERM)
}

/// `SIGQUIT`, `QUIT` or `3`, as images write it.
fn signal_by_name(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let signals = [
        ("HUP", Signal::Sighup),
        ("INT", Signal::Sigint),
        ("QUIT", Signal::Sigquit),
        ("ABRT", Signal::Sigabrt),
        ("KILL", Signal::Sigkill),
        ("USR1", Signal::Sigusr1),
        ("USR2", Signal::Sigusr2),
        ("TERM", Signal::Sigterm),
        ("WINCH", Signal::Sigwinch),
        ("PWR", Signal::Sigpwr),
    ];
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| 34 + n);
    }
    signals.iter().find(|(known, _)| *known == name).and_then(|(_, signal)| signal.number())
}

/// Whether the pod shares the node's network.
pub(crate) fn is_host_network(config: &PodSandboxConfig) -> bool {
    let options = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

/// Below which cgroup the pod's Linux containers go.
pub(crate) fn compute_cgroup_parent(config: &PodSandboxConfig, uid: &str) -> String {
    match config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()) {
        Some(parent) if !parent.is_empty() => parent.to_string(),
        _ => format!("/dhow/pod{uid}"),
    }
}

/// The pod's resolv.conf; `None` leaves the node's.
pub(crate) fn compute_resolv_conf(config: &PodSandboxConfig) -> Option<String> {
    let dns = config.dns_config.as_ref()?;
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Some(text)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
