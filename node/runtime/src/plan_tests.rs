use super::*;
use cri::{Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext};

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

fn candidates(runc_lacks: Option<&str>) -> Vec<Candidate<'static>> {
    vec![
        Candidate { handler: "wasmtime", kind: ImageKind::Wasm, missing: None },
        Candidate { handler: "runc", kind: ImageKind::Linux, missing: runc_lacks.map(str::to_string) },
    ]
}

#[test]
fn the_image_decides_which_shim_runs_it() {
    assert_eq!(choose_shim("", ImageKind::Wasm, "i", &candidates(None)).unwrap(), 0);
    assert_eq!(choose_shim("", ImageKind::Linux, "i", &candidates(None)).unwrap(), 1);
    assert_eq!(choose_shim("runc", ImageKind::Linux, "i", &candidates(None)).unwrap(), 1);
}

#[test]
fn a_handler_that_runs_another_kind_says_so() {
    let error = choose_shim("wasmtime", ImageKind::Linux, "busybox", &candidates(None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "busybox is a Linux image, but the pod's runtime class wants wasmtime, which runs WebAssembly"
    );
}

#[test]
fn what_a_shim_lacks_is_told() {
    let lacking = candidates(Some("runc is not installed"));
    let error = choose_shim("", ImageKind::Linux, "busybox", &lacking).unwrap_err();
    assert_eq!(
        error.to_string(),
        "busybox is a Linux image, and runc cannot run it here: runc is not installed"
    );
    assert!(
        matches!(check_handler("runc", &lacking), Err(Error::FailedPrecondition(text)) if text.contains("not installed"))
    );
    let error = check_handler("kata", &lacking).unwrap_err();
    assert!(
        error.to_string().contains("\"kata\"") && error.to_string().contains("wasmtime, runc"),
        "{error}"
    );
    assert!(check_handler("", &lacking).is_ok());
    let error = choose_shim("", ImageKind::Linux, "busybox", &lacking[..1]).unwrap_err();
    assert!(error.to_string().contains("nothing on this node runs that"), "{error}");
}

#[test]
fn the_pods_command_and_args_replace_the_images_as_kubernetes_says() {
    let image = RunConfig { entrypoint: strings(&["/ep"]), cmd: strings(&["c"]), ..RunConfig::default() };
    let args = |command: &[&str], args: &[&str], image: &RunConfig, kind| {
        let config = ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
        compute_args(&config, image, kind, "hello")
    };
    assert_eq!(args(&[], &[], &image, ImageKind::Linux).unwrap(), ["/ep", "c"]);
    assert_eq!(args(&[], &["a"], &image, ImageKind::Linux).unwrap(), ["/ep", "a"]);
    assert_eq!(args(&["x"], &[], &image, ImageKind::Linux).unwrap(), ["x"]);
    assert_eq!(args(&["x"], &["a"], &image, ImageKind::Linux).unwrap(), ["x", "a"]);
    let bare = RunConfig::default();
    assert!(args(&[], &[], &bare, ImageKind::Linux).is_err());
    assert_eq!(args(&[], &[], &bare, ImageKind::Wasm).unwrap(), ["hello"]);
    assert_eq!(args(&[], &["a"], &bare, ImageKind::Wasm).unwrap(), ["hello", "a"]);
    assert_eq!(args(&["x"], &["a"], &bare, ImageKind::Wasm).unwrap(), ["x", "a"]);
}

#[test]
fn the_pods_environment_lies_over_the_images() {
    let image = RunConfig { env: strings(&["PATH=/bin", "A=image", "EMPTY"]), ..RunConfig::default() };
    let pair = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let config = ContainerConfig {
        envs: vec![pair("A", "pod"), pair("B", "1"), pair("B", "2")],
        ..Default::default()
    };
    let env = compute_env(&config, &image);
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("PATH", "/bin"), ("A", "pod"), ("EMPTY", ""), ("B", "2")]);
}

#[test]
fn the_user_is_the_pods_before_the_images() {
    let image = RunConfig { user: "nobody:5".into(), ..RunConfig::default() };
    let user = |user: Option<i64>, name: &str, group: Option<i64>| {
        let context = LinuxContainerSecurityContext {
            run_as_user: user.map(|value| Int64Value { value }),
            run_as_username: name.into(),
            run_as_group: group.map(|value| Int64Value { value }),
            ..Default::default()
        };
        let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        compute_user(&ContainerConfig { linux: Some(linux), ..Default::default() }, &image)
    };
    assert_eq!(user(None, "", None), "nobody:5");
    assert_eq!(user(Some(7), "", None), "7");
    assert_eq!(user(Some(7), "", Some(8)), "7:8");
    assert_eq!(user(None, "web", None), "web");
    assert_eq!(user(None, "", Some(8)), "nobody:8");
}

#[test]
fn zero_is_no_limit() {
    let linux =
        LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 2, ..Default::default() };
    let resources = compute_resources(Some(&linux));
    assert_eq!(resources.memory_limit_bytes, Some(64 << 20));
    assert_eq!(resources.cpu_shares, Some(2));
    assert_eq!((resources.cpu_quota_us, resources.cpu_period_us, resources.pids_limit), (None, None, None));
}

#[test]
fn ports_come_by_annotation() {
    let ports = |text: &str| {
        let annotations = [(PORTS_ANNOTATION.to_string(), text.to_string())].into();
        compute_ports(&ContainerConfig { annotations, ..Default::default() })
    };
    assert_eq!(ports("8080,9090").unwrap(), [8080, 9090]);
    assert_eq!(ports("").unwrap(), [0u16; 0]);
    assert!(ports("http").is_err() && ports("0").is_err() && ports("70000").is_err());
}

#[test]
fn the_stop_signal_has_three_sources() {
    let of = |pod: Signal, image: &str| {
        let config = ContainerConfig { stop_signal: pod as i32, ..Default::default() };
        compute_stop_signal(&config, &RunConfig { stop_signal: image.into(), ..RunConfig::default() })
    };
    assert_eq!(of(Signal::RuntimeDefault, ""), 15);
    assert_eq!(of(Signal::RuntimeDefault, "SIGQUIT"), 3);
    assert_eq!(of(Signal::RuntimeDefault, "37"), 37);
    assert_eq!(of(Signal::RuntimeDefault, "SIGRTMIN+3"), 37);
    assert_eq!(of(Signal::Sigusr1, "SIGQUIT"), 10);
    assert_eq!(of(Signal::RuntimeDefault, "nonsense"), 15);
}

#[test]
fn the_pods_word_chooses_the_system_calls_and_a_privileged_container_has_them_all() {
    let context = |profile_type: ProfileType, privileged| LinuxContainerSecurityContext {
        seccomp: Some(cri::SecurityProfile {
            profile_type: profile_type.into(),
            localhost_ref: "a.json".into(),
        }),
        privileged,
        ..Default::default()
    };
    let default = compute_seccomp(&context(ProfileType::RuntimeDefault, false));
    assert_eq!(default, Ok(Seccomp::RuntimeDefault));
    for unconfined in [
        context(ProfileType::Unconfined, false),
        context(ProfileType::RuntimeDefault, true),
        LinuxContainerSecurityContext::default(),
    ] {
        assert_eq!(compute_seccomp(&unconfined), Ok(Seccomp::Unconfined));
    }
    let error = compute_seccomp(&context(ProfileType::Localhost, false)).unwrap_err();
    assert!(error.to_string().contains("\"a.json\" of the node cannot be loaded"), "{error}");
}
