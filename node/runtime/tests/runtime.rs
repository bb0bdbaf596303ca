//! The runtime with a fake shim: the suite, and what only a runtime with a disk does.
use bytes::Bytes;
use cri::suite::Subject;
use cri::*;
use futures::StreamExt;
use images::fake::FakeRegistry;
use pod_network::LoopbackNetwork;
use runtime::{Config, OpenError, Runtime};
use shim::fake::{FakeShim, Run, Script};
use shim::{ContainerSpec, ImageContent, ImageKind, Stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(20);

/// Wasm files that differ, so that the fake shim can tell their images apart: a module and the name of its script.
fn wasm(script: &str) -> Bytes {
    Bytes::from([b"\0asm\x01\0\0\0", script.as_bytes()].concat())
}

fn script_of(spec: &ContainerSpec) -> Script {
    let ImageContent::Wasm { path, .. } = &spec.image else { panic!("no wasm: {:?}", spec.image) };
    let content = std::fs::read(path).unwrap();
    match &content[8..] {
        b"exits" => Script::exits(3, Duration::ZERO),
        b"talks" => Script {
            output: vec![(Stream::Stdout, b"hello\nwor".to_vec()), (Stream::Stderr, b"oops\n".to_vec())],
            ..Script::exits(0, Duration::ZERO)
        },
        b"echoes" => Script { run: Run::Echo, ..Script::default() },
        b"stubborn" => Script { stop_takes: None, ..Script::default() },
        b"broken" => {
            Script { create_error: Some("an import nobody provides: env::magic".into()), ..Script::default() }
        }
        b"startless" => Script { start_error: Some("address in use".into()), ..Script::default() },
        b"slow" => Script { create_takes: Duration::from_millis(200), ..Script::default() },
        b"commands" => {
            let exec = |args: &[String]| (args.len() as i32 - 1, args.join(" "));
            Script { exec: Some(Arc::new(exec)), ..Script::default() }
        }
        b"survives" => Script { survives: true, ..Script::default() },
        _ => Script::default(),
    }
}

/// A clock on which every look is a millisecond later than the one before.
fn clock() -> SystemTime {
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + LOOKS.fetch_add(1, Ordering::Relaxed))
}

struct Bench {
    directory: tempfile::TempDir,
    shim: FakeShim,
    runtime: Runtime,
}

fn config(directory: &tempfile::TempDir, shim: &FakeShim) -> Config {
    let network = Arc::new(LoopbackNetwork::new(LoopbackNetwork::DEFAULT_RANGE).unwrap());
    let counter = AtomicU64::new(1);
    Config::new(
        directory.path().join("runtime"),
        vec![Arc::new(shim.clone())],
        network,
        Arc::new(clock),
        // Unique also after a restart.
        Arc::new(move || {
            (u64::from(std::process::id()) << 32) ^ rand_like(counter.fetch_add(1, Ordering::Relaxed))
        }),
    )
}

