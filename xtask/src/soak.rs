//! `cargo xtask soak`: a cluster stormed for half an hour. What is done and checked stands in `tests/soak/`, what it
//! showed in `docs/soak.md`.
use crate::cargo::cargo;
use crate::{demo, guests};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Storm a cluster: random deploys, rollbacks and kills, hostile guests; nobody innocent may feel it
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the storm lasts; a lap before it takes the baseline
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// How many functions there are
    #[arg(long, default_value_t = 1000)]
    functions: usize,
    /// What the plan is made of [default: drawn, and told first]
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace_root();
    let guest = guests::build(&root, "hello-http")?;
    cargo(&root, &["build", "--release", "--package", "dhow"], &[])?;
    cargo(&root, &["build", "--release", "--package", "tests", "--bin", "dhow-soak"], &[])?;
    let programs = demo::target_dir(&root).join("release");
    let mut words = vec!["--minutes".to_owned(), args.minutes.to_string()];
    words.extend(["--functions".to_owned(), args.functions.to_string()]);
    if let Some(seed) = args.seed {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    storm(&root, &programs, &guest, &words)
}

/// The form of two minutes for `cargo xtask test`: a debug build and two cores carry 60 functions. With the lap for the
/// baseline and what comes after, a storm of 75 s takes two minutes.
pub(crate) fn short(root: &Path) -> Result<()> {
    let programs = demo::target_dir(root).join("debug");
    let guest = guests::build(root, "hello-http")?;
    // A debug build takes five times as long on a quiet machine, and CI's is not always quiet.
    let words = ["--minutes", "1.25", "--functions", "60", "--patience", "10"].map(str::to_owned);
    storm(root, &programs, &guest, &words)
}

fn storm(root: &Path, programs: &Path, guest: &Path, words: &[String]) -> Result<()> {
    println!("\n$ dhow-soak {}", words.join(" "));
    let status = Command::new(programs.join("dhow-soak"))
        .arg("--dhow")
        .arg(programs.join("dhow"))
        .arg("--guest")
        .arg(guest)
        .arg("--keep-logs")
        .arg(root.join("target/soak-logs"))
        .args(words)
        .current_dir(root)
        .status()
        .context("starting dhow-soak")?;
    if !status.success() {
        bail!("the soak has found something");
    }
    Ok(())
}
