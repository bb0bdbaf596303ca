//! Where `dhow up` keeps what it keeps.
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// `$XDG_DATA_HOME/dhow`, else `~/.local/share/dhow` (XDG Base Directory Specification 0.8).
pub(crate) fn default_data_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute()) {
        Some(base) => base,
        None => std::env::home_dir()
            .context("there is neither XDG_DATA_HOME nor a home directory: name one with --data-dir")?
            .join(".local/share"),
    };
    Ok(base.join("dhow"))
}

/// The files below a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self(root)
    }
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }
    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.redb")
    }
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.0.join("kubelet")
    }
    pub(crate) fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }
    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.0.join("runtime.log")
    }
}
