//! Programs that run once.
use crate::world::{MAX_INSTANCES, World, module, soon};
use shim::{Mount, Shim};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;

/// Prints all arguments and the whole environment, each ended by a zero byte.
const ECHO: &str = r#"
  (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
  (drop (call $args_get (i32.const 512) (i32.const 1024)))
  (call $print (i32.const 1) (i32.const 1024) (i32.load (i32.const 20)))
  (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
  (drop (call $environ_get (i32.const 512) (i32.const 1024)))
  (call $print (i32.const 2) (i32.const 1024) (i32.load (i32.const 20)))"#;

/// Opens the file named at 2048 in the first preopened directory with the rights $rights and $oflags.
fn open(name: &str, write: bool) -> String {
    // fd_read is right 1, fd_write is right 6; O_CREAT is 1.
    let (rights, oflags) = if write { (1 << 6, 1) } else { (1 << 1, 0) };
    format!(
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const {}) (i32.const {oflags}) \
         (i64.const {rights}) (i64.const {rights}) (i32.const 0) (i32.const 100))",
        name.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_gets_its_arguments_and_environment_and_its_exit_code_is_kept() {
    let world = World::new();
    let (mut spec, log) = world.spec(&module("", &format!("{ECHO} (call $exit (i32.const 3))")));
    spec.args = vec!["guest".into(), "--loud".into()];
    spec.env = vec![("COLOUR".into(), "blue".into())];
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
    assert_eq!(exit.finished_at, SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
    assert_eq!(log.stdout(), "guest\0--loud\0");
    assert_eq!(log.stderr(), "COLOUR=blue\0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_returns_has_completed() {
    let world = World::new();
    let (spec, _) = world.spec(&module("", ""));
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str(), exit.message.as_str()), (0, "Completed", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_arrives_as_it_is_typed() {
    let world = World::new();
    let cat = r#"(local $n i32)
      (loop $again
        (local.set $n (call $read (i32.const 0)))
        (if (local.get $n) (then
          (call $print (i32.const 1) (i32.const 4096) (local.get $n))
          (br $again))))"#;
    let (mut spec, log) = world.spec(&module("", cat));
    let (mut typed, stdin) = tokio::io::duplex(64);
    spec.stdin = Some(Box::new(stdin));
    let container = world.start(spec).await;
    typed.write_all(b"one\n").await.unwrap();
    soon(log.wait_for("one\n")).await;
    typed.write_all(b"two\n").await.unwrap();
    soon(log.wait_for("two\n")).await;
    drop(typed);
    assert_eq!(soon(container.wait()).await.code, 0);
    assert_eq!(log.stdout(), "one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_ends_with_134_and_its_backtrace_in_log_and_message() {
    let world = World::new();
    let (spec, log) = world.spec(&module("(func $deep unreachable)", "(call $deep)"));
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str()), (134, "Error"));
    for text in [&exit.message, &log.stderr()] {
        assert!(text.contains("unreachable") && text.contains("deep"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_without_end_make_no_log_without_end() {
    let world = World::new();
    let name = format!("deep{}", "x".repeat(1 << 20));
    let (spec, log) = world.spec(&module(&format!("(func ${name} unreachable)"), &format!("(call ${name})")));
    let exit = world.run(spec).await;
    assert_eq!(exit.code, 134);
    for text in [&exit.message, &log.stderr()] {
        assert!(text.len() <= 4200, "{} bytes", text.len());
        assert!(text.contains("unreachable") && text.contains("deepxxx"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_beyond_the_limit_is_oom_killed_with_the_figures() {
    let world = World::new();
    let (mut spec, log) = world.spec(&module("", "(loop (drop (memory.grow (i32.const 16))) (br 0))"));
    spec.resources.memory_limit_bytes = Some(4 << 20);
    let exit = world.run(spec).await;
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    assert!(exit.message.contains("the limit is 4194304 bytes"), "{}", exit.message);
    assert!(log.stderr().contains("memory limit exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_starves_nobody_and_dies_at_once_when_killed() {
    let world = World::new();
    let mut spinning = Vec::new();
    // More of them than there are threads.
    for _ in 0..4 {
        spinning.push(world.start(world.spec(&module("", "(loop (br 0))")).0).await);
    }
    let neighbour = world.run(world.spec(&module("", ECHO)).0).await;
    assert_eq!(neighbour.code, 0);
    for (container, (signal, code)) in spinning.iter().zip([(9, 137), (15, 143), (2, 130), (9, 137)]) {
        container.kill(signal).await.unwrap();
        let exit = soon(container.wait()).await;
        assert_eq!(exit.code, code);
        container.kill(9).await.unwrap();
        assert_eq!(container.exit(), Some(exit));
        assert!(container.stats().cpu_nanoseconds > 0);
        soon(container.delete()).await.unwrap();
        assert_eq!(container.stats().memory_bytes, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpu_quota_slows_a_guest_down() {
    let world = World::new();
    let (mut spec, _) = world.spec(&module("", "(loop (br 0))"));
    spec.resources.cpu_quota_us = Some(10_000);
    spec.resources.cpu_period_us = Some(100_000);
    let container = world.start(spec).await;
    let began = tokio::time::Instant::now();
    soon(async {
        while container.stats().cpu_nanoseconds < 60_000_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // 60 ms of CPU at a tenth of a core take 500 ms; one tick may be overdrawn in the first period.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(300), "{took:?}");
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_commands_and_a_container_not_started_can_be_killed() {
    let world = World::new();
    let running = world.start(world.spec(&module("", "(loop (br 0))")).0).await;
    let created = soon(world.shim.create(world.spec(&module("", "")).0)).await.unwrap();
    created.kill(15).await.unwrap();
    assert_eq!(soon(created.wait()).await.code, 143);
    assert!(created.start().await.is_err());
    world.shutdown.cancel();
    assert_eq!(soon(running.wait()).await.code, 143);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_file_is_seen_without_its_neighbours_and_a_read_only_one_cannot_be_changed() {
    let world = World::new();
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("app.conf"), "colour=blue").unwrap();
    std::fs::write(volume.join("secret"), "hidden").unwrap();
    let mount = |read_only| Mount {
        host_path: volume.join("app.conf"),
        container_path: "/etc/app/settings".into(),
        read_only,
        pinned: None,
    };
    let show = format!(
        "(if {} (then (call $exit (i32.const 44))))
         (call $print (i32.const 1) (i32.const 4096) (call $read (i32.load (i32.const 100))))",
        open("settings", false)
    );
    let (mut spec, log) = world.spec(&module(r#"(data (i32.const 2048) "settings")"#, &show));
    spec.mounts = vec![mount(true)];
    assert_eq!(world.run(spec).await.code, 0);
    assert_eq!(log.stdout(), "colour=blue");

    for name in ["secret", "../volume/secret"] {
        let look = format!("(call $exit {})", open(name, false));
        let (mut spec, _) = world.spec(&module(&format!(r#"(data (i32.const 2048) "{name}")"#), &look));
        spec.mounts = vec![mount(true)];
        assert_ne!(world.run(spec).await.code, 0, "{name}");
    }

    let change = format!(
        "(if {} (then (call $exit (i32.const 30))))
         (call $print (i32.load (i32.const 100)) (i32.const 2048) (i32.const 4))",
        open("settings", true)
    );
    let guest = module(r#"(data (i32.const 2048) "settings")"#, &change);
    for (read_only, code, after) in [(true, 30, "colour=blue"), (false, 0, "settur=blue")] {
        let (mut spec, _) = world.spec(&guest);
        spec.mounts = vec![mount(read_only)];
        assert_eq!(world.run(spec).await.code, code);
        assert_eq!(std::fs::read_to_string(volume.join("app.conf")).unwrap(), after);
    }
}

/// What lies at a path now, whatever lies there later.
fn pinned(path: &std::path::Path) -> Option<shim::Pinned> {
    Some(shim::Pinned::new(std::fs::File::open(path).unwrap().into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_put_in_the_place_of_a_pinned_volume_shows_nothing_of_what_it_leads_to() {
    let world = World::new();
    let (volume, outside) = (world.dir.path().join("volume"), world.dir.path().join("outside"));
    for (directory, text) in [(&volume, "the pod's "), (&outside, "the node's")] {
        std::fs::create_dir_all(directory.join("a")).unwrap();
        std::fs::write(directory.join("a/whose"), text).unwrap();
    }
    let show = format!(
        "(if {} (then (call $exit (i32.const 44))))
         (call $print (i32.const 1) (i32.const 4096) (call $read (i32.load (i32.const 100))))",
        open("whose", false)
    );
    let guest = module(r#"(data (i32.const 2048) "whose")"#, &show);
    for sub_path in ["a", "a/whose"] {
        let mounted = volume.join(sub_path);
        let (mut spec, log) = world.spec(&guest);
        spec.mounts = vec![Mount {
            host_path: mounted.clone(),
            container_path: if sub_path == "a" { "/data" } else { "/data/whose" }.into(),
            read_only: true,
            pinned: pinned(&mounted),
        }];
        // Between making and starting: an instance is made at the start, and later ones as requests come.
        let made = soon(world.shim.create(spec)).await.unwrap();
        std::fs::rename(&mounted, world.dir.path().join("away")).unwrap();
        std::os::unix::fs::symlink(outside.join(sub_path), &mounted).unwrap();
        soon(made.start()).await.unwrap();
        assert_eq!(soon(made.wait()).await.code, 0);
        assert_eq!(log.stdout(), "the pod's ", "{sub_path}");
        soon(made.delete()).await.unwrap();
        std::fs::remove_file(&mounted).unwrap();
        std::fs::rename(world.dir.path().join("away"), &mounted).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_directory_can_be_written_unless_it_is_read_only() {
    let world = World::new();
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let create = format!("(call $exit {})", open("new", true));
    let guest = module(r#"(data (i32.const 2048) "new")"#, &create);
    for read_only in [true, false] {
        let (mut spec, _) = world.spec(&guest);
        spec.mounts = vec![Mount {
            host_path: volume.clone(),
            container_path: "/data".into(),
            read_only,
            pinned: None,
        }];
        let exit = world.run(spec).await;
        assert_eq!(exit.code == 0, !read_only);
        assert_eq!(volume.join("new").exists(), !read_only);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_component_of_either_wasi_runs_and_its_failure_is_exit_code_1() {
    for (version, run) in [("0.2.0", "func"), ("0.3.0", "async func")] {
        let world = World::new();
        let wit = world.dir.path().join("wit");
        std::fs::create_dir_all(wit.join("deps")).unwrap();
        let exports = format!("package a:b; world w {{ export wasi:cli/run@{version}; }}");
        std::fs::write(wit.join("world.wit"), exports).unwrap();
        let cli = format!("package wasi:cli@{version}; interface run {{ run: {run}() -> result; }}");
        std::fs::write(wit.join("deps/cli.wit"), cli).unwrap();
        for code in [0, 1] {
            let text = format!(
                r#"(module (func (export "wasi:cli/run@{version}#run") (result i32) (i32.const {code})))"#
            );
            let component = crate::text::assemble(&text, &wit).unwrap();
            assert_eq!(world.run(world.spec(&component).0).await.code, code, "{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_full_of_instances_says_so_and_has_room_again_when_one_is_gone() {
    let world = World::new();
    // It waits for its input: that takes a place and no time.
    let guest = module("", "(drop (call $read (i32.const 0)))");
    let mut held = Vec::new();
    for _ in 0..MAX_INSTANCES {
        let (mut spec, log) = world.spec(&module(
            "",
            r#"(call $print (i32.const 1) (i32.const 0) (i32.const 1))
            (drop (call $read (i32.const 0)))"#,
        ));
        let (typed, stdin) = tokio::io::duplex(64);
        spec.stdin = Some(Box::new(stdin));
        let container = world.start(spec).await;
        soon(log.wait_for("\0")).await;
        held.push((container, typed));
    }
    let exit = world.run(world.spec(&guest).0).await;
    assert_eq!((exit.code, exit.reason.as_str()), (128, "ContainerCannotRun"));
    assert!(exit.message.contains("as many WebAssembly instances as it can"), "{}", exit.message);
    let (container, typed) = held.pop().unwrap();
    drop(typed);
    assert_eq!(soon(container.wait()).await.code, 0);
    assert_eq!(world.run(world.spec(&guest).0).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_opens_files_for_ever_is_stopped_before_it_takes_its_neighbours() {
    let world = World::new();
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "").unwrap();
    let body = format!(
        r#"(local $n i32)
      (block $refused (loop $again
        (br_if $refused {})
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 2000)))
        (call $exit (i32.const 7))))
      (call $exit (i32.const 0))"#,
        open("f", false)
    );
    let (mut spec, _) = world.spec(&module(r#"(data (i32.const 2048) "f")"#, &body));
    spec.mounts =
        vec![Mount { host_path: volume, container_path: "/v".into(), read_only: true, pinned: None }];
    let exit = world.run(spec).await;
    assert_ne!(exit.code, 7, "it could open 2,000 files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_may_have_a_few_memories_and_tables() {
    let world = World::new();
    let module = r#"(module (memory (export "memory") 1) (memory 1) (table 1 funcref) (table 1 externref)
        (func (export "_start")))"#;
    assert_eq!(world.run(world.spec(module.as_bytes()).0).await.code, 0);
}
