//! The container's root filesystem: the image's layers, read-only, below a writable one of its own.
use crate::record::StateDir;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use shim::Error;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// overlayfs takes at most 500 lower directories; images stop at 127 layers.
const MAX_LAYERS: usize = 500;

/// Mounts it at the bundle's `rootfs`. Doing it again changes nothing.
pub(crate) fn ensure_rootfs(state: &StateDir, layers: &[PathBuf]) -> Result<(), Error> {
    if layers.len() > MAX_LAYERS {
        return Err(Error::InvalidImage(format!(
            "the image has {} layers, at most {MAX_LAYERS} work",
            layers.len()
        )));
    }
    let io = |source| Error::Io { what: format!("preparing {}", state.0.display()), source };
    for directory in [state.rootfs(), state.upper(), state.work(), state.layers()] {
        fs::create_dir_all(&directory).map_err(io)?;
    }
    if is_mount_point(&state.rootfs()).map_err(io)? {
        return Ok(());
    }
    // The root directory's mode is the upper one's: every user of the container must be able to enter it.
    fs::set_permissions(state.upper(), fs::Permissions::from_mode(0o755)).map_err(io)?;
    for (number, layer) in layers.iter().enumerate() {
        let link = state.layers().join(number.to_string());
        match symlink(layer, &link) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io(e)),
            _ => {}
        }
    }
    fs::create_dir_all(state.layers().join("none")).map_err(io)?;
    mount_overlay(state, &overlay_options(layers.len())).map_err(|e| {
        let hint = match e.raw_os_error() {
            Some(libc::EINVAL) => {
                " (the data directory's filesystem cannot carry overlays; put it on ext4 or xfs)"
            }
            Some(libc::ENODEV) => " (the kernel has no overlayfs; load it with: modprobe overlay)",
            _ => "",
        };
        Error::Io { what: format!("mounting the image's layers{hint}"), source: e }
    })
}

/// Paths relative to the directory of links: the kernel reads one page of options, and a hundred layers with
/// their full names would not fit. Overlay wants the topmost first.
fn overlay_options(layers: usize) -> String {
    let lower: Vec<String> = (0..layers).rev().map(|number| number.to_string()).collect();
    let lower = if lower.is_empty() { "none".to_owned() } else { lower.join(":") };
    format!("lowerdir={lower},upperdir=../upper,workdir=../work")
}

/// A thread with a working directory of its own does it, for the sake of the relative paths.
fn mount_overlay(state: &StateDir, options: &str) -> io::Result<()> {
    std::thread::scope(|scope| {
        let mounter = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)?;
            std::env::set_current_dir(state.layers())?;
            mount(Some("overlay"), &state.rootfs(), Some("overlay"), MsFlags::empty(), Some(options))?;
            Ok(())
        });
        mounter.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// Unmounts it, also when something still looks at it.
pub(crate) fn remove_rootfs(state: &StateDir) -> Result<(), Error> {
    let rootfs = state.rootfs();
    let io = |source| Error::Io { what: format!("unmounting {}", rootfs.display()), source };
    while is_mount_point(&rootfs).map_err(io)? {
        umount2(&rootfs, MntFlags::MNT_DETACH).map_err(|errno| io(errno.into()))?;
    }
    Ok(())
}

/// A mount point lies on another device than its parent. (An overlay always has a device of its own.)
fn is_mount_point(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let Some(here) = device(path)? else { return Ok(false) };
    Ok(path.parent().map(device).transpose()?.flatten().is_some_and(|parent| parent != here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_layer_comes_first() {
        assert_eq!(overlay_options(3), "lowerdir=2:1:0,upperdir=../upper,workdir=../work");
        assert_eq!(overlay_options(0), "lowerdir=none,upperdir=../upper,workdir=../work");
        assert!(overlay_options(MAX_LAYERS).len() < 4096);
    }
}
