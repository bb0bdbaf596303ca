//! Exec: a command beside the container's own, with streams.
use crate::container::Entry;
use crate::error::{from_shim, no_container};
use crate::open::Runtime;
use crate::output::channel;
use cri::{ContainerState, Error, ExecRequest};
use shim::{Container, ExecStreams, Room, Stream, TerminalSize};
use std::sync::Arc;
use streaming::{Client, Request, Streams, Target};
use tokio::sync::watch;

impl Runtime {
    /// Where to run it. What can be known now is refused now.
    pub(crate) async fn exec_url(&self, request: ExecRequest) -> Result<String, Error> {
        self.running(&request.container_id)?;
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("the command is empty".into()));
        }
        let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        let streams = checked(Streams { stdin, stdout, stderr, tty })?;
        self.streams_url(Request { container_id, target: Target::Exec { command: cmd }, streams }).await
    }

    /// Runs it for a client that has come; gives its exit code.
    pub(crate) async fn exec_streams(
        &self,
        request: &Request,
        command: &[String],
        client: Client,
    ) -> Result<i32, Error> {
        let (_, handle) = self.running(&request.container_id)?;
        let Client { stdin, output, mut size } = client;
        let (sized, terminal) = watch::channel(None);
        let streams = ExecStreams {
            stdin: stdin.map(|stdin| Box::new(stdin) as shim::Input),
            output: Arc::new(ClientOutput(output)),
            terminal: request.streams.tty.then_some(terminal),
        };
        let sizing = async {
            loop {
                let now = *size.borrow_and_update();
                sized.send_replace(now.map(|now| TerminalSize { columns: now.width, rows: now.height }));
                if size.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            code = handle.exec_with(command, streams) => code.map_err(from_shim),
            () = sizing => Err(Error::Internal("the terminal's size was lost".into())),
        }
    }

    /// A container that runs.
    pub(crate) fn running(&self, id: &str) -> Result<(Arc<Entry>, Arc<dyn Container>), Error> {
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        match (entry.state(), entry.handle()) {
            (ContainerState::Running, Some(handle)) => Ok((entry, handle)),
            _ => Err(Error::FailedPrecondition(format!("container {id} does not run"))),
        }
    }
}

/// Streams as CRI has them: one at least, and a terminal has no standard error of its own.
pub(crate) fn checked(streams: Streams) -> Result<Streams, Error> {
    if streams.tty && streams.stderr {
        return Err(Error::InvalidArgument("tty and stderr cannot both be asked for".into()));
    }
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(Error::InvalidArgument("one of stdin, stdout and stderr must be asked for".into()));
    }
    Ok(streams)
}

/// A command's output on its way to its client, which slows it down.
struct ClientOutput(Arc<streaming::Output>);

impl shim::Output for ClientOutput {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.0.write(channel(stream), bytes);
    }

    fn room(&self) -> Option<Room> {
        let output = self.0.is_full().then(|| self.0.clone())?;
        Some(Box::pin(async move { output.room().await }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_contradict_each_other_are_refused() {
        let of = |stdin, stdout, stderr, tty| checked(Streams { stdin, stdout, stderr, tty });
        assert!(of(true, true, true, false).is_ok() && of(true, true, false, true).is_ok());
        assert!(of(false, false, false, true).is_err() && of(true, true, true, true).is_err());
    }
}
