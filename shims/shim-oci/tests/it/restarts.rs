//! The runtime's process comes and goes; containers stay.
use crate::world::{World, parent_of, pid_in, shim_in, soon};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shim::Shim;
use shim::fake::Captured;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_outlives_its_runtime_and_is_taken_up_with_all_it_printed() {
    let Some(world) = World::new() else { return };
    let script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo second; \
                  while [ ! -e /tmp/end ]; do sleep 0.1; done; echo third; exit 9";
    let (spec, log) = world.spec("stays", script);
    let (id, state_dir) = (spec.id.clone(), spec.state_dir.clone());
    let inside = state_dir.join("bundle/rootfs/tmp");
    let container = world.start(spec).await;
    soon(log.wait_for("first")).await;
    world.shutdown.cancel();
    drop(container);

    let (second, shutdown) = shim_in(world.dir.path());
    let log = Arc::<Captured>::default();
    let container = soon(second.adopt(&id, state_dir.clone(), log.clone())).await.unwrap().unwrap();
    assert_eq!(container.exit(), None);
    soon(container.start()).await.unwrap();
    std::fs::write(inside.join("go"), "").unwrap();
    soon(log.wait_for("second")).await;
    shutdown.cancel();
    drop(container);

    // It ends while nobody looks.
    let pid = pid_in(&state_dir);
    std::fs::write(inside.join("end"), "").unwrap();
    soon(async {
        while !state_dir.join("ended.json").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let (third, _) = shim_in(world.dir.path());
    let log = Arc::<Captured>::default();
    let container = soon(third.adopt(&id, state_dir.clone(), log.clone())).await.unwrap().unwrap();
    let exit = soon(container.wait()).await;
    assert_eq!((exit.code, log.stdout().as_str()), (9, "third\n"));
    soon(container.delete()).await.unwrap();
    assert!(world.mounts().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_supervisor_was_killed_still_ends_and_can_be_deleted() {
    let Some(world) = World::new() else { return };
    let (spec, log) = world.spec("orphan", "echo up; sleep 1000");
    let state_dir = spec.state_dir.clone();
    let container = world.start(spec).await;
    soon(log.wait_for("up")).await;
    let pid = pid_in(&state_dir);
    kill(Pid::from_raw(parent_of(pid)), Signal::SIGKILL).unwrap();
    container.kill(9).await.unwrap();
    let exit = soon(container.wait()).await;
    assert_eq!(exit.code, 255);
    assert!(exit.message.contains("exit code is unknown"), "{}", exit.message);
    soon(container.delete()).await.unwrap();
    assert!(world.mounts().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_to_adopt_where_nothing_was_made() {
    let Some(world) = World::new() else { return };
    let adopted =
        world.shim.adopt("x", world.dir.path().join("none"), Arc::<Captured>::default()).await.unwrap();
    assert!(adopted.is_none());
}