fn rand_like(n: u64) -> u64 {
    static SALT: AtomicU64 = AtomicU64::new(1);
    (n ^ (SALT.fetch_add(1, Ordering::Relaxed) << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shim = FakeShim::with_clock("wasmtime", ImageKind::Wasm, script_of, clock);
        let runtime = Runtime::open(config(&directory, &shim)).await.unwrap();
        Self { directory, shim, runtime }
    }

    /// The process ends, and another opens the directory. `kill`: without a goodbye.
    async fn restart(self, kill: bool) -> Self {
        let Self { directory, shim, runtime } = self;
        if !kill {
            runtime.close().await;
        }
        shim.lose_process();
        // A copy is what a killed process leaves: its lock is gone, its files are as they are.
        let copy = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("runtime"), copy.path().join("runtime"));
        let status = std::process::Command::new("cp").arg("-a").arg(&from).arg(&to).status().unwrap();
        assert!(status.success());
        let runtime = Runtime::open(config(&copy, &shim)).await.unwrap();
        Self { directory: copy, shim, runtime }
    }

    async fn image(&self, script: &str) -> String {
        let file = futures::stream::iter([Ok(wasm(script))]).boxed();
        self.runtime.import_image(format!("localhost/{script}:1"), file).await.unwrap().reference
    }

    async fn sandbox(&self, name: &str) -> String {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: "u1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: "host".into(),
            log_directory: self.directory.path().join("logs").to_str().unwrap().into(),
            ..Default::default()
        };
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    async fn create_with(&self, sandbox: &str, config: ContainerConfig) -> Result<String, Error> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            ..Default::default()
        };
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    async fn config(&self, script: &str) -> ContainerConfig {
        let image = self.image(script).await;
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(ImageSpec { image, ..Default::default() }),
            log_path: "main/0.log".into(),
            ..Default::default()
        }
    }

    async fn create(&self, sandbox: &str, script: &str) -> String {
        let config = self.config(script).await;
        self.create_with(sandbox, config).await.unwrap()
    }

    async fn start(&self, id: &str) -> Result<StartContainerResponse, Error> {
        self.runtime.start_container(StartContainerRequest { container_id: id.into() }).await
    }

    async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime.container_status(request).await.unwrap().status.unwrap()
    }

    async fn run(&self, script: &str) -> String {
        let sandbox = self.sandbox("pod").await;
        let id = self.create(&sandbox, script).await;
        self.start(&id).await.unwrap();
        id
    }

    async fn run_to_end(&self, id: &str) -> ContainerStatus {
        let mut events = self.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
        self.start(id).await.unwrap();
        self.wait_stopped(&mut events, id).await;
        self.status(id).await
    }

    async fn wait_stopped(&self, events: &mut EventStream, id: &str) {
        let wait = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                if event.container_id == id && event.container_event_type() == ContainerEventType::Stopped {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it ends");
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.path().join("logs/main/0.log")).unwrap();
        // Without the time.
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_string()).collect()
    }
}

#[tokio::test]
async fn the_runtime_passes_the_suite() {
    let kept = std::cell::RefCell::new(Vec::new());
    let registry = FakeRegistry::start().await.unwrap();
    cri::suite::run(async || {
        let bench = Bench::new().await;
        let (runs_forever, exits_with_3) = (bench.image("forever").await, bench.image("exits").await);
        let runtime = Arc::new(bench.runtime.clone());
        kept.borrow_mut().push(bench);
        let missing = registry.reference("missing:1");
        Subject { runtime: runtime.clone(), images: runtime, runs_forever, exits_with_3, missing }
    })
    .await;
}

#[tokio::test]
async fn a_sub_path_is_mounted_as_it_was_when_the_container_was_made_and_not_through_a_link() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let volume = bench.directory.path().canonicalize().unwrap().join("volume");
    std::fs::create_dir_all(volume.join("a")).unwrap();
    std::fs::write(volume.join("a/whose"), "the pod's").unwrap();
    let outside = bench.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("whose"), "the node's").unwrap();
    let mut config = bench.config("forever").await;
    config.mounts = vec![Mount {
        host_path: volume.join("a").to_str().unwrap().into(),
        container_path: "/data".into(),
        ..Default::default()
    }];
    config.annotations = [(SUB_PATHS_ANNOTATION.to_string(), "[\"/data\"]".to_string())].into();
    bench.create_with(&sandbox, config.clone()).await.unwrap();

    std::fs::rename(volume.join("a"), volume.join("away")).unwrap();
    std::os::unix::fs::symlink(&outside, volume.join("a")).unwrap();
    let seen = bench.shim.seen().pop().unwrap();
    assert_eq!(std::fs::read_to_string(seen.mounts[0].source().join("whose")).unwrap(), "the pod's");

    let error = bench.create_with(&sandbox, config).await.unwrap_err();
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error}");
    assert!(error.to_string().contains("was exchanged while the container was made"), "{error}");
    assert_eq!(bench.shim.seen().len(), 1, "the shim was asked all the same");
}

#[tokio::test]
async fn output_becomes_a_log_in_cris_format() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let id = bench.create(&sandbox, "talks").await;
    let status = bench.run_to_end(&id).await;
    assert_eq!(bench.log(), ["stdout F hello", "stderr F oops", "stdout P wor"]);
    assert!(status.log_path.ends_with("logs/main/0.log"));
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
}

