//! Attach: the streams of a container's own program, from now on.
use crate::container::Entry;
use crate::exec::checked;
use crate::open::Runtime;
use cri::{AttachRequest, Error};
use streaming::{Client, Request, Streams, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What is carried at once.
const CHUNK: usize = 8 << 10;

impl Runtime {
    /// Where they are. What can be known now is refused now.
    pub(crate) async fn attach_url(&self, request: AttachRequest) -> Result<String, Error> {
        let (entry, _) = self.running(&request.container_id)?;
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        let streams = checked(Streams { stdin, stdout, stderr, tty })?;
        if tty {
            return Err(Error::InvalidArgument(format!(
                "container {} has no terminal; attach without --tty (-t)",
                entry.record().name
            )));
        }
        // One that is being written to takes input.
        if stdin && entry.input.try_lock().is_ok_and(|input| input.is_none()) {
            return Err(Error::FailedPrecondition(format!(
                "container {} reads no input, or has had all of it; attach without --stdin (-i)",
                entry.record().name
            )));
        }
        self.streams_url(Request { container_id, target: Target::Attach, streams }).await
    }

    /// Attaches a client that has come until the container ends. Any number may be attached at once; their input comes
    /// to the program as it comes from them.
    pub(crate) async fn attach_streams(&self, request: &Request, client: Client) -> Result<i32, Error> {
        let (entry, _) = self.running(&request.container_id)?;
        let _attached = entry.log.attach(client.output);
        let typing = async {
            if let Some(stdin) = client.stdin {
                type_into(&entry, stdin).await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = entry.ended() => Ok(0),
            () = typing => Ok(0),
        }
    }
}

/// Carries input until there is no more, or nobody who takes it.
async fn type_into(entry: &Entry, mut from: DuplexStream) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let mut slot = entry.input.lock().await;
        let Some(input) = slot.as_mut() else { return };
        if input.write_all(&chunk[..n]).await.is_err() {
            // It has closed its side: what more comes is for nobody.
            *slot = None;
            return;
        }
    }
    if entry.stdin_once {
        *entry.input.lock().await = None;
    }
}
