//! How fast dhow is, each figure beside a yardstick measured in the same run: `cargo xtask bench`.
//!
//! ```text
//!   main ──► startup  idle  pods  cold  writes  serving  reads  density  gateway      one file a measurement
//!              │        │     │      │       │       │       │        │
//!              └────────┴─────┴── Cluster (dhow up) ─┴───────┴────────┘         Etcd, WasmtimeServe, Nginx: yardsticks
//!                                       │
//!                        Figures ──► Report: a table on the screen and in docs/benchmarks.md
//! ```
//!
//! Invariant: product and yardstick take turns (A B A B), so that a neighbour on the machine hurts both; every load
//! is bounded in time; everything listens on loopback alone.
#![expect(clippy::disallowed_methods, reason = "this program measures real time")]

mod address;
mod cluster;
mod cold;
mod connection;
mod density;
mod etcd;
mod figure;
#[path = "../e2e/harness/guard.rs"]
mod guard;
mod idle;
mod load;
mod machine;
mod neighbour;
mod nginx;
mod pods;
mod processes;
mod programs;
mod reads;
mod report;
mod samples;
mod serving;
mod startup;
mod wasmtime_serve;
mod watch;
mod writes;
mod wrk;

use anyhow::{Context, Result, bail};
use clap::Parser;
use figure::Figure;
use programs::Programs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measure dhow beside its yardsticks
#[derive(Parser)]
#[command(name = "dhow-bench")]
struct Args {
    /// The program under test
    #[arg(long)]
    dhow: PathBuf,
    /// The component that answers HTTP
    #[arg(long)]
    guest: PathBuf,
    /// The `wasmtime` program
    #[arg(long)]
    wasmtime: PathBuf,
    /// Only these measurements; may be given again
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Short loads and few rounds: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// The file whose generated table is written anew
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// What every measurement is told.
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
}

impl Plan {
    /// `usual`, or fewer when it must be quick.
    pub(crate) fn times(&self, usual: usize) -> usize {
        if self.quick { usual.div_ceil(5) } else { usual }
    }
    /// `usual` seconds, or fewer when it must be quick.
    pub(crate) fn seconds(&self, usual: u64) -> Duration {
        Duration::from_secs(if self.quick { usual.div_ceil(5) } else { usual })
    }
}

const MEASUREMENTS: &[&str] = &[
    "startup",
    "idle",
    "pods",
    "cold",
    "writes",
    "serving",
    "neighbour",
    "reads",
    "watch",
    "gateway",
    "density",
];

/// The longest one measurement may take: all bounds of its parts together, and as much again.
const LIMIT: Duration = Duration::from_secs(600);

async fn measure(name: &str, plan: &Plan) -> Result<Vec<Figure>> {
    match name {
        "startup" => startup::measure(plan).await,
        "idle" => idle::measure(plan).await,
        "pods" => pods::measure(plan).await,
        "cold" => cold::measure(plan).await,
        "neighbour" => neighbour::measure(plan).await,
        "writes" => writes::measure(plan).await,
        "serving" => serving::on_the_pod_address(plan).await,
        "reads" => reads::measure(plan).await,
        "watch" => watch::measure(plan).await,
        "gateway" => serving::through_the_gateway(plan).await,
        "density" => density::measure(plan).await,
        _ => bail!("there is no measurement {name:?}; there are {}", MEASUREMENTS.join(", ")),
    }
}

/// One thread: the load shares the machine with what is measured, and must not take more than one core of it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(unknown) = args.only.iter().find(|name| !MEASUREMENTS.contains(&name.as_str())) {
        bail!("there is no measurement {unknown:?}; there are {}", MEASUREMENTS.join(", "));
    }
    let plan = Plan { programs: Programs::find(args.dhow, args.guest, args.wasmtime)?, quick: args.quick };
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for name in MEASUREMENTS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("{name} …");
        let begin = Instant::now();
        // One that fails does not take the others' figures with it.
        match tokio::time::timeout(LIMIT, measure(name, &plan)).await {
            Ok(Ok(measured)) => {
                for figure in &measured {
                    eprintln!("  {figure}");
                }
                figures.extend(measured);
            }
            Ok(Err(error)) => {
                eprintln!("  failed: {error:#}");
                failed.push(*name);
            }
            Err(_) => {
                eprintln!("  failed: it did not end within {} s", LIMIT.as_secs());
                failed.push(*name);
            }
        }
        eprintln!("  ({:.0} s)", begin.elapsed().as_secs_f64());
    }
    let table = report::table(&figures, &machine::facts(&plan.programs));
    println!("\n{table}");
    if !failed.is_empty() {
        bail!("these could not be measured: {}", failed.join(", "));
    }
    if let Some(path) = args.write {
        report::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("written into {}", path.display());
    }
    Ok(())
}
