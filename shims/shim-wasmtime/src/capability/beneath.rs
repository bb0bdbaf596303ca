//! Reading files of a volume on a guest's behalf.
//!
//! Invariant: nothing outside the directory is read, whatever links lie in it. A volume may be one that guests write
//! to, and a link there may point at any file of the node; the kernel itself refuses to follow it out.
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

fn open(directory: &Path, name: &str, flags: OFlag) -> io::Result<File> {
    let root = File::open(directory)?;
    let how = OpenHow::new()
        // Without it, opening a pipe that lies in the volume would wait for its other end.
        .flags(flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(&root, name, how)?))
}

/// The content of a file, `None` if there is none of that name.
///
/// # Errors
/// `InvalidData` for what is no file or longer than `max` bytes, `PermissionDenied` for a link that leads out.
pub(crate) fn read(directory: &Path, name: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(directory, name, OFlag::empty()) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(nix::libc::EXDEV) => {
            let text = format!("{name} is a link that leads out of its volume");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Err(e) => return Err(e),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not a file")));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is longer than {max} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_within_a_volume_are_followed_and_links_out_of_it_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("..v1")).unwrap();
        std::fs::write(dir.path().join("secret"), "of the node").unwrap();
        std::fs::write(volume.join("..v1/key"), "value").unwrap();
        symlink("..v1", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink(dir.path().join("secret"), volume.join("absolute")).unwrap();
        assert_eq!(read(&volume, "key", 100).unwrap().unwrap(), b"value");
        assert_eq!(read(&volume, "missing", 100).unwrap(), None);
        for name in ["up", "absolute"] {
            let error = read(&volume, name, 100).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is a link that leads out of its volume"));
        }
        assert!(read(&volume, "../secret", 100).is_err());
        assert!(read(&volume, "key", 4).unwrap_err().to_string().contains("longer than 4 bytes"));
        assert!(read(&volume, "..v1", 4).is_err());
    }
}
