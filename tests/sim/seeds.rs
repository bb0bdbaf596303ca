//! The seeds that are run, and the proof that running them means something.
use crate::children::{self, Report};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds unless `DHOW_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 200;
/// Seeds run at the same time.
const THREADS: u64 = 2;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")))
}

#[test]
fn whatever_goes_wrong_nothing_unsafe_happens_and_all_comes_right_afterwards() {
    if let Some(seed) = variable("DHOW_SIM_SEED") {
        println!("seed {seed}");
        let report = children::run(seed, None);
        println!("{}", report.line);
        if let Some(verdict) = report.verdict {
            panic!("{verdict}");
        }
        return;
    }
    let first = variable("DHOW_SIM_FIRST").unwrap_or(1);
    let count = variable("DHOW_SIM_SEEDS").unwrap_or(SEEDS);
    println!("seeds {first} to {}", first + count - 1);
    let next = AtomicU64::new(first);
    let broken: Vec<Report> = std::thread::scope(|scope| {
        let worker = || {
            let mut broken = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return broken;
                }
                let report = children::run(seed, None);
                println!("{}", report.line);
                if report.verdict.is_some() {
                    broken.push(report);
                }
            }
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker")).collect()
    });
    if let Some(report) = broken.first() {
        let seeds: Vec<u64> = broken.iter().map(|r| r.seed).collect();
        panic!(
            "{} of {count} seeds broke: {seeds:?}\n{}",
            broken.len(),
            report.verdict.as_deref().unwrap_or("")
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4, 5] {
        let (one, two) = (children::run(seed, None), children::run(seed, None));
        assert!(!one.hash().is_empty(), "{one:?}");
        assert_eq!(one.hash(), two.hash(), "seed {seed} took two ways: {} and {}", one.line, two.line);
    }
}

/// Runs seeds with a defect built in until one of them finds it.
#[track_caller]
fn assert_caught(mutant: &str, invariant: &str) {
    let mut seen = Vec::new();
    for seed in 1..=8 {
        match children::run(seed, Some(mutant)).verdict {
            Some(verdict) if verdict.contains(invariant) => return,
            other => seen.push(other.map(|v| v.lines().take(4).collect::<Vec<_>>().join(" | "))),
        }
    }
    panic!("{mutant} was not caught as {invariant:?}: {seen:#?}");
}

#[test]
fn the_simulator_catches_a_store_that_loses_a_write() {
    assert_caught("loses-a-write", "an acknowledged write is never lost");
}

#[test]
fn the_simulator_catches_a_store_whose_watch_skips_an_event() {
    assert_caught("skips-an-event", "a watch shows every revision once and in order");
}

#[test]
fn the_simulator_catches_a_pod_that_is_bound_twice() {
    assert_caught("binds-twice", "a pod is bound once, to one node");
}

#[test]
fn the_simulator_catches_a_store_that_changes_what_it_is_given() {
    assert_caught("changes-what-it-is-given", "the answer differs from what is stored");
}

#[test]
fn the_simulator_catches_a_node_that_starts_a_container_twice() {
    assert_caught("starts-twice", "a pod has one running container of a name");
}

#[test]
fn the_simulator_catches_controllers_that_do_not_come_back() {
    assert_caught("no-controllers", "without faults everything comes right");
}
