//! What a language's programs are built with, whether it is here, and how to get it.
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something a build needs.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) what: &'static str,
    /// How to get it, as a sentence.
    pub(crate) how: &'static str,
    pub(crate) is_here: bool,
}

/// Languages whose tools are known.
pub(crate) const LANGUAGES: &[&str] = &["rust", "go", "c", "javascript", "python"];

/// What puts a project's own tools into its folder, as its lock file says.
pub(crate) const INSTALL_JAVASCRIPT: &str = "npm ci";
pub(crate) const INSTALL_PYTHON: &str = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt";

/// The oldest node that componentize-js and what it needs run with.
const NODE: u32 = 20;

/// Everything that a language needs.
pub(crate) fn needs(language: &str) -> Result<Vec<Need>> {
    Ok(match language {
        "rust" => vec![
            Need {
                what: "cargo",
                how: "install Rust with rustup, https://rustup.rs",
                is_here: find("cargo").is_some(),
            },
            Need {
                what: "the Rust target wasm32-wasip2",
                how: "`rustup target add wasm32-wasip2`",
                is_here: has_rust_target("wasm32-wasip2"),
            },
        ],
        "go" => vec![Need {
            what: "go, 1.21 or newer",
            how: "https://go.dev/doc/install, or Debian's package golang",
            is_here: find("go").is_some(),
        }],
        "c" => vec![
            Need {
                what: "clang and wasm-ld",
                how: "Debian's packages clang and lld",
                is_here: find("clang").is_some() && find("wasm-ld").is_some(),
            },
            Need {
                what: "a C library for WASI",
                how: "Debian's packages wasi-libc and libclang-rt-14-dev-wasm32 (or zig: make build.command in dhow.toml `zig cc --target=wasm32-wasi …`)",
                is_here: Path::new("/usr/lib/wasm32-wasi/libc.a").is_file(),
            },
        ],
        "javascript" => vec![Need {
            what: "node, 20 or newer, with npm",
            how: "https://nodejs.org/en/download, or Debian 13's packages nodejs and npm",
            is_here: major("node").is_some_and(|version| version >= NODE) && find("npm").is_some(),
        }],
        "python" => vec![Need {
            what: "python3, 3.9 or newer, with venv and pip",
            how: "Debian's packages python3 and python3-venv",
            is_here: succeeds(
                Command::new("python3")
                    .args(["-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))"]),
            ),
        }],
        other => bail!("language {other:?} is not known; {} are", LANGUAGES.join(", ")),
    })
}

/// How a project of this language gets the tools that lie in its own folder.
pub(crate) fn install(language: &str) -> Option<&'static str> {
    match language {
        "javascript" => Some(INSTALL_JAVASCRIPT),
        "python" => Some(INSTALL_PYTHON),
        _ => None,
    }
}

/// What of it is not here.
pub(crate) fn missing(language: &str) -> Result<Vec<Need>> {
    Ok(needs(language)?.into_iter().filter(|n| !n.is_here).collect())
}

/// The program of this name on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|p| p.is_file())
}

/// Whether the compiler that cargo would use has the standard library of a target.
fn has_rust_target(target: &str) -> bool {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    asked.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
}

/// The first number of what `program --version` says: 20 of `v20.20.2`.
fn major(program: &str) -> Option<u32> {
    let asked = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&asked.stdout);
    text.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|o| o.status.success())
}
