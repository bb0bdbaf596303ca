//! The supervisor of one container: a process of its own, so that no restart of the runtime loses an exit code.
//!
//! Invariant: it is the parent of the container's first process from before that runs until it has ended, and it
//! says "ended" only once `ended.json` is on disk. It holds the ends of the output pipes, so that nothing the
//! container printed is lost while nobody reads, and leaves only when all was read.
//!
//! ```text
//!   setsid, subreaper ─► fifos ─► oci-runtime create ─► created.json, 'c' ─► wait ─► ended.json, 'e' ─► drained ─► gone
//! ```
use crate::cgroup::observe_cgroups;
use crate::oci_runtime::last_message;
use crate::record::{Created, Ended, Plan, Process, StateDir, read_json, write_json};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Written to the status fifo.
pub(crate) const CREATED: u8 = b'c';
pub(crate) const ENDED: u8 = b'e';

/// How often it looks whether the last output was read.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// The whole of the process: `args` is the container's state directory.
pub fn monitor_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (Some(directory), None) = (args.next(), args.next()) else {
        eprintln!("usage: internal-shim-monitor STATE_DIR");
        return ExitCode::from(2);
    };
    let state = StateDir(directory.into());
    match supervise(&state) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Its standard error is the monitor's log in the state directory.
            eprintln!("{}: {e}", state.0.display());
            ExitCode::FAILURE
        }
    }
}

struct Pipes {
    stdout: File,
    stderr: File,
    status: File,
}

fn supervise(state: &StateDir) -> io::Result<()> {
    detach()?;
    let plan: Plan = read_json(&state.plan())
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no plan"))?;
    let pipes = Pipes {
        stdout: hold(&state.stdout())?,
        stderr: hold(&state.stderr())?,
        status: hold(&state.status())?,
    };
    let created = create(state, &plan);
    let record = match &created {
        Ok(process) => Created::Ok(process.clone()),
        Err(e) => Created::Failed { message: e.to_string() },
    };
    write_json(&state.created(), &record)?;
    tell(&pipes.status, CREATED);
    let Ok(process) = created else { return Ok(()) };
    let code = wait_for(process.pid)?;
    let oom_killed = code != 0 && process.cgroups.oom_kills() > 0;
    write_json(&state.ended(), &Ended { code, oom_killed })?;
    tell(&pipes.status, ENDED);
    while state.stdout().exists() && (waiting(&pipes.stdout) > 0 || waiting(&pipes.stderr) > 0) {
        std::thread::sleep(DRAIN_INTERVAL);
    }
    Ok(())
}

/// Away from the runtime's terminal and process group, and the heir of orphans.
fn detach() -> io::Result<()> {
    // It fails only for the leader of a group, which a spawned process is not.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours in a handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Opened for both directions, a fifo needs no partner, and keeps what was written when partners come and go.
fn hold(fifo: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(fifo)
}

fn create(state: &StateDir, plan: &Plan) -> io::Result<Process> {
    let stdin = if plan.has_stdin { Stdio::from(File::open(state.stdin())?) } else { Stdio::null() };
    let write_end = |path: &Path| OpenOptions::new().write(true).open(path);
    let status = Command::new(&plan.runtime)
        .arg("--root")
        .arg(&plan.runtime_root)
        .arg("--log")
        .arg(state.runtime_log())
        .args(["--log-format", "json", "create", "--bundle"])
        .arg(state.bundle())
        .arg("--pid-file")
        .arg(state.pid())
        .arg(&plan.id)
        .stdin(stdin)
        .stdout(write_end(&state.stdout())?)
        .stderr(write_end(&state.stderr())?)
        .status()?;
    if !status.success() {
        let log = std::fs::read_to_string(state.runtime_log()).unwrap_or_default();
        return Err(io::Error::other(last_message(&log)));
    }
    let pid = std::fs::read_to_string(state.pid())?.trim().parse().map_err(io::Error::other)?;
    Ok(Process { pid, start_time: start_time(pid)?, cgroups: observe_cgroups(pid)? })
}

/// Field 22 of `/proc/<pid>/stat`; the second, a name in parentheses, may hold anything.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(')').ok_or_else(|| io::Error::other("an odd stat line"))?;
    after
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("a short stat line"))
}

/// Reaps whatever it inherits until the container's first process has ended.
fn wait_for(pid: i32) -> io::Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(of, code)) if of.as_raw() == pid => return Ok(code),
            Ok(WaitStatus::Signaled(of, signal, _)) if of.as_raw() == pid => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A full fifo means that a word is waiting there already.
fn tell(mut status: &File, word: u8) {
    let _ = status.write(&[word]);
}

fn waiting(fifo: &File) -> libc::c_int {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    if unsafe { libc::ioctl(fifo.as_raw_fd(), libc::FIONREAD, &mut bytes) } != 0 { 0 } else { bytes }
}
