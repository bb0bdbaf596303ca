//! What of this machine a container sees.
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// A directory or file of this machine seen inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
    /// What lay at `host_path` when the container was created, where others can put something else there.
    pub pinned: Option<Pinned>,
}

impl Mount {
    /// What to mount: the pinned thing itself, or whatever lies at the path. The path of a pinned thing is this
    /// process' and valid as long as this mount or a copy of it lives.
    pub fn source(&self) -> PathBuf {
        self.pinned.as_ref().map_or_else(|| self.host_path.clone(), Pinned::path)
    }
}

/// A directory or file that stays the same whatever happens to its path: an open descriptor of it.
#[derive(Clone)]
pub struct Pinned(Arc<OwnedFd>);

impl Pinned {
    /// `descriptor` is of the directory or file itself (`O_PATH` suffices).
    pub fn new(descriptor: OwnedFd) -> Self {
        Self(Arc::new(descriptor))
    }

    /// Where this process finds it: the kernel's link to the open file (proc(5), `/proc/pid/fd`), which is followed
    /// without a look at any path.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Pinned {}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({})", self.0.as_raw_fd())
    }
}
