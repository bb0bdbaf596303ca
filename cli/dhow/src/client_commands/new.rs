//! `dhow new`.
use crate::project::{self, TEMPLATES};
use anyhow::Result;
use std::path::PathBuf;

/// Make a folder with a program to begin with
///
/// Templates: rust-http, javascript and python (answer HTTP), rust-cron (called at certain times), go and c (programs
/// that run to their end).
///
/// Examples:
///   dhow new rust-http hello && cd hello && dhow watch
///   dhow new javascript hello && cd hello && npm ci && dhow deploy
///   dhow new go tool && cd tool && dhow build && dhow run tool.wasm
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The template
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TEMPLATES.iter().map(|t| t.name)))]
    template: String,
    /// The folder to make; its last part is the function's name
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let template = project::create(&args.template, &args.folder)?;
    let folder = args.folder.display();
    println!("made {folder}: {}", template.what);
    println!("next:");
    println!("  cd {folder}");
    if let Some(first) = template.first {
        println!("  {first}      # once: the tools it is built with");
    }
    if template.serves {
        println!("  dhow deploy      # build it and make it reachable");
        println!("  dhow watch       # and again at every change");
    } else {
        println!("  dhow build       # says how to run what it made");
    }
    Ok(())
}
