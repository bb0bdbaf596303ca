//! `cargo xtask guests`: builds the programs of `sample-workloads/` into `target/guests/`.
//!
//! The Rust and text guests are always built. Go and C guests are built where their compiler is on PATH; the rest is
//! named at the end, so that nobody mistakes a guest that is not there for one that was tried. With `--others` come those
//! that need the tools of Spin, JavaScript and Python.
mod others;
mod rust_target;
mod text;

use crate::debian::{must, present};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Build the sample workloads into target/guests/
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the .wasm files go
    #[arg(long, default_value = "target/guests")]
    out: PathBuf,
    /// Also those that need the tools of Spin, JavaScript and Python: they are fetched, and it takes a minute or two
    #[arg(long)]
    others: bool,
    /// Only these guests (all, if none is named)
    names: Vec<String>,
}

/// How a guest is made.
enum Recipe {
    /// A Rust crate whose core module is the guest.
    RustCommand,
    /// A Rust crate whose core module becomes a component.
    RustComponent,
    Go,
    C,
    /// A text module and its WIT.
    Text,
    /// A template of `dhow new`, of this name.
    Template(&'static str),
}

const GUESTS: &[(&str, Recipe)] = &[
    ("hello-http", Recipe::RustComponent),
    ("fetch", Recipe::RustComponent),
    ("orders", Recipe::RustComponent),
    ("hello-cli", Recipe::RustCommand),
    ("hello-wat", Recipe::Text),
    ("hello-p3", Recipe::Text),
    ("counter", Recipe::Go),
    ("fib", Recipe::C),
];

/// Those of `--others`.
const OTHERS: &[(&str, Recipe)] = &[
    ("spin-hello", Recipe::RustComponent),
    ("hello-js", Recipe::Template("javascript")),
    ("hello-py", Recipe::Template("python")),
];

fn all() -> impl Iterator<Item = &'static (&'static str, Recipe)> {
    GUESTS.iter().chain(OTHERS)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace_root();
    let out = root.join(&args.out);
    std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    if let Some(unknown) = args.names.iter().find(|n| !all().any(|(name, _)| name == n)) {
        let known: Vec<_> = all().map(|(name, _)| *name).collect();
        bail!("there is no guest {unknown:?}; there are {}", known.join(", "));
    }
    let mut left_out = Vec::new();
    let by_default = if args.others { GUESTS.len() + OTHERS.len() } else { GUESTS.len() };
    for (place, (name, recipe)) in all().enumerate() {
        let wanted =
            if args.names.is_empty() { place < by_default } else { args.names.iter().any(|n| n == name) };
        if !wanted {
            continue;
        }
        match make(&root, name, recipe, &out).with_context(|| format!("building {name}"))? {
            Some(wasm) => println!("built {} ({} bytes)", wasm.display(), std::fs::metadata(&wasm)?.len()),
            None => left_out.push(*name),
        }
    }
    if left_out.is_empty() {
        println!("all guests were built");
    } else {
        println!("left out, because their compiler is not here: {}", left_out.join(", "));
    }
    Ok(())
}

/// Builds one guest into `target/guests/` and gives back its file.
pub(crate) fn build(root: &Path, name: &str) -> Result<PathBuf> {
    let out = root.join("target/guests");
    std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let (_, recipe) = all().find(|(known, _)| *known == name).with_context(|| format!("no guest {name}"))?;
    make(root, name, recipe, &out)?.with_context(|| format!("the compiler of {name} is not here"))
}

/// The guests of `--others`, each with its file if it was built from what its sources are now.
pub(crate) fn others(root: &Path) -> Result<Vec<(&'static str, Option<PathBuf>)>> {
    let one = |(name, recipe): &(&'static str, Recipe)| {
        let wasm = root.join("target/guests").join(format!("{name}.wasm"));
        let sources = match recipe {
            Recipe::Template(template) => others::template(root, template),
            _ => root.join("sample-workloads").join(name),
        };
        Ok((*name, others::is_current(&wasm, &sources)?.then_some(wasm)))
    };
    OTHERS.iter().map(one).collect()
}

/// Builds the guests of `--others`; what has no compiler here is said.
pub(crate) fn build_others(root: &Path) -> Result<()> {
    let out = PathBuf::from("target/guests");
    let names = others(root)?.into_iter().filter(|(_, built)| built.is_none());
    let names: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
    if names.is_empty() { Ok(()) } else { run(&Args { out, others: true, names }) }
}

/// The file of a guest, or `None` if its compiler is not here.
fn make(root: &Path, name: &str, recipe: &Recipe, out: &Path) -> Result<Option<PathBuf>> {
    let source = root.join("sample-workloads").join(name);
    let wasm = out.join(format!("{name}.wasm"));
    let made = match recipe {
        Recipe::RustCommand => rust_target::core_module(root, &source, name).map(Some),
        Recipe::RustComponent => rust_target::core_module(root, &source, name)
            .and_then(|core| rust_target::componentize(&core))
            .map(Some),
        Recipe::Text => text_guest(&source, name).map(Some),
        Recipe::Go => go(&source, &wasm),
        Recipe::C => c(&source.join(format!("{name}.c")), &wasm),
        Recipe::Template(template) => others::project(root, template, name),
    }?;
    let Some(bytes) = made else { return Ok(None) };
    std::fs::write(&wasm, &bytes).with_context(|| format!("writing {}", wasm.display()))?;
    Ok(Some(wasm))
}

fn text_guest(source: &Path, name: &str) -> Result<Vec<u8>> {
    let wat = std::fs::read_to_string(source.join(format!("{}.wat", name.trim_end_matches("-wat"))))?;
    text::assemble(&wat, &source.join("wit"))
}

fn go(source: &Path, wasm: &Path) -> Result<Option<Vec<u8>>> {
    if !present("go") {
        return Ok(None);
    }
    must(
        Command::new("go")
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(wasm)
            .arg(".")
            .current_dir(source)
            .env("GOOS", "wasip1")
            .env("GOARCH", "wasm"),
    )?;
    Ok(Some(std::fs::read(wasm)?))
}

/// With Debian's clang, lld, wasi-libc and libclang-rt-14-dev-wasm32 (the compiler's own routines), or with zig.
fn c(source: &Path, wasm: &Path) -> Result<Option<Vec<u8>>> {
    let mut command = if present("zig") {
        let mut zig = Command::new("zig");
        zig.args(["cc", "--target=wasm32-wasi"]);
        zig
    } else if present("clang") && present("wasm-ld") && Path::new("/usr/lib/wasm32-wasi/libc.a").is_file() {
        let mut clang = Command::new("clang");
        clang.args(["--target=wasm32-wasi", "--sysroot=/usr"]);
        clang
    } else {
        return Ok(None);
    };
    must(command.arg("-Os").arg("-o").arg(wasm).arg(source))?;
    Ok(Some(std::fs::read(wasm)?))
}
