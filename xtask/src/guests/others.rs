//! Guests that take the tools of others to build: Spin's SDK, componentize-js, componentize-py.
//!
//! They are not part of an ordinary run: their tools are fetched from crates.io, npm and PyPI (versions and digests
//! stand in lock files), and building all takes a minute or two. The JavaScript and Python ones are the templates of
//! `dhow new`, so that what is tried is what people get.
use crate::debian::{must, present};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Where the templates lie.
const TEMPLATES: &str = "cli/dhow/src/project/templates";

/// What a project's own tools are installed with, a command a line; the folder of the project is the working directory.
fn installation(template: &str) -> &'static [&'static [&'static str]] {
    match template {
        "javascript" => &[&["npm", "ci", "--no-audit", "--no-fund"]],
        _ => &[
            &["python3", "-m", "venv", ".venv"],
            &[".venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"],
        ],
    }
}

/// The folder of a project made from a template: it keeps the tools, which the end-to-end tests use again.
pub(super) fn folder(root: &Path, name: &str) -> PathBuf {
    root.join("target/guests/projects").join(name)
}

/// The files that a guest is made of.
pub(super) fn template(root: &Path, template: &str) -> PathBuf {
    root.join(TEMPLATES).join(template)
}

/// Builds a template as a project called `name`; `None` where node or python3 are not here.
pub(super) fn project(root: &Path, kind: &str, name: &str) -> Result<Option<Vec<u8>>> {
    let programs: &[&str] = if kind == "javascript" { &["node", "npm"] } else { &["python3"] };
    if !programs.iter().all(|program| present(program)) {
        return Ok(None);
    }
    let folder = folder(root, name);
    instantiate(&template(root, kind), &folder, name)?;
    for words in installation(kind) {
        must(&mut command(&folder, words)?)?;
    }
    let text = std::fs::read_to_string(folder.join("dhow.toml"))?;
    let manifest: toml::Table = text.parse().context("the template's dhow.toml")?;
    let build = manifest.get("build").context("a [build]")?;
    let words = build.get("command").and_then(toml::Value::as_array).context("build.command")?;
    let words: Vec<&str> = words.iter().filter_map(toml::Value::as_str).collect();
    let mut command = command(&folder, &words)?;
    let environment = build.get("environment").and_then(toml::Value::as_table).into_iter().flatten();
    command.envs(environment.filter_map(|(name, value)| Some((name, value.as_str()?))));
    must(&mut command)?;
    let output = build.get("output").and_then(toml::Value::as_str).context("build.output")?;
    Ok(Some(std::fs::read(folder.join(output))?))
}

/// A command in a folder; a path is the folder's own.
fn command(folder: &Path, words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("a command")?;
    let program = if program.contains('/') { folder.join(program) } else { program.into() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    Ok(command)
}

/// What `dhow new` does; what lies there already, the tools above all, is left.
fn instantiate(template: &Path, folder: &Path, name: &str) -> Result<()> {
    for file in files(template)? {
        let text = std::fs::read_to_string(&file)?.replace("NAME", name);
        let path = folder.join(file.strip_prefix(template)?).with_extension("");
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// All files below a folder, but for what builds leave there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true if path.file_name().is_some_and(|name| name == "target") => {}
                true => left.push(path),
                false => found.push(path),
            }
        }
    }
    Ok(found)
}

/// Whether `wasm` was built after all that it is made of was written.
pub(super) fn is_current(wasm: &Path, sources: &Path) -> Result<bool> {
    let Ok(built) = std::fs::metadata(wasm).and_then(|meta| meta.modified()) else { return Ok(false) };
    let written = files(sources)?
        .iter()
        .filter_map(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok())
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(built >= written)
}