#[tokio::test]
async fn the_shim_is_told_what_pod_and_image_say() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let mut config = bench.config("forever").await;
    config.args = vec!["a".into()];
    config.envs = vec![KeyValue { key: "K".into(), value: b"v".to_vec() }];
    config.mounts = vec![Mount {
        host_path: "/tmp".into(),
        container_path: "/data".into(),
        readonly: true,
        ..Default::default()
    }];
    config.annotations = [("dhow.dev/ports".to_string(), "9090".to_string())].into();
    config.linux = Some(LinuxContainerConfig {
        resources: Some(LinuxContainerResources { memory_limit_in_bytes: 1 << 20, ..Default::default() }),
        security_context: None,
    });
    bench.create_with(&sandbox, config).await.unwrap();
    let seen = bench.shim.seen().pop().unwrap();
    assert_eq!(seen.display_name, "default/pod/main");
    assert_eq!(seen.args, ["forever", "a"]);
    assert_eq!(seen.env, [("K".to_string(), "v".to_string())]);
    assert_eq!((seen.mounts[0].container_path.as_str(), seen.mounts[0].read_only), ("/data", true));
    assert_eq!(seen.ports, [9090]);
    assert_eq!(seen.resources.memory_limit_bytes, Some(1 << 20));
    assert_eq!((seen.hostname.as_str(), seen.cgroup_parent.as_str()), ("host", "/dhow/podu1"));
    assert!(seen.pod_ip.to_string().starts_with("127.42."));
    assert!(!seen.has_stdin);
}

#[tokio::test]
async fn after_a_restart_containers_of_the_process_have_ended_and_sandboxes_keep_their_addresses() {
    for kill in [false, true] {
        let bench = Bench::new().await;
        let id = bench.run("forever").await;
        let ended = bench.run("exits").await;
        let mut events = bench.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
        if bench.status(&ended).await.state() != ContainerState::Exited {
            bench.wait_stopped(&mut events, &ended).await;
        }
        let list = async |bench: &Bench| {
            let mut found = Vec::new();
            for sandbox in bench.runtime.list_pod_sandbox(Default::default()).await.unwrap().items {
                let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, verbose: false };
                found.push(bench.runtime.pod_sandbox_status(request).await.unwrap().status.unwrap());
            }
            found
        };
        let before = list(&bench).await;
        let bench = bench.restart(kill).await;
        assert_eq!(list(&bench).await, before);
        let status = bench.status(&id).await;
        assert_eq!(
            (status.state(), status.exit_code, status.reason.as_str()),
            (ContainerState::Exited, 255, "Unknown")
        );
        assert_eq!(bench.status(&ended).await.exit_code, 3, "how it ended is remembered");
        let fresh = bench.sandbox("fresh").await;
        let request = PodSandboxStatusRequest { pod_sandbox_id: fresh, verbose: false };
        let ip = bench.runtime.pod_sandbox_status(request).await.unwrap().status.unwrap().network.unwrap().ip;
        assert!(before.iter().all(|sandbox| sandbox.network.as_ref().unwrap().ip != ip));
        let remove = RemoveContainerRequest { container_id: id };
        bench.runtime.remove_container(remove).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_restart_a_container_that_survived_runs_on() {
    let bench = Bench::new().await;
    let id = bench.run("survives").await;
    let started_at = bench.status(&id).await.started_at;
    let bench = bench.restart(true).await;
    let status = bench.status(&id).await;
    assert_eq!((status.state(), status.started_at), (ContainerState::Running, started_at));
    let mut events = bench.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
    bench.shim.end(&id, 137, "OOMKilled", "memory");
    bench.wait_stopped(&mut events, &id).await;
    assert_eq!(bench.status(&id).await.reason, "OOMKilled");
    bench.runtime.remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
    assert!(bench.shim.present().is_empty());
}

#[tokio::test]
async fn a_second_runtime_in_the_same_directory_is_refused_with_the_holders_pid() {
    let bench = Bench::new().await;
    let error = Runtime::open(config(&bench.directory, &bench.shim)).await.err().expect("it is in use");
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let bench = Bench::new().await;
    let id = bench.run("stubborn").await;
    let request = StopContainerRequest { container_id: id.clone(), timeout: 1 };
    bench.runtime.stop_container(request).await.unwrap();
    assert_eq!(bench.status(&id).await.exit_code, 137);
    let polite = bench.run("forever").await;
    let request = StopContainerRequest { container_id: polite.clone(), timeout: 30 };
    bench.runtime.stop_container(request).await.unwrap();
    assert_eq!(bench.status(&polite).await.exit_code, 143);
}

#[tokio::test]
async fn a_failed_creation_says_why_and_leaves_nothing() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let config = bench.config("broken").await;
    let error = bench.create_with(&sandbox, config).await.unwrap_err();
    assert_eq!(error, Error::InvalidArgument("an import nobody provides: env::magic".into()));
    let left = std::fs::read_dir(bench.directory.path().join("runtime/containers")).unwrap().count();
    assert_eq!(left, 0);
    bench.shim.set_missing(Some("wasmtime has no memory left"));
    let config = bench.config("forever").await;
    let error = bench.create_with(&sandbox, config).await.unwrap_err();
    assert!(
        matches!(&error, Error::FailedPrecondition(text) if text.contains("no memory left")),
        "{error:?}"
    );
    let status = bench.runtime.status(StatusRequest::default()).await.unwrap();
    assert!(status.runtime_handlers.is_empty());
    let conditions = status.status.unwrap().conditions;
    assert!(!conditions[0].status && conditions[0].message.contains("no memory left"));
}

