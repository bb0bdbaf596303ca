//! A soak: many functions, changed at random, on a node whose runtime and kubelet are killed again and again, with
//! hostile guests among them. `cargo xtask soak`; what it showed last stands in docs/soak.md.
//!
//! ```text
//!   seed ─► plan (pure) ─► storm ──deploy, roll back, split, scale, replace──► API server
//!                            └────────SIGKILL──► runtime, kubelet (processes of their own, started again at once)
//!   load: clients ──gateway, pod addresses, services──► innocent functions ─► every failure, with its time
//!   watcher: every pod's UID, address, restarts        usage: memory, threads, files of every process
//!                       └────────► outage::judge (pure), usage::excess (pure) ─► faults
//! ```
//!
//! Invariant: what is checked is known apart from dhow: from answers, from the API and from `/proc`. A lap before the
//! storm makes, asks and deletes as many functions as there will be: the baseline is read after it, so that what an
//! allocator or a cache keeps is not taken for a leak. Safety is checked during the storm, liveness after it.
#![expect(clippy::disallowed_methods, reason = "this program measures real time")]

#[path = "../bench/address.rs"]
mod address;
mod api;
mod cluster;
mod connection;
mod faults;
mod fleet;
#[path = "../e2e/harness/guard.rs"]
mod guard;
mod hostile;
mod latency;
mod load;
mod outage;
mod plan;
mod report;
#[allow(dead_code, reason = "the simulator draws in more ways")]
#[path = "../sim/rng.rs"]
mod rng;
mod run;
mod storm;
#[path = "../../xtask/src/guests/text.rs"]
mod text;
mod usage;
mod watcher;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Storm a cluster and see whether anybody innocent feels it
#[derive(Parser)]
#[command(name = "dhow-soak")]
pub(crate) struct Args {
    /// The program under test
    #[arg(long)]
    dhow: PathBuf,
    /// A component that answers HTTP with $GREETING and the path (hello-http)
    #[arg(long)]
    guest: PathBuf,
    /// How long the storm lasts
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// How many innocent functions there are
    #[arg(long, default_value_t = 1000)]
    functions: usize,
    /// What the plan is made of [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Times are multiplied with it: a debug build is slower
    #[arg(long, default_value_t = 1.0)]
    patience: f64,
    /// Where logs are kept when something is found
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Count the request of this number of each client as failed: is it told?
    #[arg(long, hide = true)]
    spoil: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = if args.functions < 10 || args.minutes <= 0.0 || args.patience < 1.0 {
        Err(anyhow::anyhow!("--functions must be 10 or more, --minutes above 0, --patience 1 or more"))
    } else {
        soak(&args)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(args: &Args) -> Result<()> {
    // One thread: the load shares the machine with what is tested, and must not take more than one core of it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run::run(args))
}
