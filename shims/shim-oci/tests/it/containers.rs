//! What a container sees, what it may do, how it ends.
use crate::world::{World, soon};
use shim::fake::Captured;
use shim::{Error, ExecStreams, ImageContent, ImageKind, Mount, Seccomp, Shim};
use shim_oci::{Config, OciShim};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_sees_its_arguments_environment_user_directory_and_layers() {
    let Some(world) = World::new() else { return };
    let script = "echo $0 $1; echo $COLOUR; pwd; id; hostname; cat /etc/motd; echo oops >&2; exit 3";
    let (mut spec, log) = world.spec("sees", script);
    spec.args.extend(["zero".into(), "one".into()]);
    spec.env = vec![("COLOUR".into(), "light blue".into())];
    spec.cwd = "/tmp".into();
    spec.user = "web".into();
    spec.supplemental_groups = vec![99];
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
    let printed = log.stdout();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(&lines[..3], ["zero one", "light blue", "/tmp"]);
    assert!(lines[3].starts_with("uid=33(web) gid=34 groups=34"), "{}", lines[3]);
    assert!(lines[3].contains("50(logs)") && lines[3].contains("99"), "{}", lines[3]);
    assert_eq!(&lines[4..], ["pod", "above"]);
    assert_eq!(log.stderr(), "oops\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_container_writes_stays_its_own_and_a_read_only_root_cannot_be_written() {
    let Some(world) = World::new() else { return };
    let write = "touch /etc/new && echo changed > /etc/motd && cat /etc/motd";
    let (spec, log) = world.spec("writes", write);
    assert_eq!(world.run(spec).await.code, 0);
    assert_eq!(log.stdout(), "changed\n");
    let (mut spec, _) = world.spec("reads", write);
    spec.read_only_root = true;
    assert_eq!(world.run(spec).await.code, 1);
    for layer in world.layers() {
        assert!(!layer.join("etc/new").exists());
    }
    assert_eq!(std::fs::read_to_string(world.layers()[1].join("etc/motd")).unwrap(), "above");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_seen_and_read_only_ones_cannot_be_written() {
    let Some(world) = World::new() else { return };
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("a"), "from the host").unwrap();
    let (mut spec, log) =
        world.spec("mounts", "cat /v/a /f; touch /v/no 2>/dev/null && exit 9; echo written > /w/b");
    let mount = |host: std::path::PathBuf, at: &str, read_only| Mount {
        host_path: host,
        container_path: at.into(),
        read_only,
        pinned: None,
    };
    spec.mounts = vec![
        mount(volume.clone(), "/v", true),
        mount(volume.join("a"), "/f", true),
        mount(volume.clone(), "/w", false),
    ];
    assert_eq!(world.run(spec).await.code, 0);
    assert_eq!(log.stdout(), "from the hostfrom the host");
    assert_eq!(std::fs::read_to_string(volume.join("b")).unwrap(), "written\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_beyond_the_limit_is_oom_killed() {
    let Some(world) = World::new() else { return };
    let (mut spec, _) = world.spec("greedy", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    spec.resources.memory_limit_bytes = Some(16 << 20);
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    assert!(exit.message.contains("16777216"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_processes_is_limited_and_scores_that_may_not_be_set_do_no_harm() {
    let Some(world) = World::new() else { return };
    let (mut spec, log) = world.spec("forks", "for i in 1 2 3 4 5 6 7 8; do sleep 30 & done; echo all");
    spec.resources.pids_limit = Some(4);
    spec.resources.oom_score_adj = Some(-998);
    spec.resources.cpu_quota_us = Some(50_000);
    spec.resources.cpu_shares = Some(2);
    assert_ne!(world.run(spec).await.code, 0);
    assert!(!log.stdout().contains("all"));
    assert!(log.stderr().contains("fork"), "{}", log.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_may_end_in_its_own_way_when_asked_and_not_when_killed() {
    let Some(world) = World::new() else { return };
    let (spec, log) =
        world.spec("polite", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let container = world.start(spec).await;
    soon(log.wait_for("ready")).await;
    container.kill(15).await.unwrap();
    assert_eq!(soon(container.wait()).await.code, 5);
    assert_eq!(log.stdout(), "ready\nbye\n");
    container.kill(9).await.unwrap();
    soon(container.delete()).await.unwrap();
    soon(container.delete()).await.unwrap();

    let (spec, log) = world.spec("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    let container = world.start(spec).await;
    soon(log.wait_for("ready")).await;
    container.kill(15).await.unwrap();
    container.kill(9).await.unwrap();
    let exit = soon(container.wait()).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "Error"));
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_deleted_container_even_if_it_still_ran() {
    let Some(world) = World::new() else { return };
    let (spec, log) = world.spec("gone", "echo up; sleep 1000");
    let (pod, state_dir) = (spec.cgroup_parent.replace("/dhow-test/", ""), spec.state_dir.clone());
    let container = world.start(spec).await;
    soon(log.wait_for("up")).await;
    assert!(container.stats().memory_bytes > 0);
    assert_eq!(world.mounts().len(), 1);
    soon(container.delete()).await.unwrap();
    assert!(world.mounts().is_empty(), "{:?}", world.mounts());
    assert_eq!(groups_named(&pod), "");
    let pid: i32 = std::fs::read_to_string(state_dir.join("pid")).unwrap().trim().parse().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    std::fs::remove_dir_all(state_dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_arrives_and_ends() {
    let Some(world) = World::new() else { return };
    let (mut spec, log) = world.spec("cat", "cat; echo done");
    let (mut typed, stdin) = tokio::io::duplex(64);
    spec.stdin = Some(Box::new(stdin));
    let container = world.start(spec).await;
    typed.write_all(b"one\n").await.unwrap();
    soon(log.wait_for("one\n")).await;
    typed.write_all(b"two\n").await.unwrap();
    drop(typed);
    assert_eq!(soon(container.wait()).await.code, 0);
    assert_eq!(log.stdout(), "one\ntwo\ndone\n");
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_beside_the_containers_own_and_are_ended_in_time() {
    let Some(world) = World::new() else { return };
    let (mut spec, log) = world.spec("exec", "echo up; sleep 1000");
    spec.user = "33:34".into();
    spec.env = vec![("COLOUR".into(), "blue".into())];
    let container = world.start(spec).await;
    soon(log.wait_for("up")).await;
    let sh = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let printed = Arc::<Captured>::default();
    let code = container
        .exec(&sh("id -u; echo $COLOUR; echo bad >&2; exit 7"), Duration::from_secs(30), printed.clone())
        .await
        .unwrap();
    assert_eq!((code, printed.stdout().as_str(), printed.stderr().as_str()), (7, "33\nblue\n", "bad\n"));
    let error = container
        .exec(&sh("sleep 900"), Duration::from_millis(500), Arc::<Captured>::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did not end within 500ms"), "{error}");
    let left = Arc::<Captured>::default();
    container.exec(&sh("/bin/busybox ps"), Duration::from_secs(30), left.clone()).await.unwrap();
    assert!(left.stdout().contains("sleep 1000"), "{}", left.stdout());
    assert!(!left.stdout().contains("sleep 900"), "{}", left.stdout());
    soon(container.delete()).await.unwrap();
    let error =
        container.exec(&sh("true"), Duration::from_secs(1), Arc::<Captured>::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_by_name_and_leaves_nothing_mounted() {
    let Some(world) = World::new() else { return };
    let (mut spec, _) = world.spec("absent", "");
    spec.args = vec!["/bin/nonsense".into()];
    let error = world.refuse(spec).await.to_string();
    assert!(error.contains("default/pod/absent") && error.contains("/bin/nonsense"), "{error}");
    let pod = world.spec("pod", "").0.cgroup_parent.replace("/dhow-test/", "");
    assert_eq!(groups_named(&pod), "");
    let (mut spec, _) = world.spec("nobody", "");
    spec.user = "somebody".into();
    assert!(world.refuse(spec).await.to_string().contains("no user somebody"));
    let (mut spec, _) = world.spec("wasm", "");
    spec.image = ImageContent::Wasm { path: "/x".into(), digest: "sha256:0".into() };
    assert!(world.refuse(spec).await.to_string().contains("WebAssembly"));
    assert!(world.mounts().is_empty(), "{:?}", world.mounts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_volume_is_mounted_whatever_its_path_leads_to_meanwhile_and_no_mount_of_it_stays() {
    let Some(world) = World::new() else { return };
    let (volume, outside) = (world.dir.path().join("volume"), world.dir.path().join("outside"));
    for (directory, text) in [(&volume, "the pod's"), (&outside, "the node's")] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("whose"), text).unwrap();
    }
    let (mut spec, log) = world.spec("pinned", "cat /v/whose /f");
    spec.mounts = [("", "/v"), ("whose", "/f")]
        .map(|(sub_path, at)| {
            let path = volume.join(sub_path);
            let file = std::fs::File::open(&path).unwrap();
            let pinned = Some(shim::Pinned::new(file.into()));
            Mount { host_path: path, container_path: at.into(), read_only: true, pinned }
        })
        .into();
    std::fs::rename(&volume, world.dir.path().join("away")).unwrap();
    symlink(&outside, &volume).unwrap();
    let container = world.start(spec).await;
    assert_eq!(soon(container.wait()).await.code, 0);
    assert_eq!(log.stdout(), "the pod'sthe pod's");
    assert_eq!(world.mounts().len(), 1, "only the root file system: {:?}", world.mounts());
    soon(container.delete()).await.unwrap();
    assert_eq!(std::fs::read_dir(world.dir.path().join("runc.pins")).unwrap().count(), 0);
    assert_eq!(std::fs::read_to_string(world.dir.path().join("away/whose")).unwrap(), "the pod's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_profile_permits_what_programs_do_and_refuses_new_namespaces() {
    let Some(world) = World::new() else { return };
    // A namespace of users needs no capability, so that only a profile can refuse it.
    let script = "/bin/busybox unshare -U /bin/busybox true 2>/dev/null && echo made || echo refused; \
                  echo x > /tmp/a && /bin/busybox mv /tmp/a /tmp/b && cat /tmp/b; (sleep 0; id -u) | cat";
    for (seccomp, namespace) in [(Seccomp::Unconfined, "made"), (Seccomp::RuntimeDefault, "refused")] {
        let (mut spec, log) = world.spec("seccomp", script);
        spec.seccomp = seccomp;
        let state_dir = spec.state_dir.clone();
        assert_eq!(world.run(spec).await.code, 0);
        assert_eq!(log.stdout(), format!("{namespace}\nx\n0\n"), "{seccomp:?}");
        std::fs::remove_dir_all(state_dir).unwrap();
    }
}

fn groups_named(name: &str) -> String {
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", name]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[test]
fn a_runtime_that_is_not_installed_is_said_with_what_to_do() {
    let config =
        Config { runtime: "/nowhere/youki".into(), state_root: "/nowhere".into(), monitor: Vec::new() };
    let shim = OciShim::new(config, Default::default());
    assert_eq!((shim.handler(), shim.image_kind()), ("youki", ImageKind::Linux));
    let error = shim.ready().unwrap_err().to_string();
    assert!(error.contains("need root") || error.contains("install it"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_with_streams_reads_and_writes_and_ends_with_its_client() {
    let Some(world) = World::new() else { return };
    let (spec, log) = world.spec("streams", "echo up; sleep 1000");
    let container = world.start(spec).await;
    soon(log.wait_for("up")).await;
    let sh = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let heard = Arc::<Captured>::default();
    let streams = |input: Option<&'static [u8]>| ExecStreams {
        stdin: input.map(|input| Box::new(input) as shim::Input),
        output: heard.clone(),
        terminal: None,
    };
    let code =
        soon(container.exec_with(&sh("/bin/busybox cat; echo no >&2; exit 5"), streams(Some(b"typed"))))
            .await;
    assert_eq!((code.unwrap(), heard.stdout().as_str(), heard.stderr().as_str()), (5, "typed", "no\n"));
    let error = soon(container.exec_with(&["/nonsense".to_owned()], streams(None))).await.unwrap_err();
    assert!(error.to_string().contains("/nonsense") && error.to_string().contains("no such file"), "{error}");
    // Its client goes away.
    let shouting = sh("echo here; sleep 901");
    {
        let running = container.exec_with(&shouting, streams(None));
        tokio::select! {
            ended = running => panic!("{ended:?}"),
            () = soon(heard.wait_for("here")) => {}
        }
    }
    soon(async {
        loop {
            let left = Arc::<Captured>::default();
            container.exec(&sh("/bin/busybox ps"), Duration::from_secs(30), left.clone()).await.unwrap();
            if !left.stdout().contains("sleep 901") {
                return;
            }
        }
    })
    .await;
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_the_size_of_its_client_and_follows_it() {
    let Some(world) = World::new() else { return };
    let (spec, log) = world.spec("terminal", "echo up; sleep 1000");
    let container = world.start(spec).await;
    soon(log.wait_for("up")).await;
    let (sized, size) = tokio::sync::watch::channel(None);
    let heard = Arc::<Captured>::default();
    let (mut keys, typed) = tokio::io::duplex(64);
    let streams = ExecStreams { stdin: Some(Box::new(typed)), output: heard.clone(), terminal: Some(size) };
    let script = "while read line; do /bin/busybox stty size; echo done-$line; done; exit 4";
    let args = ["/bin/sh", "-c", script].map(str::to_owned);
    let running = container.exec_with(&args, streams);
    let typing = async {
        let mut line = 0;
        for (rows, columns) in [(31, 91), (32, 92)] {
            sized.send_replace(Some(shim::TerminalSize { columns, rows }));
            while !heard.stdout().contains(&format!("{rows} {columns}")) {
                // A new size comes by a signal to the program that copies: a moment later.
                keys.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                heard.wait_for(&format!("done-{line}")).await;
                line += 1;
            }
        }
        // Ctrl-D: the terminal's end of file.
        keys.write_all(b"\x04").await.unwrap();
    };
    let (code, ()) = soon(async { tokio::join!(running, typing) }).await;
    assert_eq!(code.unwrap(), 4);
    soon(container.delete()).await.unwrap();
}
