//! Cargo, as whoever called this program did.
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `cargo` with these words at the workspace's root, its output on the screen.
pub(crate) fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
    println!("\n$ cargo {}", arguments.join(" "));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .status()?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
