//! `dhow push`.
use anyhow::{Context, Result};
use images::{Credential, CredentialFile, PushOptions, Reference, RegistryConfig, RootCertificate};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Put a .wasm file into a registry, as a CNCF wasm artifact
///
/// Plain HTTP is used for registries on this machine, and where --plain-http says so. Names and passwords come from
/// docker's file: `docker login`, `podman login` or `skopeo login` write it.
///
/// Example:
///   dhow push hello.wasm registry.example/team/hello:1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The file
    file: PathBuf,
    /// Where to: REGISTRY/REPOSITORY:TAG
    reference: String,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// How to talk to a registry.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct RegistryFlags {
    /// Use plain HTTP, whatever the registry
    #[arg(long)]
    plain_http: bool,
    /// A certificate authority to trust beside the system's, PEM
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
}

/// Certificate authorities from PEM files.
pub(crate) fn roots(files: &[PathBuf]) -> Result<Vec<RootCertificate>> {
    files
        .iter()
        .map(|file| {
            std::fs::read(file).map(RootCertificate).with_context(|| format!("reading {}", file.display()))
        })
        .collect()
}

impl RegistryFlags {
    pub(crate) fn config(&self, reference: &Reference) -> Result<RegistryConfig> {
        let plain_http = if self.plain_http { vec![reference.registry().to_owned()] } else { Vec::new() };
        Ok(RegistryConfig { plain_http, extra_roots: roots(&self.registry_ca)? })
    }
}

/// What docker's credential file says for a reference.
pub(crate) async fn credential(reference: &Reference) -> Result<Credential> {
    match CredentialFile::path(|name| std::env::var_os(name)) {
        Some(path) => Ok(CredentialFile::read(&path)?.credential(reference).await?),
        None => Ok(Credential::Anonymous),
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn progress_bar() -> (ProgressBar, images::ProgressFn) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let shown = bar.clone();
    let progress: images::ProgressFn = Arc::new(move |p: images::Progress| {
        shown.set_length(p.total_bytes);
        shown.set_position(p.done_bytes);
        shown.set_message(p.phase);
    });
    (bar, progress)
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let reference: Reference = args.reference.parse()?;
    let bytes = read_module(&args.file)?;
    let (bar, progress) = progress_bar();
    let options = PushOptions {
        credential: credential(&reference).await?,
        component: component_info(&bytes),
        progress: Some(progress),
        ..PushOptions::default()
    };
    let pushed =
        images::push_wasm(&args.registry.config(&reference)?, &args.reference, bytes.into(), &options)
            .await?;
    bar.finish_and_clear();
    println!("pushed {}\n{}", pushed.reference, pushed.digest);
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// What a component imports and exports; `None` for a core module.
pub(crate) fn component_info(bytes: &[u8]) -> Option<images::ComponentInfo> {
    use wasmparser::{Parser, Payload};
    if !Parser::is_component(bytes) {
        return None;
    }
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.ok()?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.ok()?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let target = target(&exports);
    Some(images::ComponentInfo { exports, imports, target })
}

/// The world that a component was made for, as far as its exports tell.
fn target(exports: &[String]) -> Option<String> {
    const WORLDS: [(&str, &str); 3] = [
        ("wasi:http/incoming-handler", "wasi:http/proxy"),
        ("wasi:http/handler", "wasi:http/service"),
        ("wasi:cli/run", "wasi:cli/command"),
    ];
    WORLDS.iter().find_map(|(interface, world)| {
        let version = exports.iter().find_map(|export| export.strip_prefix(interface)?.strip_prefix('@'))?;
        Some(format!("{world}@{version}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_follows_from_the_exports() {
        let target = |exports: &[&str]| target(&exports.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>());
        let both = ["wasi:cli/run@0.2.3", "wasi:http/incoming-handler@0.2.6"];
        assert_eq!(target(&both).as_deref(), Some("wasi:http/proxy@0.2.6"));
        assert_eq!(target(&["wasi:cli/run@0.2.3"]).as_deref(), Some("wasi:cli/command@0.2.3"));
        assert_eq!(target(&["my:own/thing@1.0.0"]), None);
    }
}
