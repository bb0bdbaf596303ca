//! The runtime as a child process that outlives a crash of its parent.
use crate::components::runtime::Flags;
use crate::dirs::Layout;
use anyhow::{Context, Result};
use cri::{RuntimeService, VersionRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::lock_path;
use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a runtime may take to end: pods get 10 s, the rest is for what it must write.
const STOP: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The pause before a runtime that ended soon after its start is started again, and between looks at one that is not
/// our child.
const RESTART: Duration = Duration::from_secs(1);
/// One that ran for so long did not fail for want of something that is still wanting: its pods wait, so it is started
/// at once.
const RAN_WELL: Duration = Duration::from_secs(5);
/// A log larger than this is begun anew at the next start.
const MAX_LOG_BYTES: u64 = 10 << 20;
/// A path of a unix socket has 108 bytes, one of them null (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// Where the runtime listens. A data directory with a long path has its socket in the directory of temporary files.
pub(crate) fn socket(layout: &Layout) -> PathBuf {
    let inside = layout.runtime().join("runtime.sock");
    if inside.as_os_str().len() <= MAX_SOCKET_PATH {
        return inside;
    }
    use sha2::Digest;
    let digest = sha2::Sha256::digest(inside.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("dhow-{}.sock", &hex::encode(digest)[..16]))
}

/// The runtime of this data directory.
pub(crate) struct RuntimeProcess {
    layout: Layout,
    socket: PathBuf,
    words: Vec<String>,
    /// `None` when it was already running.
    child: Option<Child>,
}

impl RuntimeProcess {
    /// Starts a runtime, or takes up the one that an earlier `dhow up` left behind if it is of this version.
    pub(crate) async fn start(layout: &Layout, flags: &Flags) -> Result<Self> {
        let root = layout.runtime();
        std::fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        let socket = socket(layout);
        let mut process = Self { layout: layout.clone(), socket, words: flags.words()?, child: None };
        if let Some(pid) = running(&root)? {
            if process.version().await.as_deref() == Some(env!("CARGO_PKG_VERSION")) {
                tracing::info!(pid, "the runtime of an earlier start goes on");
                return Ok(process);
            }
            tracing::info!(pid, "replacing a runtime of another version");
            end(&root, pid, Signal::SIGTERM).await;
        }
        process.child = Some(process.spawn()?);
        Ok(process)
    }

    fn spawn(&self) -> Result<Child> {
        let log = self.layout.runtime_log();
        let begin_anew = std::fs::metadata(&log).is_ok_and(|m| m.len() > MAX_LOG_BYTES);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(!begin_anew)
            .write(true)
            .truncate(begin_anew)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut command =
            std::process::Command::new(std::env::current_exe().context("finding this program")?);
        command
            .arg("runtime")
            .arg("--root-dir")
            .arg(self.layout.runtime())
            .arg("--listen")
            .arg(&self.socket)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C in a terminal reaches `dhow up` alone, which ends it in its turn.
            .process_group(0);
        Command::from(command).spawn().context("starting the runtime")
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    async fn version(&self) -> Option<String> {
        let client = cri::client::connect(&self.socket);
        let asked = client.version(VersionRequest { version: String::new() });
        Some(tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()?.runtime_version)
    }

    /// Waits until the runtime answers; an error when it ended instead.
    pub(crate) async fn answers(&mut self) -> Result<()> {
        loop {
            if self.socket.exists() && self.version().await.is_some() {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let log = self.layout.runtime_log();
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("nothing was said");
                anyhow::bail!("the runtime ended ({status}): {last} (see {})", log.display());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts the runtime again whenever it ends, until `shutdown`; then ends it and its containers.
    pub(crate) async fn supervise(mut self, shutdown: CancellationToken) {
        let root = self.layout.runtime();
        let mut started = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                ended = self.ended() => {
                    tracing::warn!(%ended, "the runtime ended; starting it again");
                    let pause = if started.elapsed() < RAN_WELL { RESTART } else { Duration::ZERO };
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    started = Instant::now();
                    match self.spawn() {
                        Ok(child) => self.child = Some(child),
                        Err(error) => tracing::error!(error = %format!("{error:#}"), "the runtime cannot be started"),
                    }
                }
            }
        }
        if let Ok(Some(pid)) = running(&root) {
            end(&root, pid, Signal::SIGINT).await;
        }
        if let Some(child) = &mut self.child {
            let _ = tokio::time::timeout(STOP, child.wait()).await;
        }
    }

    /// Resolves when the runtime is no more; says how it ended.
    async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(e) => e.to_string(),
            },
            // Not our child: its lock goes with it.
            None => {
                let root = self.layout.runtime();
                loop {
                    tokio::time::sleep(RESTART).await;
                    if matches!(running(&root), Ok(None)) {
                        return "not a child of this process".to_owned();
                    }
                }
            }
        }
    }
}

impl Drop for RuntimeProcess {
    /// A start that failed half-way leaves no runtime behind. After [`RuntimeProcess::supervise`] it has ended.
    fn drop(&mut self) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }
}

/// The process that holds the runtime's lock, which names it; `None` when nobody does.
fn running(root: &Path) -> Result<Option<i32>> {
    let path = lock_path(root);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // 32 bytes hold any process id.
            file.by_ref()
                .take(32)
                .read_to_string(&mut text)
                .with_context(|| format!("reading {}", path.display()))?;
            Ok(text.trim().parse().ok())
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("locking {}", path.display())),
    }
}

/// Signals the runtime and waits until its lock is free; ends it by force when it takes too long.
async fn end(root: &Path, pid: i32, signal: Signal) {
    let gone = async {
        while matches!(running(root), Ok(Some(_))) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let _ = kill(Pid::from_raw(pid), signal);
    if tokio::time::timeout(STOP, gone).await.is_err() {
        tracing::warn!(pid, "the runtime does not end; killing it");
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
