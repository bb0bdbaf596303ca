//! What `dhow new` makes. `NAME` stands for the project's name, `CRATE` for it as Rust names files.
use super::toolchain::{INSTALL_JAVASCRIPT, INSTALL_PYTHON};
use crate::client_commands::import::base_name;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// A kind of project.
pub(crate) struct Template {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Whether it answers HTTP; else it is a program for `dhow run`.
    pub(crate) serves: bool,
    /// What is to be typed in the folder once before the first build.
    pub(crate) first: Option<&'static str>,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! file {
    ($template:literal, $path:literal) => {
        ($path, include_str!(concat!("templates/", $template, "/", $path, ".in")))
    };
}

pub(crate) const TEMPLATES: &[Template] = &[
    Template {
        name: "rust-http",
        what: "a function in Rust that answers HTTP",
        serves: true,
        first: None,
        files: &[
            file!("rust-http", "Cargo.toml"),
            file!("rust-http", "src/lib.rs"),
            file!("rust-http", "dhow.toml"),
        ],
    },
    Template {
        name: "rust-cron",
        what: "a function in Rust that is called at certain times",
        serves: true,
        first: None,
        files: &[
            file!("rust-cron", "Cargo.toml"),
            file!("rust-cron", "src/lib.rs"),
            file!("rust-cron", "dhow.toml"),
        ],
    },
    Template {
        name: "go",
        what: "a program in Go that runs to its end",
        serves: false,
        first: None,
        files: &[file!("go", "go.mod"), file!("go", "main.go"), file!("go", "dhow.toml")],
    },
    Template {
        name: "c",
        what: "a program in C that runs to its end",
        serves: false,
        first: None,
        files: &[file!("c", "main.c"), file!("c", "dhow.toml")],
    },
    Template {
        name: "javascript",
        what: "a function in JavaScript that answers HTTP",
        serves: true,
        first: Some(INSTALL_JAVASCRIPT),
        files: &[
            file!("javascript", "package.json"),
            file!("javascript", "package-lock.json"),
            file!("javascript", "main.js"),
            file!("javascript", "wit/world.wit"),
            file!("javascript", "wit/deps/http.wit"),
            file!("javascript", "dhow.toml"),
            file!("javascript", ".gitignore"),
        ],
    },
    Template {
        name: "python",
        what: "a function in Python that answers HTTP",
        serves: true,
        first: Some(INSTALL_PYTHON),
        files: &[
            file!("python", "requirements.txt"),
            file!("python", "app.py"),
            file!("python", "wit/world.wit"),
            file!("python", "wit/deps/http.wit"),
            file!("python", "wit/deps/io.wit"),
            file!("python", "dhow.toml"),
            file!("python", ".gitignore"),
        ],
    },
];

/// Makes a project of a template in `folder`, which must not be there, called as the folder is.
pub(crate) fn create(template: &str, folder: &Path) -> Result<&'static Template> {
    let Some(template) = TEMPLATES.iter().find(|t| t.name == template) else {
        let known: Vec<_> = TEMPLATES.iter().map(|t| t.name).collect();
        bail!("there is no template {template:?}; there are {}", known.join(", "));
    };
    let word = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = base_name(word);
    if name != word || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!(
            "{word:?} cannot be a function's name: use lower-case letters, digits and -, beginning with a letter"
        );
    }
    if folder.exists() {
        bail!("{} is there already: choose another name, or remove it", folder.display());
    }
    for (path, text) in template.files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        let text = text.replace("NAME", &name).replace("CRATE", &name.replace('-', "_"));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(template)
}