#[tokio::test]
async fn a_failed_start_is_the_end_of_the_container() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let id = bench.create(&sandbox, "startless").await;
    let error = bench.start(&id).await.unwrap_err();
    assert!(error.to_string().contains("address in use"), "{error}");
    let status = bench.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("address in use"));
}

#[tokio::test(start_paused = true)]
async fn slow_creations_do_not_wait_for_each_other() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    bench.image("slow").await;
    let started = tokio::time::Instant::now();
    let all = futures::future::join_all((0..20).map(|_| bench.create(&sandbox, "slow"))).await;
    assert_eq!(all.len(), 20);
    // On the paused clock: one after the other they would take four seconds.
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_creation_nobody_waits_for_is_given_up() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let config = bench.config("slow").await;
    let given_up = tokio::time::timeout(Duration::from_millis(20), bench.create_with(&sandbox, config)).await;
    assert!(given_up.is_err());
    // On the paused clock: until long after it would have been made.
    tokio::time::sleep(PATIENCE).await;
    assert!(bench.shim.seen().is_empty(), "it was made for nobody");
    assert!(bench.shim.present().is_empty());
    let listed = bench.runtime.list_containers(ListContainersRequest::default()).await.unwrap();
    assert!(listed.containers.is_empty());
}

#[tokio::test]
async fn a_linux_container_that_nobody_waits_for_is_made_to_its_end_and_then_destroyed() {
    let directory = tempfile::tempdir().unwrap();
    let slow = |_: &ContainerSpec| Script { create_takes: Duration::from_millis(200), ..Script::default() };
    let shim = FakeShim::with_clock("runc", ImageKind::Linux, slow, clock);
    let runtime = Runtime::open(config(&directory, &shim)).await.unwrap();
    let bench = Bench { directory, shim, runtime };
    let registry = FakeRegistry::start().await.unwrap();
    let image = linux_image(&registry);
    let spec = ImageSpec { image: image.clone(), ..Default::default() };
    let pull = PullImageRequest { image: Some(spec.clone()), ..Default::default() };
    bench.runtime.pull_image(pull).await.unwrap();
    let sandbox = bench.sandbox("pod").await;
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(spec),
        command: vec!["/bin/true".into()],
        ..Default::default()
    };
    // From here on: the registry speaks over real sockets.
    tokio::time::pause();
    let given_up = tokio::time::timeout(Duration::from_millis(20), bench.create_with(&sandbox, config)).await;
    assert!(given_up.is_err());
    tokio::time::sleep(PATIENCE).await;
    // Half made it would leave mounts behind, so it was made; and then the shim was told to delete it.
    assert_eq!(bench.shim.seen().len(), 1);
    assert_eq!(bench.shim.present(), Vec::<String>::new(), "the shim still has it");
    let listed = bench.runtime.list_containers(ListContainersRequest::default()).await.unwrap();
    assert!(listed.containers.is_empty());
    let left = std::fs::read_dir(bench.directory.path().join("runtime/containers")).unwrap().count();
    assert_eq!(left, 0, "its state is still there");
}

/// An image for this machine with one empty layer.
fn linux_image(registry: &FakeRegistry) -> String {
    use serde_json::json;
    let end_mark = vec![0; 1024];
    let size = end_mark.len();
    let layer = registry.add_blob(end_mark);
    let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": [layer] } }).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": registry.add_blob(config.clone()),
            "size": config.len(),
        },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size }],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.add_manifest("linux", "1", media_type, manifest.to_string());
    registry.reference("linux:1")
}

