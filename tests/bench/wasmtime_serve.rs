//! `wasmtime serve` with its defaults or with more words, and the one the component needs (it reads its environment).
use crate::Plan;
use crate::address::{free_port, listens};
use crate::guard::Guard;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

pub(crate) struct WasmtimeServe {
    _process: Child,
    pub(crate) url: String,
    _guard: Guard,
}

impl WasmtimeServe {
    pub(crate) async fn start(plan: &Plan, words: &[&str]) -> Result<Self> {
        let guard = Guard::new("bench-wasmtime");
        let component = guard.folder().join("hello.wasm");
        std::fs::copy(&plan.programs.guest, &component)?;
        let port = free_port()?;
        let process = Command::new(&plan.programs.wasmtime)
            .args(["serve", "-Scli", "--addr", &format!("127.0.0.1:{port}")])
            .args(words)
            .arg(&component)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting wasmtime serve")?;
        listens((Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(30)).await?;
        Ok(Self { _process: process, url: format!("http://127.0.0.1:{port}/"), _guard: guard })
    }
}
