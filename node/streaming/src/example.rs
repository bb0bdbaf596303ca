//! A handler for tests: what it does is the container's name.
use crate::{Channel, Client, Handler, Outcome, Request};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Counts those that run.
pub(crate) struct Example {
    pub(crate) running: Arc<watch::Sender<usize>>,
}

impl Default for Example {
    fn default() -> Self {
        Self { running: Arc::new(watch::Sender::new(0)) }
    }
}

struct Running(Arc<watch::Sender<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[async_trait]
impl Handler for Example {
    async fn handle(&self, request: Request, mut client: Client) -> Outcome {
        self.running.send_modify(|n| *n += 1);
        let _running = Running(self.running.clone());
        match request.container_id.as_str() {
            "echo" => {
                let mut stdin = client.stdin.take().expect("it was asked for");
                let mut chunk = vec![0; 8192];
                while let Ok(n @ 1..) = stdin.read(&mut chunk).await {
                    client.output.write(Channel::Stdout, &chunk[..n]);
                    client.output.room().await;
                }
                client.output.write(Channel::Stderr, b"end\n");
                Outcome::Exited(0)
            }
            "seven" => Outcome::Exited(7),
            "fails" => Outcome::Failed("there is no such command".into()),
            "size" => {
                let size = client.size.wait_for(Option::is_some).await.expect("a size");
                let size = size.expect("a size");
                client.output.write(Channel::Stdout, format!("{}x{}", size.width, size.height).as_bytes());
                Outcome::Exited(0)
            }
            "spills" => loop {
                client.output.write(Channel::Stdout, &[b'x'; 4096]);
                tokio::task::yield_now().await;
            },
            "deaf" => std::future::pending().await,
            "refuses-input" => {
                client.stdin = None;
                client.output.write(Channel::Stdout, b"no input\n");
                client.output.room().await;
                std::future::pending().await
            }
            other => panic!("nobody called {other}"),
        }
    }
}

/// Writes all and then its end.
pub(crate) async fn write_all<W: tokio::io::AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) {
    to.write_all(bytes).await.expect("written");
    to.flush().await.expect("flushed");
}
