//! A terminal between a client and an OCI runtime's command: the runtime makes the container's own and copies to this one.
use nix::pty::openpty;
use shim::{Input, Output, Stream, TerminalSize};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;

/// What is read or typed at once.
const CHUNK: usize = 16 << 10;

/// Both ends, until the child has its own.
pub(crate) struct Pty {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Pty {
    pub(crate) fn open() -> io::Result<Self> {
        let pair = openpty(None, None)?;
        // Neither end is for whatever else is started meanwhile.
        for end in [&pair.master, &pair.slave] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        Ok(Self { ours: pair.master, theirs: pair.slave })
    }

    /// Makes it the standard streams and the controlling terminal of what is started.
    pub(crate) fn attach(&self, command: &mut Command) -> io::Result<()> {
        let end = || self.theirs.try_clone().map(Stdio::from);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        // SAFETY: between fork and exec only setsid(2) and ioctl(2) are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // By this the terminal's new size reaches the child as SIGWINCH.
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        Ok(())
    }

    /// Carries bytes and sizes until the other side is closed.
    pub(crate) async fn carry(
        self,
        input: Option<Input>,
        output: Arc<dyn Output>,
        mut size: watch::Receiver<Option<TerminalSize>>,
    ) {
        let Self { ours, theirs } = self;
        drop(theirs);
        let (reader, writer, sized) = match ends(ours) {
            Ok(ends) => ends,
            Err(error) => return tracing::warn!(%error, "a terminal cannot be used"),
        };
        let reading = read(reader, output);
        let typing = async {
            if let Some(input) = input {
                write(writer, input).await;
            }
            std::future::pending::<()>().await
        };
        let sizing = async {
            loop {
                let now = *size.borrow_and_update();
                if let Some(now) = now {
                    set_size(&sized, now);
                }
                if size.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = typing => {}
            () = sizing => {}
        }
    }
}

type Ends = (pipe::Receiver, pipe::Sender, File);

/// To read, to write and to size. (A terminal is polled as a pipe is.)
fn ends(ours: OwnedFd) -> io::Result<Ends> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(&ours, FcntlArg::F_GETFL)?);
    fcntl(&ours, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let reader = pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?;
    let writer = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
    Ok((reader, writer, File::from(ours)))
}

async fn read(mut from: pipe::Receiver, output: Arc<dyn Output>) {
    let mut chunk = vec![0; CHUNK];
    // EIO is how a terminal says that its other side is closed.
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        output.write(Stream::Stdout, &chunk[..n]);
        while let Some(room) = output.room() {
            room.await;
        }
    }
}

async fn write(mut to: pipe::Sender, mut input: Input) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(n @ 1..) = input.read(&mut chunk).await {
        if to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}

fn set_size(terminal: &File, size: TerminalSize) {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize. That a terminal has gone is no error here.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}
