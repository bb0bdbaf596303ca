//! A path below a volume, never outside of it, whatever links a container left in there or puts there meanwhile.
//!
//! Links are followed first, by name; then the volume is walked again from an open descriptor with the kernel refusing
//! every link (openat2(2)), so what is made is made inside. What is handed on is a path: whoever mounts it must refuse
//! links in it once more ([`cri::SUB_PATHS_ANNOTATION`]).
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Where `sub` lies below `volume`, made as a directory if it is not there; no link lies in that path.
///
/// # Errors
/// `InvalidInput` for a path that leads out of the volume, or whose parts were exchanged for links meanwhile.
pub fn resolve(volume: &Path, sub: &str) -> io::Result<PathBuf> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {sub:?} {why}"));
    let sub_path = Path::new(sub);
    if sub_path.is_absolute() || sub_path.components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(refused("must be relative and without \"..\""));
    }
    let root = volume.canonicalize()?;
    let descriptor = File::open(&root)?;
    let mut at = PathBuf::new();
    for part in sub_path.components() {
        let next = at.join(part);
        match fs::symlink_metadata(root.join(&next)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_directory(&descriptor, &at, part.as_ref())
                    .map_err(|errno| exchanged(errno, || refused("changed while it was looked at")))?;
                at = next;
            }
            Err(e) => return Err(e),
            Ok(_) => {
                let found = root.join(&next).canonicalize()?;
                let within = found.strip_prefix(&root).map_err(|_| refused("leads out of the volume"))?;
                at = within.to_owned();
            }
        }
    }
    open_beneath(&descriptor, &at, OFlag::O_PATH)
        .map_err(|errno| exchanged(errno, || refused("changed while it was looked at")))?;
    Ok(root.join(at))
}

fn exchanged(errno: Errno, refused: impl FnOnce() -> io::Error) -> io::Error {
    match errno {
        Errno::ELOOP | Errno::EXDEV | Errno::ENOTDIR => refused(),
        errno => errno.into(),
    }
}

/// Opens what lies at a path below an open directory if no link leads there.
fn open_beneath(root: &File, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, path, how)
}

/// Makes a directory below one that is itself reached without following a link.
fn make_directory(root: &File, parent: &Path, name: &Path) -> nix::Result<()> {
    let parent = open_beneath(root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    match mkdirat(&parent, name, Mode::from_bits_truncate(0o777)) {
        // Another container of the pod wanted it, too.
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_put_into_the_path_after_it_was_resolved_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a")).unwrap();
        fs::create_dir(&outside).unwrap();
        let root = File::open(&volume).unwrap();
        make_directory(&root, Path::new("a"), Path::new("b")).unwrap();
        assert!(open_beneath(&root, Path::new("a/b"), OFlag::O_PATH).is_ok());
        fs::rename(volume.join("a"), volume.join("away")).unwrap();
        symlink("../outside", volume.join("a")).unwrap();
        fs::create_dir(outside.join("b")).unwrap();
        assert!(open_beneath(&root, Path::new("a/b"), OFlag::O_PATH).is_err());
        assert!(make_directory(&root, Path::new("a"), Path::new("c")).is_err());
        assert!(!outside.join("c").exists(), "a directory was made outside of the volume");
    }
}
