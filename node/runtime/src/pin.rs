//! Taking hold of a subPath, so that it is mounted as it was found.
use cri::Error;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use shim::Pinned;
use std::path::Path;

/// Opens what lies at the path if no link leads there. The path was free of links when the kubelet resolved it; a link
/// now was put there since, by a container that shares the volume.
///
/// # Errors
/// `FailedPrecondition` if a link lies in the path now, or nothing does: the kubelet resolves it anew and asks again.
pub(crate) fn pin(path: &Path) -> Result<Pinned, Error> {
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(AT_FDCWD, path, how) {
        Ok(descriptor) => Ok(Pinned::new(descriptor)),
        Err(Errno::ELOOP | Errno::ENOTDIR | Errno::ENOENT) => Err(Error::FailedPrecondition(format!(
            "the subPath at {} was exchanged while the container was made; see which container of the pod does that",
            path.display()
        ))),
        Err(errno) => Err(Error::Internal(format!("opening the subPath at {}: {errno}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_with_a_link_in_it_is_refused_wherever_the_link_lies() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("volume/a")).unwrap();
        std::fs::write(dir.join("volume/a/file"), "").unwrap();
        assert!(pin(&dir.join("volume/a/file")).is_ok());
        symlink("volume", dir.join("through")).unwrap();
        symlink("file", dir.join("volume/a/last")).unwrap();
        for refused in ["through/a", "volume/a/last", "volume/gone", "volume/a/file/below"] {
            let error = pin(&dir.join(refused)).unwrap_err();
            assert!(matches!(error, Error::FailedPrecondition(_)), "{refused}: {error}");
        }
    }
}
