//! Each seed has a process of its own: nothing that another run left in this one (counters, caches, threads) can
//! touch it, and a process that hangs is ended.
use std::process::{Command, Stdio};
use std::time::Duration;

const SEED: &str = "DHOW_SIM_CHILD_SEED";
const MUTANT: &str = "DHOW_SIM_CHILD_MUTANT";
const TRACE: &str = "DHOW_SIM_TRACE";
/// Real time that one seed may take, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// What a child reported.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    /// `seed 7: hash 0123456789abcdef, …`.
    pub line: String,
    pub verdict: Option<String>,
}

impl Report {
    /// The hash of everything that happened.
    pub fn hash(&self) -> &str {
        self.line.split_once("hash ").map_or("", |(_, rest)| rest.split(',').next().unwrap_or(""))
    }
}

/// Runs a seed in a child process.
pub fn run(seed: u64, mutant: Option<&str>) -> Report {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "children::a_seed_of_the_environment", "--nocapture", "--test-threads=1"]);
    command.env(SEED, seed.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(mutant) = mutant {
        command.env(MUTANT, mutant);
    }
    let child = command.spawn().expect("a child process");
    let id = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: a signal to a process that this one started and has not waited for yet.
            unsafe { libc::kill(id as libc::pid_t, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().expect("the child's output");
    drop(done);
    watch.join().expect("the watch ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with(&format!("seed {seed}: "))).unwrap_or("").to_owned();
    let verdict = match text.split_once("VERDICT\n") {
        Some((_, verdict)) => Some(verdict.to_owned()),
        None if !output.status.success() || line.is_empty() => Some(format!(
            "seed {seed}: the process ended with {} (limit {LIMIT:?})\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
        None => None,
    };
    Report { seed, line, verdict }
}

/// The child's side; without a seed in the environment there is nothing to do.
#[test]
fn a_seed_of_the_environment() {
    let Some(seed) = std::env::var(SEED).ok().and_then(|s| s.parse().ok()) else { return };
    let mutant = std::env::var(MUTANT).ok().map(|name| {
        let known = crate::mutants::ALL.iter().find(|(n, _)| *n == name);
        known.unwrap_or_else(|| panic!("no mutant {name}")).1
    });
    if std::env::var_os(TRACE).is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let outcome = crate::run::run(seed, mutant);
    println!(
        "\nseed {seed}: hash {:016x}, {} lines, {:.0} s simulated",
        outcome.hash,
        outcome.lines,
        outcome.simulated.as_secs_f64()
    );
    if let Some(verdict) = outcome.verdict {
        println!("VERDICT\n{verdict}");
    }
}
