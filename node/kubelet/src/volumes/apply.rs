//! Making volumes so on disk. Blocking: run it where blocking is allowed.
use super::plan::VolumePlan;
use super::{VolumeError, atomic, volume_dir};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes a volume and gives its path.
pub fn ensure_volume(root: &Path, uid: &str, name: &str, plan: &VolumePlan) -> Result<PathBuf, VolumeError> {
    let io_error =
        |what: &str, source| VolumeError::Io { volume: name.to_owned(), what: what.to_owned(), source };
    ensure_pods_dir(root).map_err(|e| io_error("cannot make the directory of all pods", e))?;
    match plan {
        VolumePlan::EmptyDir => {
            let dir = volume_dir(root, uid, "empty-dir", name);
            fs::create_dir_all(&dir).map_err(|e| io_error("cannot make its directory", e))?;
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
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
