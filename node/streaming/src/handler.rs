//! Who runs what a URL stands for.
use crate::outcome::Outcome;
use crate::output::Output;
use crate::terminal::TerminalSize;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::io::DuplexStream;
use tokio::sync::watch;

/// What a URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub container_id: String,
    pub target: Target,
    pub streams: Streams,
}

/// A command of its own, or the container's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Exec { command: Vec<String> },
    Attach,
}

/// Which streams are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    /// Never together with `tty`, where there is one output only.
    pub stderr: bool,
    pub tty: bool,
}

/// The client's side of the streams.
pub struct Client {
    /// What the client sends; ends when it sends no more. `None` if it sends nothing.
    pub stdin: Option<DuplexStream>,
    pub output: Arc<Output>,
    /// The size of its terminal, as far as it is known.
    pub size: watch::Receiver<Option<TerminalSize>>,
}

/// Runs what a URL stands for.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs it to its end. The future is dropped when the client is gone, which ends what was run for it.
    async fn handle(&self, request: Request, client: Client) -> Outcome;
}
