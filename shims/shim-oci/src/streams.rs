//! Fifos between the container and the log.
use shim::{Error, Input, Output, Stream};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// As much as a pipe holds.
const CHUNK: usize = 64 << 10;

/// Makes a fifo that root alone may open; the OCI runtime gives the output ones to the container's user.
pub(crate) fn ensure_fifo(path: &Path) -> Result<(), Error> {
    match nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(errno) => Err(Error::Io { what: format!("making {}", path.display()), source: errno.into() }),
    }
}

/// Opened for both directions it never reports an end: who writes may come and go.
pub(crate) fn open_reader(path: &Path) -> Result<pipe::Receiver, Error> {
    pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(path)
        .map_err(|source| Error::Io { what: format!("opening {}", path.display()), source })
}

pub(crate) fn open_writer(path: &Path) -> Result<pipe::Sender, Error> {
    pipe::OpenOptions::new()
        .read_write(true)
        .open_sender(path)
        .map_err(|source| Error::Io { what: format!("opening {}", path.display()), source })
}

/// Copies one output stream into the log. After `ended` it takes what is still there and returns.
pub(crate) async fn copy_output(
    mut from: pipe::Receiver,
    stream: Stream,
    output: Arc<dyn Output>,
    ended: CancellationToken,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut chunk) => read,
            () = ended.cancelled() => break,
        };
        match read {
            Ok(n) if n > 0 => output.write(stream, &chunk[..n]),
            Ok(_) => break,
            Err(e) => {
                tracing::warn!(error = %e, "reading a container's output failed");
                break;
            }
        }
    }
    // Past tokio, whose `try_read` believes in an empty pipe until it has been told otherwise.
    let mut rest = match from.into_nonblocking_fd() {
        Ok(fd) => std::fs::File::from(fd),
        Err(e) => return tracing::warn!(error = %e, "the rest of a container's output cannot be read"),
    };
    loop {
        match io::Read::read(&mut rest, &mut chunk) {
            Ok(n) if n > 0 => output.write(stream, &chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Nothing is left: WouldBlock.
            _ => return,
        }
    }
}

/// Copies what is typed; its end is the container's end of file.
pub(crate) async fn copy_input(mut input: Input, mut to: pipe::Sender) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match input.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if to.write_all(&chunk[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
