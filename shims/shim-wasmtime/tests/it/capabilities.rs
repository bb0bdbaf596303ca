//! What components get from this node beside WASI, and what they are told when they do not.
use crate::components::{counts, counts_draft2, hoards, says_hello, says_its_colour};
use crate::world::{World, soon};
use shim::{ContainerSpec, Error, Mount, Shim};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn annotate(spec: &mut ContainerSpec, key: &str, value: &str) {
    spec.annotations.insert(key.into(), value.into());
}

/// Runs a guest to its end and gives its exit code and what it logged.
async fn run(world: &World, guest: &[u8], change: impl FnOnce(&mut ContainerSpec)) -> (i32, String) {
    let (mut spec, log) = world.spec(guest);
    change(&mut spec);
    let code = world.run(spec).await.code;
    (code, log.stderr())
}

async fn refusal(world: &World, guest: &[u8], change: impl FnOnce(&mut ContainerSpec)) -> String {
    let (mut spec, _) = world.spec(guest);
    change(&mut spec);
    let error = soon(world.shim.create(spec)).await.err().expect("this container should be refused");
    assert!(matches!(error, Error::InvalidSpec(_)), "{error:?}");
    error.to_string()
}

fn volume(world: &World, key: &str, value: &str) -> PathBuf {
    let volume = world.dir.path().join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join(key), value).unwrap();
    volume
}

