//! The programs that take part.
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

pub(crate) struct Programs {
    pub(crate) dhow: PathBuf,
    pub(crate) guest: PathBuf,
    pub(crate) wasmtime: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) wrk: PathBuf,
    pub(crate) nginx: PathBuf,
    /// Some figures are measured with it; they are left out where it is not.
    pub(crate) kubectl: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn find(dhow: PathBuf, guest: PathBuf, wasmtime: PathBuf) -> Result<Self> {
        Ok(Self {
            dhow: existing(&dhow)?,
            guest: existing(&guest)?,
            wasmtime: existing(&wasmtime)?,
            etcd: on_path("etcd").context("etcd is missing: run `cargo xtask bench`, which installs it")?,
            wrk: on_path("wrk").context("wrk is missing: run `cargo xtask bench`, which installs it")?,
            nginx: on_path("nginx")
                .or_else(|| Some(PathBuf::from("/usr/sbin/nginx")).filter(|path| path.is_file()))
                .context("nginx is missing: run `cargo xtask bench`, which installs it")?,
            kubectl: on_path("kubectl"),
        })
    }
}

fn existing(path: &Path) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} is missing: run `cargo xtask bench`, which makes it", path.display());
    Ok(std::path::absolute(path)?)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
