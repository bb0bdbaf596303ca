//! Pinned volumes, mounted where no container can reach: the OCI runtime takes paths, and a path into a volume that
//! others write to may lead elsewhere when it looks.
//!
//! Invariant: what is mounted here is only ever unmounted, never removed with what it holds. So it lies beside the
//! OCI runtime's own state and not in the container's directory, which is removed as a whole.
use crate::record::Plan;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shim::{Error, Mount};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where those of one container lie while it is made.
fn directory(plan: &Plan) -> PathBuf {
    let root = &plan.runtime_root;
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    root.with_file_name(format!("{name}.pins")).join(&plan.id)
}

/// Mounts each pinned volume and names it by that mount.
pub(crate) fn mount_pins(mounts: &mut [Mount], plan: &Plan) -> Result<(), Error> {
    let directory = directory(plan);
    for (number, volume) in mounts.iter_mut().enumerate().filter(|(_, volume)| volume.pinned.is_some()) {
        let at = directory.join(number.to_string());
        mount_pin(&volume.source(), &at).map_err(|source| Error::Io {
            what: format!("mounting {} at {}", volume.host_path.display(), at.display()),
            source,
        })?;
        volume.host_path = at;
        volume.pinned = None;
    }
    Ok(())
}

fn mount_pin(source: &Path, at: &Path) -> io::Result<()> {
    let parent = at.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    match fs::metadata(source)?.is_dir() {
        true => fs::create_dir(at)?,
        false => drop(File::create_new(at)?),
    }
    let none = None::<&str>;
    mount(Some(source), at, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    Ok(seclude(at)?)
}

/// Takes a mount, and those below it, out of its peer group (`mount_namespaces(7)`): where the volume lies on a shared
/// mount, unmounting the pin would otherwise unmount what is mounted in the volume itself. `EINVAL`: no mount point.
fn seclude(at: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, at, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// Unmounts them. Succeeds when there are none.
pub(crate) fn unmount_pins(plan: &Plan) -> Result<(), Error> {
    let directory = directory(plan);
    unmount_all(&directory).map_err(|source| Error::Io {
        what: format!("unmounting what lies in {}; unmount it by hand", directory.display()),
        source,
    })
}

fn unmount_all(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let at = entry?.path();
        loop {
            // Again: this process may be another than the one that was about to.
            let secluded = seclude(&at);
            match secluded.and_then(|()| umount2(&at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)) {
                Ok(()) => {}
                // No mount point, or no more.
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        // Neither removes what is not empty.
        match fs::symlink_metadata(&at)?.is_dir() {
            true => fs::remove_dir(&at)?,
            false if fs::symlink_metadata(&at)?.len() == 0 => fs::remove_file(&at)?,
            false => return Err(io::Error::other(format!("{} still holds something", at.display()))),
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    /// In mounts of its own, where `/` is private and the volume's mount is shared, as systemd makes them all.
    #[test]
    fn unpinning_a_volume_leaves_what_is_mounted_in_it() {
        let world = tempfile::tempdir().unwrap();
        let (volume, pin) = (world.path().join("volume"), world.path().join("pins/0"));
        std::thread::spawn(move || {
            let none = None::<&str>;
            let tmpfs = |at: &Path| mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            unshare(CloneFlags::CLONE_NEWNS).expect("the tests of Linux containers run as root");
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            fs::create_dir(&volume).unwrap();
            tmpfs(&volume);
            mount(none, &volume, none, MsFlags::MS_SHARED, none).unwrap();
            let inner = volume.join("sub/inner");
            fs::create_dir_all(&inner).unwrap();
            tmpfs(&inner);
            fs::write(inner.join("file"), "there").unwrap();
            mount_pin(&volume.join("sub"), &pin).unwrap();
            assert_eq!(fs::read_to_string(pin.join("inner/file")).unwrap(), "there");
            unmount_all(pin.parent().unwrap()).unwrap();
            assert_eq!(fs::read_to_string(inner.join("file")).unwrap(), "there");
        })
        .join()
        .unwrap();
    }
}
