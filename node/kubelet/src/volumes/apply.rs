//! Making volumes so on disk. Blocking: run it where blocking is allowed.
use super::plan::VolumePlan;
use super::{VolumeError, atomic, volume_dir};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes a volume and gives its path.
pub fn ensure_volume(root: &Path, uid: &str, name: &str, plan: &VolumePlan) -> Result<PathBuf, VolumeError> {
    let io_error =
        |what: &str, source| VolumeError::Io { volume: name.to_owned(), what: what.to_owned(), source };
    ensure_pods_dir(root).map_err(|e| io_error("cannot make the directory of all pods", e))?;
    match plan {
        VolumePlan::EmptyDir { memory_bytes } => {
            let dir = volume_dir(root, uid, "empty-dir", name);
            fs::create_dir_all(&dir).map_err(|e| io_error("cannot make its directory", e))?;
            if let Some(bytes) = memory_bytes {
                ensure_tmpfs(&dir, *bytes).map_err(|e| io_error("cannot mount a tmpfs for it", e))?;
            }
            // Whoever the containers run as may write.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))
                .map_err(|e| io_error("cannot open its directory to all", e))?;
            Ok(dir)
        }
        VolumePlan::HostPath { path, kind } => {
            ensure_host_path(Path::new(path), kind)
                .map_err(|why| VolumeError::SetUp { volume: name.to_owned(), why })?;
            Ok(PathBuf::from(path))
        }
        VolumePlan::Files { plugin, files } => {
            let dir = volume_dir(root, uid, plugin, name);
            atomic::write(&dir, files).map_err(|e| io_error("cannot write its files", e))?;
            Ok(dir)
        }
    }
}

/// Mounts a file system in memory where none is. Whoever may not mount keeps the directory, and with it the measuring
/// that holds a volume on disk to its limit.
fn ensure_tmpfs(dir: &Path, bytes: u64) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    if fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(format!("size={bytes},mode=0777").as_str())) {
        Err(Errno::EPERM) => Ok(()),
        mounted => Ok(mounted?),
    }
}

/// Unmounts what was mounted for the volumes of a pod. Removing a directory does not do it, and would remove what is in
/// them first.
fn unmount_volumes(pod_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pod_dir.join("volumes/kubernetes.io~empty-dir")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        match umount2(&entry?.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // No mount point; or nobody here could have mounted one.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The directory above all pods' own. Secrets lie in it, readable for whoever a container runs as: no other user of this
/// node may enter. (Containers get their volumes mounted, they do not come by here.)
fn ensure_pods_dir(root: &Path) -> io::Result<()> {
    let pods = root.join("pods");
    fs::create_dir_all(&pods)?;
    if fs::metadata(&pods)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(&pods, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Checks a hostPath against its type, making what the type allows to make.
fn ensure_host_path(path: &Path, kind: &str) -> Result<(), String> {
    let failed = |what: &str| format!("hostPath type check failed: {} is not a {what}", path.display());
    let found = match fs::metadata(path) {
        Ok(m) => Some(m.file_type()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(format!("hostPath {}: {e}", path.display())),
    };
    let io = |r: io::Result<()>| r.map_err(|e| format!("hostPath {}: {e}", path.display()));
    match (kind, found) {
        ("DirectoryOrCreate", None) => io(fs::create_dir_all(path)),
        ("FileOrCreate", None) => io(fs::File::options().create(true).append(true).open(path).map(drop)),
        // Without a type nothing is checked; the runtime makes a directory as Docker did.
        ("", None) => io(fs::create_dir_all(path)),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate" | "Directory", Some(t)) if t.is_dir() => Ok(()),
        ("FileOrCreate" | "File", Some(t)) if t.is_file() => Ok(()),
        ("Socket", Some(t)) if t.is_socket() => Ok(()),
        ("CharDevice", Some(t)) if t.is_char_device() => Ok(()),
        ("BlockDevice", Some(t)) if t.is_block_device() => Ok(()),
        ("DirectoryOrCreate" | "Directory", _) => Err(failed("directory")),
        ("FileOrCreate" | "File", _) => Err(failed("file")),
        ("Socket", _) => Err(failed("socket file")),
        ("CharDevice", _) => Err(failed("character device")),
        ("BlockDevice", _) => Err(failed("block device")),
        (other, _) => Err(format!("{other:?} is an invalid volume type")),
    }
}

/// Removes everything of a pod from disk. Succeeds when there is nothing.
pub fn remove_pod_dirs(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        unmount_volumes(dir)?;
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
