//! ExecSync: a command beside the container's own; its output is kept up to a limit.
use crate::error::{from_shim, no_container};
use crate::open::Runtime;
use cri::{ContainerState, Error, ExecSyncRequest, ExecSyncResponse, MAX_EXEC_OUTPUT_BYTES};
use parking_lot::Mutex;
use shim::{Output, Stream};
use std::sync::Arc;
use std::time::Duration;

/// For a command without a timeout: nobody waits for longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The shim ends a command that takes too long; this much later it is given up on.
const SLACK: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Captured {
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
}

impl Output for Captured {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let buffer = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let mut buffer = buffer.lock();
        let room = MAX_EXEC_OUTPUT_BYTES - buffer.len();
        buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Runtime {
    pub(crate) async fn run_command(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        let id = &request.container_id;
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        let handle = match (entry.state(), entry.handle()) {
            (ContainerState::Running, Some(handle)) => handle,
            _ => return Err(Error::FailedPrecondition(format!("container {id} does not run"))),
        };
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("the command is empty".into()));
        }
        let timeout = match u64::try_from(request.timeout) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds),
            _ => LONGEST,
        };
        let captured = Arc::new(Captured::default());
        let running = handle.exec(&request.cmd, timeout, captured.clone());
        let exit_code = match tokio::time::timeout(timeout + SLACK, running).await {
            Ok(result) => result.map_err(from_shim)?,
            Err(_) => {
                let command = request.cmd.join(" ");
                return Err(Error::DeadlineExceeded(format!(
                    "command {command:?} did not end within {timeout:?}"
                )));
            }
        };
        let (stdout, stderr) = (std::mem::take(&mut *captured.stdout.lock()), captured.stderr.lock().clone());
        Ok(ExecSyncResponse { stdout, stderr, exit_code })
    }
}
