//! The volumes of a pod: directories of this node that its containers see.
//!
//! [`plan`] decides what a volume holds, purely; [`apply`] makes it so on disk.
pub mod apply;
pub mod atomic;
pub mod plan;
pub mod size;
pub mod subpath;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

/// Why a volume could not be made; the text of a FailedMount event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: String },
    #[error("volume {volume:?}: {what}")]
    Io {
        volume: String,
        what: String,
        #[source]
        source: std::io::Error,
    },
}

/// Where a pod's own files lie.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Where a volume of a pod lies.
pub fn volume_dir(root: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    pod_dir(root, uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}
