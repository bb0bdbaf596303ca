//! Starting and stopping: what is refused, what is left behind, what a full disk does.
use crate::harness::cluster::Options;
use crate::harness::{Cluster, Kubectl, command, environment, wait};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A cluster of an ordinary user.
pub fn cluster_of_nobody(name: &str) -> Cluster {
    let through = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ];
    let through = through.map(str::to_owned).to_vec();
    let mut cluster = Cluster::prepare(name, Options { through, ..Options::default() });
    // Where it was built may be closed to others.
    cluster.program = cluster.folder().join("dhow");
    std::fs::copy(environment::dhow(), &cluster.program).expect("a copy of dhow");
    std::os::unix::fs::chown(cluster.folder(), Some(65534), Some(65534)).expect("chown");
    cluster.up().unwrap_or_else(|e| panic!("{e}"));
    cluster
}

fn kubectl(cluster: &Cluster) -> Kubectl {
    Kubectl::new(environment::newest_kubectl(), cluster.kubeconfig(), cluster.folder(), "default")
}

/// One sentence: no debug output, no trace, no second line but what comes after `error:`.
fn is_one_sentence(said: &str) {
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said:?}");
    for word in ["Error(", "Os {", "panicked", "backtrace", "unwrap"] {
        assert!(!said.contains(word), "{word} in {said:?}");
    }
}

#[test]
fn it_is_ready_and_ends_on_ctrl_c_with_all_that_it_started() {
    let cluster = Cluster::start("clean", Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let log = cluster.log();
    assert!(log.contains(&format!("https://127.0.0.1:{}", cluster.port)), "{log}");
    let runtime = cluster.runtime_pid().expect("a runtime");
    let kubectl = kubectl(&cluster);
    node_is_ready(&kubectl);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: PathBuf| std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(cluster.kubeconfig()), 0o600, "a key is for its owner alone");
    assert!(cluster.stop().success(), "{}", cluster.logs());
    wait::until("the runtime ended with it", || {
        wait::holds(!Path::new(&format!("/proc/{runtime}")).exists(), cluster.logs())
    });
    // It goes on where it was.
    cluster.up().unwrap_or_else(|e| panic!("{e}"));
    node_is_ready(&kubectl);
    assert!(cluster.stop().success());
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::prepare("port", Options::default());
    for (port, flag) in [(cluster.port, "--port"), (cluster.gateway_port, "--gateway-port")] {
        let holder = TcpListener::bind(("127.0.0.1", port)).expect("the port");
        let error = command::run(&mut cluster.up_command()).fails();
        is_one_sentence(&error);
        assert!(
            error.contains(&port.to_string()) && error.contains("in use") && error.contains(flag),
            "{error}"
        );
        drop(holder);
    }
    assert!(
        cluster.runtime_pid().is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()),
        "no runtime is left"
    );
}

#[test]
fn a_data_directory_in_use_is_refused_with_the_pid_of_its_holder() {
    let cluster = Cluster::start("held", Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let second = Cluster::prepare(
        "second",
        Options { data_dir: Some(cluster.data_dir.clone()), ..Options::default() },
    );
    let error = command::run(&mut second.up_command()).fails();
    is_one_sentence(&error);
    assert!(error.contains(&cluster.pid().to_string()) && error.contains("in use"), "{error}");
    kubectl(&cluster).ok(&["get", "nodes"]);
    assert!(cluster.stop().success());
}

#[test]
fn a_truncated_state_file_is_refused_and_left_as_it_is() {
    let cluster = Cluster::start("truncated", Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let kubectl = kubectl(&cluster);
    kubectl.ok(&["create", "configmap", "kept"]);
    assert!(cluster.stop().success());
    let state = cluster.data_dir.join("state.redb");
    let whole = std::fs::read(&state).expect("the state");
    for length in [whole.len() / 2, 4096, 100] {
        std::fs::write(&state, &whole[..length]).expect("truncating");
        let error = command::run(&mut cluster.up_command()).fails();
        is_one_sentence(&error);
        assert!(error.contains("state.redb") && error.to_lowercase().contains("copy"), "{length}: {error}");
        assert!(
            std::fs::read(&state).expect("the state") == whole[..length],
            "{length}: the file was changed"
        );
    }
    std::fs::write(&state, &whole).expect("putting it back");
    cluster.up().unwrap_or_else(|e| panic!("{e}"));
    kubectl.ok(&["get", "configmap", "kept"]);
    assert!(cluster.stop().success());
}

/// A file system of a size, mounted at a folder.
fn small_disk(at: &Path, mib: u32) {
    std::fs::create_dir_all(at).expect("a folder");
    command::run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(at))
        .ok();
}

#[test]
fn on_a_full_disk_writes_are_refused_and_reads_go_on() {
    environment::root_is_needed("a small file system");
    let mut cluster = Cluster::prepare("full", Options::default());
    let disk = cluster.folder().join("disk");
    small_disk(&disk, 64);
    cluster.data_dir = disk.join("data");
    cluster.up().unwrap_or_else(|e| panic!("{e}"));
    let kubectl = kubectl(&cluster);
    kubectl.ok(&["create", "configmap", "before"]);
    // All but some MiB: below what the store keeps free for itself.
    let filler = disk.join("filler");
    command::run(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "count=40"])
            .arg(format!("of={}", filler.display())),
    );
    let error = wait::within(Duration::from_secs(30), "writes are refused", || {
        let ran = kubectl.run(&["create", "configmap", "during"]);
        if !ran.status.success() {
            return Ok(ran.stderr);
        }
        kubectl.ok(&["delete", "configmap", "during"]);
        Err(ran.stdout)
    });
    assert!(
        error.starts_with("error: failed to create configmap: ") && error.contains("free some space"),
        "{error}"
    );
    kubectl.ok(&["get", "configmap", "before"]);
    kubectl.ok(&["get", "pods", "-A"]);
    std::fs::remove_file(&filler).expect("making room");
    wait::within(Duration::from_secs(30), "writes go on once there is room", || {
        let ran = kubectl.run(&["create", "configmap", "after"]);
        if ran.status.success() { Ok(()) } else { Err(ran.stderr) }
    });
    node_is_ready(&kubectl);
    assert!(cluster.stop().success());
}

fn node_is_ready(kubectl: &Kubectl) {
    kubectl.ok(&["wait", "nodes", "--all", "--for=condition=Ready", "--timeout=60s"]);
}
