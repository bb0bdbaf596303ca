//! `dhow build`.
use crate::client_commands::import::is_http_handler;
use crate::client_commands::push::component_info;
use crate::project::Project;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Build the program in a folder, as its dhow.toml says
///
/// Says what is missing on this machine and how to get it.
///
/// Examples:
///   dhow build
///   dhow build ./hello
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The folder
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let project = Project::open(&args.folder)?;
    let file = project.build().await?;
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let next = if serves(&bytes) { "dhow deploy" } else { "dhow run" };
    println!("built {} ({} bytes); next: {next} {}", shown(&file), bytes.len(), shown(&file));
    Ok(())
}

fn serves(bytes: &[u8]) -> bool {
    let exports = component_info(bytes).map(|info| info.exports).unwrap_or_default();
    exports.iter().any(|name| is_http_handler(name))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}
