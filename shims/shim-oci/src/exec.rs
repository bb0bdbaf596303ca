//! A command beside the container's own: probes, `kubectl exec`.
//!
//! Invariant: the command ends when whoever asked for it goes away; a command-line tool that is killed alone would leave
//! its process in the container.
use crate::oci_runtime::{OciRuntime, last_message};
use crate::pty::Pty;
use crate::record::{StateDir, read_json};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use serde_json::{Value, json};
use shim::{Error, ExecStreams, Input, Output, Stream};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// As much as a pipe holds.
const CHUNK: usize = 64 << 10;
/// How long the OCI runtime may take to say which process it started, when that process is to be ended; and then to
/// end itself. It takes 50 ms; a machine under full load may need a hundred times that.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_INTERVAL: Duration = Duration::from_millis(10);

/// Where commands are run, and by what.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) runtime: OciRuntime,
    pub(crate) state: StateDir,
    pub(crate) id: String,
    /// Ends every command: the container is deleted, or this process ends.
    pub(crate) release: CancellationToken,
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    /// Why it was not even started, if so.
    pub(crate) refused: Option<String>,
}

impl Executor {
    /// Runs `args` as the container's own process would run: same user, environment, directory and capabilities. In
    /// a task of its own, which sees to the command's end when this future is dropped, or after `timeout`.
    pub(crate) async fn exec(
        self,
        tasks: &TaskTracker,
        args: Vec<String>,
        streams: ExecStreams,
        timeout: Option<Duration>,
    ) -> Result<Ran, Error> {
        let unwanted = self.release.child_token();
        let _guard = unwanted.clone().drop_guard();
        let (id, program) = (self.id.clone(), args.first().cloned().unwrap_or_default());
        let mut running = {
            let unwanted = unwanted.clone();
            tasks.spawn(async move { self.run(&args, streams, &unwanted).await })
        };
        let broken = |e| Err(Error::Unavailable(format!("running {program} in {id} failed: {e}")));
        let Some(timeout) = timeout else { return running.await.unwrap_or_else(broken) };
        match tokio::time::timeout(timeout, &mut running).await {
            Ok(ran) => ran.unwrap_or_else(broken),
            Err(_) => {
                unwanted.cancel();
                // It is gone by the time anybody hears that it took too long.
                let _ = running.await;
                Err(Error::Unavailable(format!("{program} did not end within {timeout:?}")))
            }
        }
    }

    async fn run(
        &self,
        args: &[String],
        streams: ExecStreams,
        unwanted: &CancellationToken,
    ) -> Result<Ran, Error> {
        let Some(program) = args.first() else {
            return Err(Error::InvalidSpec("there is no command to run".to_owned()));
        };
        let io = |source| Error::Io { what: format!("running {program} in {}", self.id), source };
        let number = NUMBER.fetch_add(1, Relaxed);
        let files = Files {
            process: self.state.exec(number, "json"),
            pid: self.state.exec(number, "pid"),
            log: self.state.exec(number, "log"),
        };
        let config: Value =
            read_json(&self.state.config())?.ok_or_else(|| Error::NotRunning(self.id.clone()))?;
        let mut process = config["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(streams.terminal.is_some());
        if streams.terminal.is_some() && !has_term(&process) {
            process["env"].as_array_mut().into_iter().for_each(|env| env.push(json!("TERM=xterm")));
        }
        std::fs::write(&files.process, process.to_string()).map_err(io)?;

        let mut command = self.runtime.command();
        command.arg("--log").arg(&files.log).args(["--log-format", "json", "exec", "--process"]);
        command.arg(&files.process).arg("--pid-file").arg(&files.pid).arg(&self.id);
        let ended = match streams.terminal {
            Some(size) => {
                let pty = Pty::open().map_err(io)?;
                pty.attach(&mut command).map_err(io)?;
                let mut child = command.spawn().map_err(io)?;
                // With it goes our side of what the child holds: only then does the terminal end with the child.
                drop(command);
                let carrying = pty.carry(streams.stdin, streams.output, size);
                files.until_end(&mut child, carrying, unwanted).await
            }
            None => {
                let mut child = spawn(command, streams.stdin.is_some()).map_err(io)?;
                let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
                let typing = copy_input(streams.stdin, child.stdin.take());
                let output = streams.output;
                let copying = async move {
                    let copying = async {
                        tokio::join!(
                            copy(stdout, Stream::Stdout, &output),
                            copy(stderr, Stream::Stderr, &output)
                        )
                    };
                    tokio::select! {
                        _ = copying => {}
                        () = typing => {}
                    }
                };
                files.until_end(&mut child, copying, unwanted).await
            }
        };
        let status = ended.map_err(io)?.ok_or_else(|| Error::NotRunning(self.id.clone()))?;
        let code = status
            .code()
            .unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0));
        // The process' number is written once it runs.
        let refused = (code != 0 && !files.pid.exists())
            .then(|| last_message(&std::fs::read_to_string(&files.log).unwrap_or_default()));
        Ok(Ran { code, refused })
    }
}

fn has_term(process: &Value) -> bool {
    let mut env = process["env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    env.any(|variable| variable.starts_with("TERM="))
}

fn spawn(mut command: Command, has_stdin: bool) -> std::io::Result<Child> {
    if has_stdin {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// The files of one command; they go with it.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.process, &self.pid, &self.log] {
            // One that was never written is gone already.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Files {
    /// Waits until the command has ended and all its output was taken; `None` if it was ended because nobody wants it.
    async fn until_end(
        &self,
        child: &mut Child,
        carrying: impl Future<Output = ()>,
        unwanted: &CancellationToken,
    ) -> std::io::Result<Option<ExitStatus>> {
        let ended = {
            let running = async {
                let (status, ()) = tokio::join!(child.wait(), carrying);
                status
            };
            unwanted.run_until_cancelled(running).await
        };
        match ended {
            Some(status) => status.map(Some),
            None => {
                self.end(child).await;
                Ok(None)
            }
        }
    }

    /// Ends the process in the container, and then the tool that waits for it.
    async fn end(&self, child: &mut Child) {
        let finding = async {
            loop {
                let number =
                    std::fs::read_to_string(&self.pid).ok().and_then(|text| text.trim().parse().ok());
                match (number, child.try_wait()) {
                    (Some(number), Ok(None)) => return Some(Pid::from_raw(number)),
                    (None, Ok(None)) => tokio::time::sleep(END_INTERVAL).await,
                    // It has ended by itself, and its number may be another's now.
                    _ => return None,
                }
            }
        };
        if let Ok(Some(pid)) = tokio::time::timeout(END_TIMEOUT, finding).await {
            // Its children too, where it leads their group, as every process of an OCI runtime does.
            if getpgid(Some(pid)) == Ok(pid) {
                let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
            }
            let _ = kill(pid, Signal::SIGKILL);
        }
        if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, stream: Stream, output: &Arc<dyn Output>) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        output.write(stream, &chunk[..n]);
        while let Some(room) = output.room() {
            room.await;
        }
    }
}

/// Copies input; its end is the command's. Never returns: the command's output decides when all is done.
async fn copy_input(from: Option<Input>, to: Option<ChildStdin>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut chunk).await {
            if to.write_all(&chunk[..n]).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}