#[tokio::test(start_paused = true)]
async fn an_image_stays_while_a_container_is_made_of_it() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let config = bench.config("slow").await;
    let image = config.image.clone().unwrap().image;
    let remove = || bench.runtime.remove_image(RemoveImageRequest { image: config.image.clone() });
    let mut creating = std::pin::pin!(bench.create_with(&sandbox, config.clone()));
    // It is being made, and no list of containers knows it.
    assert!(tokio::time::timeout(Duration::from_millis(20), creating.as_mut()).await.is_err());
    let error = remove().await.unwrap_err();
    assert_eq!(error.to_string(), {
        let text = format!("image {image} is in use by a container that is being made");
        Error::FailedPrecondition(text).to_string()
    });
    let id = creating.await.unwrap();
    assert!(remove().await.unwrap_err().to_string().contains(&id));
    bench.runtime.remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
    remove().await.unwrap();
    assert!(matches!(bench.create_with(&sandbox, config.clone()).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn input_reaches_a_container_that_wants_it() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let mut config = bench.config("echoes").await;
    (config.stdin, config.stdin_once) = (true, true);
    let id = bench.create_with(&sandbox, config).await.unwrap();
    let mut events = bench.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
    bench.start(&id).await.unwrap();
    let pieces: Vec<Result<Bytes, Error>> = vec![Ok("ab".into()), Ok("c\nd\n".into())];
    bench.runtime.send_input(id.clone(), futures::stream::iter(pieces).boxed()).await.unwrap();
    bench.wait_stopped(&mut events, &id).await;
    assert_eq!(bench.log(), ["stdout F abc", "stdout F d"]);
    let error = bench.runtime.send_input(id, futures::stream::empty().boxed()).await.unwrap_err();
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
}

#[tokio::test]
async fn a_container_ends_although_somebody_still_holds_its_input_open() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let mut config = bench.config("forever").await;
    config.stdin = true;
    let id = bench.create_with(&sandbox, config).await.unwrap();
    bench.start(&id).await.unwrap();
    let (asked, feeding) = tokio::sync::oneshot::channel();
    let first = futures::stream::once(async move {
        asked.send(()).unwrap();
        Ok(Bytes::new())
    });
    let silent = first.chain(futures::stream::pending()).boxed();
    let (runtime, of) = (bench.runtime.clone(), id.clone());
    let sender = tokio::spawn(async move { runtime.send_input(of, silent).await });
    feeding.await.unwrap();
    let stop = bench.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 });
    tokio::time::timeout(PATIENCE, stop).await.expect("it stops").unwrap();
    assert_eq!(bench.status(&id).await.state(), ContainerState::Exited);
    tokio::time::timeout(PATIENCE, sender).await.expect("the sender lets go").unwrap().unwrap();
}

#[tokio::test]
async fn an_image_in_use_is_not_removed() {
    let bench = Bench::new().await;
    let id = bench.run("forever").await;
    let image = || Some(ImageSpec { image: "localhost/forever:1".into(), ..Default::default() });
    let error = bench.runtime.remove_image(RemoveImageRequest { image: image() }).await.unwrap_err();
    assert!(error.to_string().contains("in use by container main"), "{error}");
    bench.runtime.remove_container(RemoveContainerRequest { container_id: id }).await.unwrap();
    bench.runtime.remove_image(RemoveImageRequest { image: image() }).await.unwrap();
}

#[tokio::test]
async fn closing_ends_event_streams_and_is_quick() {
    let bench = Bench::new().await;
    bench.run("forever").await;
    let mut events = bench.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), bench.runtime.close()).await.expect("it closes soon");
    assert!(tokio::time::timeout(PATIENCE, events.next()).await.unwrap().is_none());
}

/// A client of the streaming server, over WebSocket.
struct Streams(tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>);

impl Streams {
    async fn open(url: &str) -> Self {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let address = url.trim_start_matches("http://").split('/').next().unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        // The connection stands.
        socket.next().await.unwrap().unwrap();
        Self(socket)
    }

    async fn send(&mut self, message: &[u8]) {
        use futures::SinkExt;
        let message = Bytes::copy_from_slice(message);
        self.0.send(tokio_tungstenite::tungstenite::Message::Binary(message)).await.unwrap();
    }

