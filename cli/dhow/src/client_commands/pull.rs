//! `dhow pull`.
use crate::client_commands::import::base_name;
use crate::client_commands::push::{RegistryFlags, credential, progress_bar};
use anyhow::{Context, Result, bail};
use images::{Content, Images, PullOptions, Reference};
use std::path::PathBuf;

/// Fetch a wasm artifact from a registry into a file
///
/// Example:
///   dhow pull registry.example/team/hello:1 -o hello.wasm
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// REGISTRY/REPOSITORY:TAG, or …@sha256:DIGEST
    reference: String,
    /// The file to write [default: the repository's name with .wasm]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let reference: Reference = args.reference.parse()?;
    let output = args.output.unwrap_or_else(|| format!("{}.wasm", base_name(&args.reference)).into());
    let folder = match output.parent() {
        Some(parent) if parent != std::path::Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Beside the file, so that the last step is a rename.
    let scratch = folder.join(format!(".dhow-pull-{}", std::process::id()));
    let mut config = images::Config::new(&scratch);
    config.registries = args.registry.config(&reference)?;
    let result = fetch(config, &args.reference, &reference, &output).await;
    let removed = std::fs::remove_dir_all(&scratch);
    let digest = result?;
    removed.with_context(|| format!("removing {}", scratch.display()))?;
    println!("pulled {} to {}\n{digest}", reference, output.display());
    Ok(())
}

async fn fetch(
    config: images::Config,
    text: &str,
    reference: &Reference,
    output: &PathBuf,
) -> Result<String> {
    let images = Images::open(config)?;
    let (bar, progress) = progress_bar();
    let options = PullOptions {
        credential: credential(reference).await?,
        progress: Some(progress),
        ..PullOptions::default()
    };
    let record = images.pull(text, &options).await?;
    bar.finish_and_clear();
    match images.content(&record).await? {
        Content::Wasm { path, .. } => {
            std::fs::copy(&path, output).with_context(|| format!("writing {}", output.display()))?;
            Ok(record.digests().next().cloned().unwrap_or_default())
        }
        Content::Linux { .. } => bail!("{text} is a Linux image; `dhow pull` writes WebAssembly modules"),
    }
}
