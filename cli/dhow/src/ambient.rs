//! The real clock and the operating system's random numbers: the one place that asks for them.
use machinery::ambient::Ambient;

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

/// Resolves at the first SIGINT or SIGTERM; says which.
pub(crate) async fn stop_signal() -> std::io::Result<nix::sys::signal::Signal> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => nix::sys::signal::Signal::SIGINT,
        _ = terminate.recv() => nix::sys::signal::Signal::SIGTERM,
    })
}
