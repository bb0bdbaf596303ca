//! Programs this workspace needs that are not Rust: found, installed from Debian, or named with the way to get them.
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The path of `program` on PATH, or in the folders of administrators' programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

pub(crate) fn present(program: &str) -> bool {
    find(program).is_some()
}

pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().map(|o| o.stdout).unwrap_or_default();
    id.trim_ascii() == b"0"
}

/// Runs a command to its end and shows what it printed if it failed.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Installs those of `packages` that are missing. Without root that is an error that says what to type; `why` ends
/// the sentence "… are needed".
pub(crate) fn ensure_packages(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| {
            let shown = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).output();
            !shown.is_ok_and(|o| o.stdout == b"installed")
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !present("apt-get") {
        bail!("{names} (Debian's names) are needed {why}; install them with this system's package manager");
    }
    if !is_root() {
        bail!(
            "{names} are needed {why}; install them with: sudo apt-get install --no-install-recommends {names}"
        );
    }
    println!("installing {names} …");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    must(apt().args(["update", "--quiet"]))?;
    must(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing))
}
