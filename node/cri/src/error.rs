//! Why a call failed, in the classes gRPC has. The text is for people and stands alone.

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such sandbox, container or image.
    #[error("{0}")]
    NotFound(String),
    /// The request can never work as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// It is not in the state this call needs.
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0}")]
    AlreadyExists(String),
    /// Credentials are missing or wrong, or do not suffice.
    #[error("{0}")]
    PermissionDenied(String),
    /// A limit of this node was reached.
    #[error("{0}")]
    ResourceExhausted(String),
    /// Something this needs is away now; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    #[error("{0}")]
    Unimplemented(String),
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The usual answer of a default method.
    pub fn unimplemented(rpc: &str) -> Self {
        Self::Unimplemented(format!("this runtime does not implement {rpc}"))
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        use tonic::Code;
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::InvalidArgument(_) => Code::InvalidArgument,
            Error::FailedPrecondition(_) => Code::FailedPrecondition,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::PermissionDenied(_) => Code::PermissionDenied,
            Error::ResourceExhausted(_) => Code::ResourceExhausted,
            Error::Unavailable(_) => Code::Unavailable,
            Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
            Error::Unimplemented(_) => Code::Unimplemented,
            Error::Internal(_) => Code::Internal,
        };
        tonic::Status::new(code, error.to_string())
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        // What the transport adds ("connection refused", the socket's path) lies in the chain of causes.
        let mut message = status.message().to_string();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = if message.is_empty() { text } else { format!("{message}: {text}") };
            }
            source = cause.source();
        }
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument(message),
            Code::FailedPrecondition | Code::Aborted => Self::FailedPrecondition(message),
            Code::AlreadyExists => Self::AlreadyExists(message),
            Code::PermissionDenied | Code::Unauthenticated => Self::PermissionDenied(message),
            Code::ResourceExhausted => Self::ResourceExhausted(message),
            Code::Unavailable | Code::Cancelled => Self::Unavailable(message),
            Code::DeadlineExceeded => Self::DeadlineExceeded(message),
            Code::Unimplemented => Self::Unimplemented(message),
            // containerd answers many plain errors with Unknown.
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Self::Internal(message),
        }
    }
}
