//! A folder with a `dhow.toml`: how a program is built, and what Function it becomes.
mod templates;
mod toolchain;

pub(crate) use templates::{TEMPLATES, create};
pub(crate) use toolchain::{LANGUAGES, Need, find, install, missing, needs};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::process::Command;

/// The file that makes a folder a project.
pub(crate) const FILE: &str = "dhow.toml";
/// Files that are looked at for changes: more make a look slower than a build.
const MAX_WATCHED: usize = 10_000;

/// A project.
pub(crate) struct Project {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The function's name.
    pub(crate) name: String,
    /// Which tools it needs: a name of [`LANGUAGES`].
    #[serde(default)]
    language: Option<String>,
    build: Build,
    /// Fields of the Function's spec.
    #[serde(default)]
    pub(crate) function: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    output: PathBuf,
    /// Files and folders whose change makes a new build.
    #[serde(default)]
    watch: Vec<PathBuf>,
}

impl Project {
    /// The project in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no {} in {}: `dhow new rust-http NAME` makes a folder with one",
                FILE,
                std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display()
            ),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let manifest: Manifest =
            toml::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))?;
        if manifest.build.command.is_empty() {
            bail!("{}: build.command is empty; it is the program and its arguments", path.display());
        }
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// Builds it; gives the file that came out.
    pub(crate) async fn build(&self) -> Result<PathBuf> {
        let build = &self.manifest.build;
        let needs = self.manifest.language.as_deref().map(missing).transpose()?.unwrap_or_default();
        if let Some(Need { what, how, .. }) = needs.first() {
            bail!("building {} needs {what}: {how}", self.manifest.name);
        }
        let [program, arguments @ ..] = &build.command[..] else { bail!("build.command is empty") };
        let program = self.program(program)?;
        let status = Command::new(&program)
            .args(arguments)
            .envs(&build.environment)
            .current_dir(&self.folder)
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| {
                format!("{} cannot be started: is it installed? `dhow doctor` tells", program.display())
            })?;
        if !status.success() {
            bail!("`{}` failed ({status}); what it said stands above", build.command.join(" "));
        }
        let output = self.folder.join(&build.output);
        let begins = std::fs::read(&output).map(|bytes| bytes.starts_with(b"\0asm"));
        match begins {
            Ok(true) => Ok(output),
            Ok(false) => {
                bail!("{} is not a WebAssembly module; check build.output in {FILE}", output.display())
            }
            Err(_) => bail!(
                "`{}` has made no {}; check build.output in {FILE}",
                build.command.join(" "),
                output.display()
            ),
        }
    }

    /// What is to be started: a word is looked for on PATH, a path is the project's own.
    fn program(&self, word: &str) -> Result<PathBuf> {
        if !word.contains('/') || Path::new(word).is_absolute() {
            return Ok(word.into());
        }
        let folder = std::path::absolute(&self.folder).context("where the project lies")?;
        let program = folder.join(word);
        if !program.is_file() {
            let how = match self.manifest.language.as_deref().and_then(install) {
                Some(command) => format!("`{command}` in {} gets it", folder.display()),
                None => format!("check build.command in {FILE}"),
            };
            bail!("building {} needs {word}, which is not there: {how}", self.manifest.name);
        }
        Ok(program)
    }

    /// The state of everything that is watched: another state means a change. Times, not contents: a look must be
    /// quicker than the pause between two.
    pub(crate) fn state(&self) -> BTreeMap<PathBuf, (SystemTime, u64)> {
        let mut state = BTreeMap::new();
        let mut left: Vec<PathBuf> = self.manifest.build.watch.iter().map(|p| self.folder.join(p)).collect();
        left.push(self.folder.join(FILE));
        while let Some(path) = left.pop() {
            // What vanishes while it is looked at is a change that the next look sees.
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.is_dir() {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                left.extend(entries.map(|e| e.path()));
            } else if state.len() < MAX_WATCHED {
                state.insert(path, (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len()));
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_a_project_that_names_its_output() {
        for template in TEMPLATES {
            let folder = tempfile::tempdir().expect("a folder");
            let made = folder.path().join("my-tool");
            create(template.name, &made).expect("a project");
            let project = Project::open(&made).expect("a manifest");
            assert_eq!(project.manifest.name, "my-tool");
            assert!(!project.state().is_empty());
            let language = project.manifest.language.as_deref().expect("a language");
            assert!(LANGUAGES.contains(&language), "{language}");
            for entry in project.state().keys() {
                let text = std::fs::read_to_string(entry).expect("text");
                assert!(!text.contains("NAME.") && !text.contains("CRATE"), "{}", entry.display());
            }
            assert!(create(template.name, &made).is_err(), "nothing is written over");
        }
    }

    #[test]
    fn what_a_project_brings_along_is_named_with_the_way_to_get_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for (template, tool, how) in [
            ("javascript", "node_modules/.bin/componentize-js", "`npm ci` in "),
            ("python", ".venv/bin/componentize-py", "`python3 -m venv .venv && "),
        ] {
            let made = folder.path().join(template);
            create(template, &made).expect("a project");
            let project = Project::open(&made).expect("a manifest");
            let error = project.program(tool).expect_err("it was not installed").to_string();
            assert!(error.contains(tool) && error.contains(how), "{error}");
            std::fs::create_dir_all(made.join(tool).parent().expect("a folder")).expect("a folder");
            std::fs::write(made.join(tool), "").expect("a file");
            assert_eq!(project.program(tool).expect("it is there"), made.join(tool));
            assert_eq!(project.program("cargo").expect("a word"), Path::new("cargo"));
        }
    }

    /// Go takes a first part without a dot for its own: `tool`, `cmd`, and every package of its library.
    #[test]
    fn a_go_program_may_have_any_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("tool");
        create("go", &made).expect("a project");
        let module = std::fs::read_to_string(made.join("go.mod")).expect("a file");
        assert!(module.starts_with("module example.com/tool\n"), "{module}");
    }

    #[test]
    fn a_lock_file_names_no_registry_and_is_written_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("x");
        create("javascript", &made).expect("a project");
        let lock = std::fs::read_to_string(made.join("package-lock.json")).expect("a lock file");
        assert_eq!(lock, include_str!("templates/javascript/package-lock.json.in"));
        assert!(!lock.contains("resolved"), "whoever installs it names the registry");
    }

    #[test]
    fn a_change_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path().join("tool");
        create("go", &made).expect("a project");
        let project = Project::open(&made).expect("a manifest");
        let before = project.state();
        assert_eq!(before, project.state());
        std::fs::write(made.join("main.go"), "package main").expect("a change");
        assert_ne!(before, project.state());
    }

    #[test]
    fn a_folder_without_a_manifest_and_one_with_a_bad_one_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Project::open(folder.path()).err().expect("an error").to_string();
        assert!(error.contains("dhow new"), "{error}");
        std::fs::write(folder.path().join(FILE), "name = 1").expect("a file");
        let error = Project::open(folder.path()).err().expect("an error").to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }
}