fn mounted(volume: &Path, at: &str) -> Mount {
    Mount { host_path: volume.to_owned(), container_path: at.into(), read_only: true, pinned: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_reads_its_configuration_as_it_is_now() {
    let world = World::new();
    let guest = says_its_colour();
    for colour in ["blue", "red"] {
        let volume = volume(&world, "colour", colour);
        let said = run(&world, &guest, |spec| {
            spec.mounts = vec![mounted(&volume, "/etc/app")];
            annotate(spec, "config.dhow.dev/main", "/etc/app/");
        });
        assert_eq!(said.await, (0, format!("INFO {colour}\n")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_without_its_configuration_is_told_what_to_annotate() {
    let world = World::new();
    let guest = says_its_colour();
    let text = refusal(&world, &guest, |_| {}).await;
    assert_eq!(
        text,
        "default/pod/main: the component imports wasi:config/store, and the pod names no source for it; mount a \
         ConfigMap or Secret and annotate the pod with config.dhow.dev/main: <its mountPath>"
    );
    let text = refusal(&world, &guest, |spec| annotate(spec, "config.dhow.dev/main", "/etc/app")).await;
    assert!(text.contains("where container main mounts no volume"), "{text}");
    // Another container's annotation is not this one's.
    let text = refusal(&world, &guest, |spec| annotate(spec, "config.dhow.dev/other", "/etc/app")).await;
    assert!(text.contains("names no source"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_out_of_a_configuration_volume_is_not_followed() {
    let world = World::new();
    std::fs::write(world.dir.path().join("shadow"), "of the node").unwrap();
    let volume = volume(&world, "other", "x");
    std::os::unix::fs::symlink(world.dir.path().join("shadow"), volume.join("colour")).unwrap();
    let said = run(&world, &says_its_colour(), |spec| {
        spec.mounts = vec![mounted(&volume, "/etc/app")];
        annotate(spec, "config.dhow.dev/main", "/etc/app");
    })
    .await;
    assert_eq!(said, (1, "INFO colour is a link that leads out of its volume\n".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_outlives_its_containers_and_is_its_namespaces_own() {
    let world = World::new();
    let guest = counts("default");
    let granted = |spec: &mut ContainerSpec| annotate(spec, "keyvalue.dhow.dev/main", "default");
    assert_eq!(run(&world, &guest, granted).await, (0, "INFO 1\n".into()));
    assert_eq!(run(&world, &guest, granted).await, (0, "INFO 2\n".into()));
    assert_eq!(run(&world, &counts_draft2(""), granted).await, (0, "INFO 3\n".into()));
    let elsewhere = |spec: &mut ContainerSpec| {
        granted(spec);
        spec.display_name = "other/pod/main".into();
    };
    assert_eq!(run(&world, &guest, elsewhere).await, (0, "INFO 1\n".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_was_not_granted_cannot_be_opened() {
    let world = World::new();
    let granted = |spec: &mut ContainerSpec| annotate(spec, "keyvalue.dhow.dev/main", "default");
    assert_eq!(run(&world, &counts("sessions"), granted).await, (1, "INFO no-such-store\n".into()));
    let text = refusal(&world, &counts("default"), |_| {}).await;
    assert!(text.ends_with("annotate the pod with keyvalue.dhow.dev/main: default"), "{text}");
    for (value, why) in [
        ("a b", "is no name of a bucket"),
        ("a,a", "bucket a is named twice"),
        ("a=http://x", "is not redis://"),
        ("a=redis+unix:///run/redis", "is not redis://"),
        ("a=@/etc/redis/url", "lies in no volume"),
    ] {
        let grant = |spec: &mut ContainerSpec| annotate(spec, "keyvalue.dhow.dev/main", value);
        let text = refusal(&world, &counts("default"), grant).await;
        assert!(text.contains(why), "{value}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hoards_is_stopped_at_its_namespaces_quota() {
    let world = World::with(|config| config.keyvalue_bytes = 100_000);
    let granted = |spec: &mut ContainerSpec| annotate(spec, "keyvalue.dhow.dev/main", "default");
    let (code, said) = run(&world, &hoards(30_000), granted).await;
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "INFO the quota of 100000 bytes for the key-value stores of this namespace on this node is used up\n"
    );
    let (_, said) = run(&world, &hoards(2_000_000), granted).await;
    assert_eq!(said, "INFO a value of 2000000 bytes is longer than 1048576\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_below_the_wanted_level_are_left_out_and_a_wrong_level_is_refused() {
    let world = World::new();
    assert_eq!(run(&world, &says_hello(), |_| {}).await, (0, "INFO hello\n".into()));
    let level =
        |level: &'static str| move |spec: &mut ContainerSpec| annotate(spec, "logging.dhow.dev/main", level);
    assert_eq!(run(&world, &says_hello(), level("warn")).await, (0, String::new()));
    let text = refusal(&world, &says_hello(), level("loud")).await;
    assert!(text.ends_with("\"loud\" is none of trace, debug, info, warn, error, critical"), "{text}");
}

/// A real Redis on an address that guests may reach.
struct Redis {
    child: Child,
    port: u16,
}

const REDIS_ADDRESS: &str = "127.42.255.250";

impl Redis {
    /// `None` without the program: `cargo xtask test` names it in DHOW_TEST_REDIS.
    async fn start(dir: &Path, port: Option<u16>) -> Option<Self> {
        let Some(program) = std::env::var_os("DHOW_TEST_REDIS") else {
            eprintln!("not run: DHOW_TEST_REDIS names no redis-server");
            return None;
        };
        let free = || TcpListener::bind((REDIS_ADDRESS, 0)).unwrap().local_addr().unwrap().port();
        let port = port.unwrap_or_else(free);
        let mut child = Command::new(program)
            .args(["-", "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let config =
            format!("bind {REDIS_ADDRESS}\nport {port}\nsave \"\"\nappendonly yes\nrequirepass pass\n");
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        soon(async {
            while tokio::net::TcpStream::connect((REDIS_ADDRESS, port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Some(Self { child, port })
    }

    fn url(&self) -> String {
        format!("redis://:pass@{REDIS_ADDRESS}:{}/0", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_in_redis_is_shared_by_all_nodes_and_its_absence_is_an_error_and_no_more() {
    let world = World::new();
    let Some(redis) = Redis::start(world.dir.path(), None).await else { return };
    let secret = volume(&world, "url", &redis.url());
    let granted = |spec: &mut ContainerSpec| {
        spec.mounts = vec![mounted(&secret, "/etc/redis")];
        annotate(spec, "keyvalue.dhow.dev/main", "sessions=@/etc/redis/url");
    };
    let guest = counts("sessions");
    assert_eq!(run(&world, &guest, granted).await, (0, "INFO 1\n".into()));
    let other_node = World::new();
    assert_eq!(run(&other_node, &guest, granted).await, (0, "INFO 2\n".into()));
    assert_eq!(run(&other_node, &counts_draft2("sessions"), granted).await, (0, "INFO 3\n".into()));

    let port = redis.port;
    drop(redis);
    let (code, said) = run(&world, &guest, granted).await;
    assert_eq!(code, 1);
    assert!(said.starts_with("INFO the Redis of bucket sessions: connecting to "), "{said}");
    assert!(!said.contains("pass"), "{said}");
    let _again = Redis::start(world.dir.path(), Some(port)).await.unwrap();
    let (_, said) = run(&world, &guest, granted).await;
    assert_eq!(said, "INFO 4\n", "what was counted is in its file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_the_guest_may_not_reach_is_not_reached_for_it() {
    let world = World::new();
    let (code, said) = run(&world, &counts("a"), |spec| {
        annotate(spec, "keyvalue.dhow.dev/main", "a=redis://127.0.0.1:6379");
        // The pod's own address may be reached.
        spec.pod_ip = "127.42.0.9".parse().unwrap();
    })
    .await;
    assert_eq!(code, 1);
    assert_eq!(said, "INFO the Redis of bucket a: 127.0.0.1 has no address that guests may reach\n");
}
