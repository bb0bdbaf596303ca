//! One seed: trouble first, with safety checked at every commit; then calm, in which everything must come right.
use crate::chance::seed_this_thread;
use crate::convergence;
use crate::journal::Journal;
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::weather::Weather;
use crate::workload::User;
use crate::world::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Simulated time in which everything must have come right: a node silent for 400 s, the 300 s for which its pods
/// are tolerated there, the five minutes of the longest backoff, and as much again.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long the cluster is watched once it is right, and how many commits beyond heartbeats it may then make.
const QUIET: Duration = Duration::from_secs(120);
const QUIET_COMMITS: u64 = 10;
/// Nodes that may be added for pods that found no place.
const MORE_NODES: usize = 10;
/// The stack of the simulation's thread: unoptimised futures within futures are large.
const STACK: usize = 64 << 20;

/// Whether the runtime started a thread beside the simulation's: for files, in tokio.
static OTHER_THREAD: AtomicBool = AtomicBool::new(false);

/// What came of a seed.
pub struct Outcome {
    pub hash: u64,
    pub lines: u64,
    pub simulated: Duration,
    /// Which invariant broke, how, and the last of what happened.
    pub verdict: Option<String>,
}

/// Runs a seed in a thread of its own.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        seed_this_thread(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_start(|| OTHER_THREAD.store(true, Ordering::Relaxed))
            .build()
            .expect("a runtime");
        runtime.block_on(simulate(seed, mutant))
    });
    thread.expect("a thread").join().expect("the simulation does not panic")
}

async fn simulate(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let journal = Arc::new(Journal::new(seed));
    panics_break(&journal);
    let world = World::new(seed, mutant, journal.clone()).await;
    let broken = journal.broken.clone();
    tokio::select! {
        () = broken.cancelled() => {}
        () = live(seed, &world) => {}
    }
    if OTHER_THREAD.load(Ordering::Relaxed) {
        journal.broke(
            "one thread does everything",
            "another was started, and when it is done no seed determines",
        );
    }
    let outcome = Outcome {
        hash: journal.hash(),
        lines: journal.lines(),
        simulated: journal.now(),
        verdict: journal.verdict(),
    };
    world.end().await;
    outcome
}

/// A panic anywhere, also one that is caught, is a broken invariant.
fn panics_break(journal: &Arc<Journal>) {
    let journal = journal.clone();
    std::panic::set_hook(Box::new(move |panic| {
        journal.broke("nothing panics", panic);
    }));
}

async fn live(seed: u64, world: &Arc<World>) {
    let rng = Rng::new(seed, "run");
    let user = User::new(world);
    for _ in 0..3 {
        world.add_node();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let weather = Weather::of(&rng);
    world.journal.note(format_args!("{weather:?}"));
    world.weather(weather);
    user.make_namespace("a").await;
    for _ in 0..rng.between(20, 70) {
        tokio::time::sleep(rng.millis(0, 6000)).await;
        if rng.chance(weather.crash) {
            world.doom_one();
        }
        if rng.chance(weather.node) {
            world.trouble_a_machine();
        }
        if rng.chance(weather.forgets) {
            world.forget_history().await;
        }
        user.act().await;
        world.tap.compare().await;
    }
    world.journal.step("the faults are over");
    world.clears_up();
    tokio::time::sleep(Duration::from_secs(10)).await;
    user.uncordon_all().await;
    if comes_right(world).await {
        stays_quiet(world).await;
    }
}

async fn comes_right(world: &Arc<World>) -> bool {
    let began = world.journal.now();
    let mut homeless = 0;
    loop {
        let amiss = convergence::amiss(world);
        if amiss.is_empty() {
            world.journal.note(format_args!("right after {:?}", world.journal.now() - began));
            return true;
        }
        if world.journal.now() - began > PATIENCE {
            world.journal.broke(
                "without faults everything comes right",
                format_args!("after {PATIENCE:?}:\n  {}", amiss.join("\n  ")),
            );
            return false;
        }
        // The cluster may be too small for what is wanted of it.
        homeless =
            if world.observer.with(|s| convergence::waiting_for_a_node(s)) > 0 { homeless + 1 } else { 0 };
        if homeless > 30 && world.nodes.lock().len() < MORE_NODES {
            homeless = 0;
            world.add_node();
        }
        tokio::time::sleep(LOOK).await;
        world.tap.compare().await;
    }
}

async fn stays_quiet(world: &Arc<World>) {
    // Events tell what happened; the last of them may still be on their way.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let commits = || {
        world.tap.observe();
        world.observer.with(|state| {
            let heartbeats = ["coordination.k8s.io/leases", "core/nodes"];
            state
                .log
                .iter()
                .filter(|(r, _)| !heartbeats.contains(&r.as_str()))
                .map(|(_, l)| l.len() as u64)
                .sum::<u64>()
        })
    };
    let before = commits();
    tokio::time::sleep(QUIET).await;
    let made = commits() - before;
    if made > QUIET_COMMITS {
        let journal = &world.journal;
        journal.broke(
            "a cluster that is right writes nothing but heartbeats",
            format_args!("{made} commits in {QUIET:?}"),
        );
    }
    let amiss = convergence::amiss(world);
    if !amiss.is_empty() {
        world.journal.broke("what has come right stays right", amiss.join("\n  "));
    }
}
