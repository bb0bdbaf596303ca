//! Store errors as Statuses.
use machinery::resource::Resource;
use machinery::status::Status;

/// A store error that has no meaning of its own to the request.
pub(crate) fn from_store(error: store::Error) -> Status {
    use store::Error;
    match error {
        Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        Error::FutureRevision { asked, head } => Status::too_large_resource_version(asked, head),
        Error::TooLarge { size, limit } => Status::too_large(format!(
            "Request entity too large: the object takes {size} bytes, the limit is {limit}"
        )),
        Error::NoSpace(why) => Status::new(
            507,
            "InsufficientStorage",
            format!("the disk is full, so nothing can be written until space is freed; reads go on ({why})"),
        ),
        Error::Unavailable(why) => Status::unavailable(format!("the store is unavailable: {why}")),
        Error::Conflict { .. } => {
            Status::new(409, "Conflict", "the object was changed by someone else; please try again")
        }
        Error::Lagged => Status::unavailable("the store's watch fell behind; please try again"),
        Error::Damaged(why) => {
            tracing::error!(%why, "the store is damaged");
            Status::internal(format!("the store is damaged: {why}"))
        }
    }
}

/// The 409 for a stale `resourceVersion`.
pub(crate) fn stale(row: &Resource, name: &str) -> Status {
    Status::conflict(
        row,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}
