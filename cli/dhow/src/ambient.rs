//! The real clock and the operating system's random numbers: the one place that asks for them.
use machinery::ambient::Ambient;
use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};

/// What every component is handed.
#[expect(clippy::disallowed_methods, reason = "this is where the real ones are handed out")]
pub(crate) fn real() -> Ambient {
    Ambient::new(jiff::Timestamp::now, rand::random)
}

/// The time for the store: milliseconds since 1970.
pub(crate) fn store_clock() -> store::Clock {
    let ambient = real();
    std::sync::Arc::new(move || u64::try_from(ambient.now().as_millisecond()).unwrap_or(0))
}

/// Sets up logging to standard error: `DHOW_LOG` filters it (`info`, `kubelet=debug`, …).
pub(crate) fn log(default: &str) {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("DHOW_LOG").unwrap_or_else(|_| default.into());
    // A second call, or one after a test's own set-up, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .try_init();
}

/// SIGINT, SIGTERM and SIGHUP (the terminal was closed), from the moment this is made: they no longer end the process
/// by themselves.
pub(crate) struct StopSignal {
    interrupt: UnixSignal,
    terminate: UnixSignal,
    /// `None` under nohup, where it is ignored and stays so.
    hangup: Option<UnixSignal>,
}

impl StopSignal {
    pub(crate) fn new() -> std::io::Result<Self> {
        // What cannot be read is taken for the usual.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if ignores_hangup(&status) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Resolves at the next signal; says which.
    pub(crate) async fn recv(&mut self) -> Signal {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hung_up => Signal::SIGHUP,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
        }
    }
}

/// Whether a process started with SIGHUP ignored, as `proc_pid_status(5)` tells: signal 1 is the lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignores_is_seen() {
        assert!(ignores_hangup("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}
