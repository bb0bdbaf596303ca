//! A command beside the container's own: probes, `kubectl exec`.
use crate::oci_runtime::OciRuntime;
use crate::record::StateDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shim::{Error, Output, Stream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// As much as a pipe holds.
const CHUNK: usize = 64 << 10;

/// Runs `args` as the container's own process would run: same user, environment, directory and capabilities.
pub(crate) async fn exec(
    runtime: &OciRuntime,
    state: &StateDir,
    id: &str,
    args: &[String],
    timeout: Duration,
    output: Arc<dyn Output>,
) -> Result<i32, Error> {
    if args.is_empty() {
        return Err(Error::InvalidSpec("there is no command to run".to_owned()));
    }
    let number = NUMBER.fetch_add(1, Relaxed);
    let (process_file, pid_file) = (state.exec(number, "json"), state.exec(number, "pid"));
    let io = |source| Error::Io { what: format!("running {} in {id}", args[0]), source };
    let config: Value =
        crate::record::read_json(&state.config())?.ok_or_else(|| Error::NotRunning(id.to_owned()))?;
    let mut process = config["process"].clone();
    process["args"] = json!(args);
    std::fs::write(&process_file, process.to_string()).map_err(io)?;

    let spawned = runtime
        .command()
        .arg("exec")
        .arg("--process")
        .arg(&process_file)
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(id)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let outcome = match spawned {
        Err(e) => Err(io(e)),
        Ok(mut child) => {
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let run = async {
                let (_, _, status) = tokio::join!(
                    copy(stdout, Stream::Stdout, &output),
                    copy(stderr, Stream::Stderr, &output),
                    child.wait()
                );
                status
            };
            match tokio::time::timeout(timeout, run).await {
                Ok(Ok(status)) => Ok(status.code().unwrap_or_else(|| {
                    128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
                })),
                Ok(Err(e)) => Err(io(e)),
                Err(_) => {
                    // Killing the command-line tool alone would leave its process in the container.
                    if let Some(pid) =
                        std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok())
                    {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    let _ = child.kill().await;
                    Err(Error::Unavailable(format!("{} did not end within {timeout:?}", args[0])))
                }
            }
        }
    };
    let _ = std::fs::remove_file(process_file);
    let _ = std::fs::remove_file(pid_file);
    outcome
}

async fn copy(from: Option<impl AsyncRead + Unpin>, stream: Stream, output: &Arc<dyn Output>) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        output.write(stream, &chunk[..n]);
    }
}
