//! From what wasmtime says to what Kubernetes says: exit code, reason, message.
use crate::account::MemoryExceeded;
use crate::limits::{MAX_MESSAGE_BYTES, MAX_RESOURCES};
use crate::meter::CpuExceeded;
use shim::Exit;
use std::fmt::Write;
use std::time::SystemTime;
use wasmtime_wasi::{I32Exit, ResourceTableError};

/// A trap is to WebAssembly what an abort is to a process: 128 + SIGABRT.
pub(crate) const TRAP_CODE: i32 = 128 + 6;
/// What the kernel does beyond a limit: 128 + SIGKILL.
const KILLED_CODE: i32 = 128 + 9;

/// How a guest's call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Signalled(i32),
    OutOfMemory(MemoryExceeded),
    OutOfTime(CpuExceeded),
    /// The trap with its backtrace.
    Trapped(String),
    /// It could not be started for want of something on this node.
    NoRoom(String),
}

/// Reads an error of a guest's call.
pub(crate) fn ending_of(error: &wasmtime::Error) -> Ending {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(exit.0);
    }
    if let Some(exceeded) = error.downcast_ref::<MemoryExceeded>() {
        return Ending::OutOfMemory(*exceeded);
    }
    if let Some(exceeded) = error.downcast_ref::<CpuExceeded>() {
        return Ending::OutOfTime(*exceeded);
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return Ending::Trapped(format!(
            "too many open files, sockets and streams: one instance may have {MAX_RESOURCES}, and all of this node \
             share what its process may have"
        ));
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Ending::NoRoom(format!("this node runs as many WebAssembly instances as it can: {error:#}"));
    }
    Ending::Trapped(backtrace_of(error))
}

/// What an error and its backtrace say, in [`MAX_MESSAGE_BYTES`]: names of functions are the guest's, and may be as long
/// as its binary. The cause stands last in it; of what has to be cut, it stands first.
fn backtrace_of(error: &wasmtime::Error) -> String {
    let mut whole = Bounded(String::new());
    if write!(whole, "{error:?}").is_ok() {
        return whole.0;
    }
    let mut cut = Bounded(String::new());
    // That it does not end is what was found out above.
    let _ = write!(cut, "{}\n{}", error.root_cause(), whole.0);
    cut.0
}

/// Text that goes no further than [`MAX_MESSAGE_BYTES`], however much is written.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = MAX_MESSAGE_BYTES - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        Err(std::fmt::Error)
    }
}

impl Ending {
    /// What the container's log should say of it beside the guest's own words.
    pub(crate) fn log_line(&self) -> Option<String> {
        match self {
            Self::Exited(_) | Self::Signalled(_) => None,
            Self::OutOfMemory(exceeded) => Some(format!("{exceeded}\n")),
            Self::OutOfTime(exceeded) => Some(format!("{exceeded}\n")),
            Self::Trapped(text) | Self::NoRoom(text) => Some(format!("{}\n", text.trim_end())),
        }
    }

    pub(crate) fn into_exit(self, finished_at: SystemTime) -> Exit {
        let (code, reason, message) = match self {
            // Exit codes are a byte, as everywhere.
            Self::Exited(0) => (0, "Completed", String::new()),
            Self::Exited(code) => (code & 0xff, "Error", String::new()),
            Self::Signalled(signal) => (128 + signal, "Error", String::new()),
            Self::OutOfMemory(exceeded) => (KILLED_CODE, "OOMKilled", exceeded.to_string()),
            Self::OutOfTime(exceeded) => (KILLED_CODE, "Error", exceeded.to_string()),
            Self::Trapped(text) => (TRAP_CODE, "Error", text),
            Self::NoRoom(text) => (128, "ContainerCannotRun", text),
        };
        Exit { code, reason: reason.to_owned(), message: shorten(message), finished_at }
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        let cut = (0..=MAX_MESSAGE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_become_kubernetes_words() {
        let exit = |ending: Ending| {
            let exit = ending.into_exit(SystemTime::UNIX_EPOCH);
            (exit.code, exit.reason)
        };
        assert_eq!(exit(Ending::Exited(0)), (0, "Completed".into()));
        assert_eq!(exit(Ending::Exited(3)), (3, "Error".into()));
        assert_eq!(exit(Ending::Exited(-1)), (255, "Error".into()));
        assert_eq!(exit(Ending::Signalled(15)), (143, "Error".into()));
        assert_eq!(exit(Ending::Trapped("x".into())), (134, "Error".into()));
        let exceeded = MemoryExceeded { of: crate::account::Of::Container, used: 1, asked: 2, limit: 2 };
        assert_eq!(exit(Ending::OutOfMemory(exceeded)), (137, "OOMKilled".into()));
    }

    #[test]
    fn of_a_long_backtrace_the_cause_is_kept() {
        let short = wasmtime::Error::msg("the cause").context("a backtrace");
        assert!(backtrace_of(&short).starts_with("a backtrace"), "{}", backtrace_of(&short));
        let long = wasmtime::Error::msg("the cause").context("é".repeat(MAX_MESSAGE_BYTES));
        let text = backtrace_of(&long);
        assert!(text.starts_with("the cause\né") && text.len() <= MAX_MESSAGE_BYTES, "{text}");
        assert!(text.len() > MAX_MESSAGE_BYTES - 4);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert!(shorten("é".repeat(MAX_MESSAGE_BYTES)).len() <= MAX_MESSAGE_BYTES);
    }
}
