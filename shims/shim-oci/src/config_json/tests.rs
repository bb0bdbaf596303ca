use super::*;
use shim::{ImageContent, Mount, Output, Resources, Stream};
use std::sync::Arc;

struct Nowhere;
impl Output for Nowhere {
    fn write(&self, _: Stream, _: &[u8]) {}
}

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: "c1".into(),
        display_name: "default/pod/main".into(),
        image: ImageContent::Linux { layers: Vec::new() },
        args: vec!["/bin/true".into()],
        env: vec![("A".into(), "b=c".into())],
        cwd: String::new(),
        user: String::new(),
        supplemental_groups: vec![7],
        mounts: Vec::new(),
        read_only_root: true,
        privileged: false,
        seccomp: shim::Seccomp::Unconfined,
        resources: Resources::default(),
        pod_ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        hostname: "pod".into(),
        ports: Vec::new(),
        network: shim::Network::default(),
        network_namespace: None,
        cgroup_parent: "/dhow/pod1".into(),
        annotations: Default::default(),
        state_dir: "/state".into(),
        stdin: None,
        terminal: false,
        output: Arc::new(Nowhere),
    }
}

fn host() -> HostAbilities {
    HostAbilities {
        capabilities: 0x1ff_feff_ffff,
        oom_score_adj: 0,
        open_files: 20_000,
        pure_cgroup_v2: false,
        swap_limit: true,
        has_resolv_conf: false,
    }
}

fn config(spec: &ContainerSpec, host: &HostAbilities) -> Value {
    compute_config(spec, &User { uid: 5, gid: 6, groups: vec![7, 8] }, host).unwrap()
}

#[test]
fn the_process_is_as_the_specification_says() {
    let config = config(&spec(), &host());
    let process = &config["process"];
    assert_eq!(process["user"], json!({"uid": 5, "gid": 6, "additionalGids": [6, 7, 8]}));
    assert_eq!(process["env"][0], "A=b=c");
    assert!(process["env"][1].as_str().unwrap().starts_with("PATH="));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["capabilities"]["effective"].as_array().unwrap().len(), 14);
    assert_eq!(config["root"]["readonly"], true);
    assert_eq!(config["linux"]["cgroupsPath"], "/dhow/pod1/c1");
}

#[test]
fn what_this_process_may_not_do_is_not_asked_for() {
    let mut wanted = spec();
    wanted.resources.oom_score_adj = Some(-999);
    let weak = HostAbilities { capabilities: 1, oom_score_adj: 100, ..host() };
    let process = &config(&wanted, &weak)["process"];
    assert_eq!(process["oomScoreAdj"], 100);
    assert_eq!(process["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
    assert_eq!(process["rlimits"][0]["hard"], 20_000);
    let strong = HostAbilities { capabilities: u64::MAX, ..host() };
    assert_eq!(config(&wanted, &strong)["process"]["oomScoreAdj"], -999);
}

#[test]
fn limits_become_cgroup_settings() {
    let mut wanted = spec();
    wanted.resources = Resources {
        memory_limit_bytes: Some(1 << 20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: None,
        cpu_shares: Some(1),
        pids_limit: Some(10),
        oom_score_adj: None,
    };
    let resources = &config(&wanted, &host())["linux"]["resources"];
    assert_eq!(resources["memory"], json!({"limit": 1 << 20, "swap": 1 << 20}));
    assert_eq!(resources["cpu"], json!({"shares": 2, "quota": 50_000, "period": 100_000}));
    assert_eq!(resources["pids"], json!({"limit": 10}));
    let no_swap = HostAbilities { swap_limit: false, ..host() };
    assert_eq!(config(&wanted, &no_swap)["linux"]["resources"]["memory"], json!({"limit": 1 << 20}));
}

#[test]
fn namespaces_are_its_own_except_the_nodes_network() {
    let kinds = |config: &Value| -> Vec<String> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap().iter();
        namespaces.map(|n| n["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&config(&spec(), &host())), ["pid", "ipc", "uts", "mount"]);
    let mut wanted = spec();
    wanted.network_namespace = Some("/run/netns/x".into());
    let config = config(&wanted, &HostAbilities { pure_cgroup_v2: true, ..host() });
    assert_eq!(kinds(&config), ["pid", "ipc", "uts", "mount", "cgroup", "network"]);
}

#[test]
fn a_mount_inside_another_comes_after_it() {
    let mut wanted = spec();
    let mount = |path: &str, read_only| Mount {
        host_path: "/h".into(),
        container_path: path.into(),
        read_only,
        pinned: None,
    };
    wanted.mounts = vec![mount("/data/inner", true), mount("/data", false)];
    let config = config(&wanted, &host());
    let mounts = config["mounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().position(|m| m["destination"] == path).unwrap();
    assert!(at("/data") < at("/data/inner"));
    assert_eq!(mounts[at("/data")]["options"], json!(["rbind", "rprivate", "rw"]));
    assert_eq!(mounts[at("/data/inner")]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn a_container_without_a_program_is_refused() {
    let mut wanted = spec();
    wanted.args.clear();
    let error = compute_config(&wanted, &User::default(), &host()).unwrap_err().to_string();
    assert!(error.contains("set command"), "{error}");
}
