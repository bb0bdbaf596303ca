//! The files of a container's state directory, and what is written into them.
//!
//! Invariant: a JSON file there is either absent or whole. What is in `ended.json` is true for ever.
use crate::cgroup::Cgroups;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shim::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where everything of one container lies.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(pub(crate) PathBuf);

impl StateDir {
    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }
    pub(crate) fn created(&self) -> PathBuf {
        self.0.join("created.json")
    }
    pub(crate) fn ended(&self) -> PathBuf {
        self.0.join("ended.json")
    }
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }
    pub(crate) fn config(&self) -> PathBuf {
        self.bundle().join("config.json")
    }
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }
    pub(crate) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }
    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }
    pub(crate) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }
    pub(crate) fn stdin(&self) -> PathBuf {
        self.0.join("stdin")
    }
    pub(crate) fn stdout(&self) -> PathBuf {
        self.0.join("stdout")
    }
    pub(crate) fn stderr(&self) -> PathBuf {
        self.0.join("stderr")
    }
    pub(crate) fn status(&self) -> PathBuf {
        self.0.join("status")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }
    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.0.join("oci-runtime.log")
    }
    pub(crate) fn monitor_log(&self) -> PathBuf {
        self.0.join("monitor.log")
    }
    pub(crate) fn exec(&self, number: u64, what: &str) -> PathBuf {
        self.0.join(format!("exec-{}-{number}.{what}", std::process::id()))
    }
}

/// What the monitor is to do, and what is needed to take the container up again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) display_name: String,
    pub(crate) runtime: PathBuf,
    pub(crate) runtime_root: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) has_stdin: bool,
}

/// How `create` went.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Created {
    Ok(Process),
    Failed { message: String },
}

/// The container's first process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Of `/proc/<pid>/stat`: tells this process from a later one with the same number.
    pub(crate) start_time: u64,
    pub(crate) cgroups: Cgroups,
}

/// How the container ended. The file's time is when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
}

/// Writes a file at once: a crash leaves the old one or the new one.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

/// Reads one; `None` if it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let io = |source| Error::Io { what: format!("reading {}", path.display()), source };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| io(io::Error::other(e))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(e)),
    }
}

/// When a file was written.
pub(crate) fn written_at(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