    /// What comes over a channel, until all of it has come or `enough` of it.
    async fn hear(&mut self, channel: u8, enough: usize) -> String {
        let mut heard = Vec::new();
        let hearing = async {
            while let Some(Ok(message)) = self.0.next().await {
                let bytes = message.into_data();
                if bytes.first() == Some(&channel) {
                    heard.extend_from_slice(&bytes[1..]);
                }
                if heard.len() >= enough {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.expect("it comes");
        String::from_utf8_lossy(&heard).into_owned()
    }
}

#[tokio::test]
async fn a_command_runs_with_streams_and_gives_its_code() {
    let bench = Bench::new().await;
    let id = bench.run("commands").await;
    let exec = |command: &str| ExecRequest {
        container_id: id.clone(),
        cmd: command.split(' ').map(str::to_owned).collect(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let url = bench.runtime.exec(exec("add 1 2")).await.unwrap().url;
    let mut streams = Streams::open(&url).await;
    streams.send(b"\0 and input").await;
    streams.send(&[255, 0]).await;
    assert_eq!(streams.hear(1, "add 1 2 and input".len()).await, "add 1 2 and input");
    let status = streams.hear(3, usize::MAX).await;
    assert!(status.contains("NonZeroExitCode") && status.contains("\"message\":\"2\""), "{status}");
    let none = ExecRequest { container_id: id.clone(), cmd: vec!["x".into()], ..Default::default() };
    assert!(matches!(bench.runtime.exec(none).await, Err(Error::InvalidArgument(_))));
    assert!(matches!(
        bench.runtime.exec(ExecRequest { cmd: vec![], ..exec("x") }).await,
        Err(Error::InvalidArgument(_))
    ));
}

#[tokio::test]
async fn several_are_attached_and_the_slow_one_holds_nobody_up() {
    let bench = Bench::new().await;
    let sandbox = bench.sandbox("pod").await;
    let mut config = bench.config("echoes").await;
    (config.stdin, config.stdin_once) = (true, true);
    let id = bench.create_with(&sandbox, config).await.unwrap();
    bench.start(&id).await.unwrap();
    let attach =
        |stdin| AttachRequest { container_id: id.clone(), stdin, stdout: true, ..Default::default() };
    let url = bench.runtime.attach(attach(true)).await.unwrap().url;
    let mut typing = Streams::open(&url).await;
    let mut watching = Streams::open(&bench.runtime.attach(attach(false)).await.unwrap().url).await;
    let mut slow = Streams::open(&bench.runtime.attach(attach(false)).await.unwrap().url).await;
    // They are attached once they have seen something.
    tokio::select! {
        () = async { loop { typing.send(b"\0x").await; typing.hear(1, 1).await; } } => {}
        _ = async { (watching.hear(1, 1).await, slow.hear(1, 1).await) } => {}
    }
    // More than any socket buffer and the server's own hold, for one who does not read.
    let pieces = (0..512).map(|_| Ok(Bytes::from(vec![b'y'; 64 << 10])));
    let reading = tokio::spawn(async move { (watching.hear(1, 32 << 20).await.len(), watching) });
    let own = tokio::spawn(async move { (typing.hear(1, 32 << 20).await.len(), typing) });
    bench.runtime.send_input(id.clone(), futures::stream::iter(pieces).boxed()).await.unwrap();
    assert!(reading.await.unwrap().0 >= 32 << 20);
    let (heard, mut typing) = own.await.unwrap();
    assert!(heard >= 32 << 20);
    let status = slow.hear(3, usize::MAX).await;
    assert!(status.contains("reads too slowly"), "{status}");
    // The program had the end of its input, and that is how being attached ends.
    assert!(typing.hear(3, usize::MAX).await.contains("Success"));
    assert!(matches!(bench.runtime.attach(attach(false)).await, Err(Error::FailedPrecondition(_))));
}

#[tokio::test]
async fn what_cannot_be_attached_to_is_refused_with_what_to_do() {
    let bench = Bench::new().await;
    let id = bench.run("forever").await;
    let attach =
        |stdin, tty| AttachRequest { container_id: id.clone(), stdin, tty, stdout: true, stderr: false };
    let error = bench.runtime.attach(attach(true, false)).await.unwrap_err().to_string();
    assert!(error.contains("reads no input") && error.contains("without --stdin"), "{error}");
    let error = bench.runtime.attach(attach(false, true)).await.unwrap_err().to_string();
    assert!(error.contains("no terminal") && error.contains("without --tty"), "{error}");
}
