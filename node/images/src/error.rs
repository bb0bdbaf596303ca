//! What goes wrong with images, in words for whoever named the image.
use std::path::PathBuf;

/// A failed operation on images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{reference:?} is no image reference: {reason}")]
    InvalidReference { reference: String, reason: String },
    #[error("{reference} is not in its registry: no such repository, tag or digest")]
    NotFound { reference: String },
    #[error("image {0} is not on this node")]
    NotHere(String),
    #[error("{registry} refuses access to {reference}: {}", if *.anonymous {
        "it wants a user name and a password (imagePullSecrets, or `docker login`)"
    } else {
        "the user name or the password is wrong, or does not suffice"
    })]
    Unauthorized { registry: String, reference: String, anonymous: bool },
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable { registry: String, reason: String },
    #[error("registry {registry}: {reason}")]
    Registry { registry: String, reason: String },
    #[error("{what} does not have the digest {expected}: its bytes have {actual}; they were thrown away")]
    DigestMismatch { what: String, expected: String, actual: String },
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what} is not WebAssembly: {reason}")]
    NotWasm { what: String, reason: String },
    #[error("{reference} cannot be used: {reason}")]
    Unsupported { reference: String, reason: String },
    #[error(
        "{reference} is a component that imports {import}, which this node does not offer; nothing of it was pulled"
    )]
    ImportNotOffered { reference: String, import: String },
    #[error("{reference} has no variant for this node: it offers {}", offered.join(", "))]
    NoPlatform { reference: String, offered: Vec<String> },
    #[error("layer {digest} was refused: {reason}")]
    BadLayer { digest: String, reason: String },
    #[error("credentials in {path}: {reason}")]
    Credentials { path: PathBuf, reason: String },
    #[error(
        "the image index {path} is damaged ({source}); move the image directory away and images are pulled again"
    )]
    DamagedIndex { path: PathBuf, source: serde_json::Error },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the TLS roots for registry {registry} cannot be used: {reason}")]
    Tls { registry: String, reason: String },
    #[error("a blocking step was cut off: the process is shutting down")]
    ShuttingDown,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Runs something that blocks on a thread for such things.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Error::ShuttingDown),
    }
}
