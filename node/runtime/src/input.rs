//! Feeding a container's standard input.
use crate::error::no_container;
use crate::open::Runtime;
use cri::{ByteStream, ContainerState, Error};
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

impl Runtime {
    /// Writes what comes until it ends or the container does. Several may send at once: what they send comes piece by
    /// piece, as it does from clients that are attached.
    pub(crate) async fn feed(&self, id: &str, mut input: ByteStream) -> Result<(), Error> {
        let entry = self.entry(id).ok_or_else(|| no_container(id))?;
        if entry.state() == ContainerState::Exited {
            return Err(Error::FailedPrecondition(format!("container {id} has ended")));
        }
        if entry.input.lock().await.is_none() {
            return Err(Error::FailedPrecondition(format!(
                "container {id} reads no input, or has had all of it"
            )));
        }
        let copying = async {
            while let Some(piece) = input.try_next().await? {
                let mut slot = entry.input.lock().await;
                let Some(writer) = slot.as_mut() else { return Ok(true) };
                if writer.write_all(&piece).await.is_err() {
                    // It has closed its side: what more comes is for nobody.
                    return Ok(true);
                }
            }
            Ok::<_, Error>(entry.stdin_once)
        };
        let done = tokio::select! {
            done = copying => done?,
            // A sender with nothing to say must not outlive the container.
            () = entry.ended() => true,
        };
        if done {
            *entry.input.lock().await = None;
        }
        Ok(())
    }
}
