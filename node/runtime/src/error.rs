//! Errors of opening, and everybody else's errors in CRI's classes.
use std::path::PathBuf;

/// Why a runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is in use by another runtime{}", path.display(), pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Images(#[from] images::Error),
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

pub(crate) fn from_images(error: images::Error) -> cri::Error {
    use images::Error;
    let text = error.to_string();
    match error {
        Error::NotFound { .. } | Error::NotHere(_) => cri::Error::NotFound(text),
        Error::Unauthorized { .. } => cri::Error::PermissionDenied(text),
        Error::Unreachable { .. } | Error::Registry { .. } | Error::ShuttingDown => {
            cri::Error::Unavailable(text)
        }
        Error::TooLarge { .. } => cri::Error::ResourceExhausted(text),
        Error::InvalidReference { .. }
        | Error::NotWasm { .. }
        | Error::Unsupported { .. }
        | Error::NoPlatform { .. }
        | Error::ImportNotOffered { .. }
        | Error::BadLayer { .. }
        | Error::Credentials { .. }
        | Error::Tls { .. } => cri::Error::InvalidArgument(text),
        Error::DigestMismatch { .. } | Error::DamagedIndex { .. } | Error::Io { .. } => {
            cri::Error::Internal(text)
        }
    }
}

pub(crate) fn from_shim(error: shim::Error) -> cri::Error {
    let text = error.to_string();
    match error {
        shim::Error::InvalidImage(_) | shim::Error::InvalidSpec(_) => cri::Error::InvalidArgument(text),
        // Not `Unavailable`, which is what a runtime that is away answers: this stays so until a person acts.
        shim::Error::Unavailable(_) | shim::Error::NotRunning(_) => cri::Error::FailedPrecondition(text),
        shim::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
            cri::Error::DeadlineExceeded(text)
        }
        shim::Error::Io { .. } => cri::Error::Internal(text),
    }
}

pub(crate) fn from_network(error: pod_network::Error) -> cri::Error {
    let text = error.to_string();
    match error {
        pod_network::Error::Exhausted { .. } => cri::Error::ResourceExhausted(text),
        _ => cri::Error::Internal(text),
    }
}

/// A failure of this machine's disk.
pub(crate) fn from_disk(what: &str) -> impl FnOnce(std::io::Error) -> cri::Error {
    move |error| cri::Error::Internal(format!("{what}: {error}"))
}

pub(crate) fn no_sandbox(id: &str) -> cri::Error {
    cri::Error::NotFound(format!("sandbox {id:?} does not exist"))
}

pub(crate) fn no_container(id: &str) -> cri::Error {
    cri::Error::NotFound(format!("container {id:?} does not exist"))
}
