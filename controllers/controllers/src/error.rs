//! Why a pass of a controller did not come to its end. Every such pass is made again later.
use client::{ObjectKey, kube};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A request was refused or got no answer.
    #[error("cannot {doing}")]
    Api {
        doing: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The object was replaced by another one of the same name.
    #[error("{0} is not the object it was: its uid has changed")]
    Replaced(ObjectKey),
    /// An owner's kind is none that the server serves.
    #[error("the server serves no {kind} of {api_version}")]
    UnknownKind { api_version: String, kind: String },
    /// Objects are left that need more time.
    #[error("{0}")]
    NotYet(String),
}

impl Error {
    /// Whether somebody else was quicker, so that trying again soon is all there is to do.
    pub(crate) fn is_race(&self) -> bool {
        match self {
            Self::Api { source, .. } => client::is_conflict(source) || client::is_already_exists(source),
            Self::Replaced(_) | Self::NotYet(_) => true,
            Self::UnknownKind { .. } => false,
        }
    }

    /// Whether the object asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if client::is_not_found(source))
    }

    /// Whether a creation met an object of the same name.
    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api { source, .. } if client::is_already_exists(source))
    }

    /// Whether a creation was refused because its namespace is being deleted: trying again is no use.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(s)
            if s.code == 403 && s.message.contains("because it is being terminated")))
    }

    /// What the server said, without what we were doing: for conditions and events.
    pub(crate) fn server_message(&self) -> String {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// The whole chain in one line, for the log.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Api { doing, .. } => format!("cannot {doing}: {}", self.server_message()),
            other => other.to_string(),
        }
    }
}

/// Says what a request was for.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Api { doing: what(), source: Box::new(source) })
    }
}
