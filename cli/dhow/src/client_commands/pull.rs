//! `dhow pull`.
use crate::client_commands::import::{base_name, ready_nodes};
use crate::client_commands::push::{RegistryFlags, credential, progress_bar};
use crate::connect::{Cluster, Connection, explain};
use anyhow::{Context, Result, bail};
use http::Request;
use images::{Content, Credential, Images, PullOptions, Reference};
use std::path::PathBuf;

/// Fetch a wasm artifact from a registry into a file, or onto the nodes of a cluster
///
/// With --precompile the image goes to every node that is Ready, which compiles it too: its first pod there starts at
/// once. Name and password for the registry come from docker's file in both cases.
///
/// Examples:
///   dhow pull registry.example/team/hello:1 -o hello.wasm
///   dhow pull --precompile registry.example/team/hello:1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// REGISTRY/REPOSITORY:TAG, or …@sha256:DIGEST
    reference: String,
    /// The file to write [default: the repository's name with .wasm]
    #[arg(short, long, value_name = "FILE", conflicts_with = "precompile")]
    output: Option<PathBuf>,
    /// Have every node of the cluster pull and compile it, and write no file
    #[arg(long)]
    precompile: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let reference: Reference = args.reference.parse()?;
    if args.precompile {
        return precompile(&cluster.connect().await?, &args.reference, &reference).await;
    }
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

/// Has every Ready node pull and compile an image.
async fn precompile(connection: &Connection, text: &str, reference: &Reference) -> Result<()> {
    let body = match credential(reference).await? {
        Credential::Basic { username, password } => {
            serde_json::to_vec(&serde_json::json!({ "username": username, "password": password }))?
        }
        Credential::Anonymous => Vec::new(),
        Credential::Token(_) => bail!("a registry token cannot be handed to nodes; log in with a password"),
    };
    let nodes = ready_nodes(connection).await?;
    if nodes.is_empty() {
        bail!("no node is Ready to take {text}; `dhow get nodes` shows them");
    }
    for name in nodes {
        let path = format!("/api/v1/nodes/{name}/proxy/images/pull?ref={reference}");
        let request =
            Request::post(path).header(http::header::CONTENT_TYPE, "application/json").body(body.clone())?;
        connection
            .client
            .request_text(request)
            .await
            .map_err(explain)
            .with_context(|| format!("node {name} did not pull {text}"))?;
        println!("{name}: pulled and compiled {reference}");
    }
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
