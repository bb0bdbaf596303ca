//! Files that only this node wrote: compiled code, sealed with a key of the node's own.
//!
//! Invariant: [`Sealed::open`] gives a path only if the bytes below it are those that [`Sealed::put`] was given under
//! the same name, by a holder of the key. Everything else — a torn write, another version, a tampered or swapped
//! file — is a miss. (wasmtime trusts compiled code blindly; whoever can forge it can run anything.)
//!
//! ```text
//!   node.key (0600)    <name>.cwasm + <name>.mac = HMAC-SHA256(key, length of name · name · bytes)
//! ```
use aws_lc_rs::hmac;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use shim::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const KEY_BYTES: usize = 32;

pub(crate) struct Sealed {
    dir: PathBuf,
    key: hmac::Key,
    max_bytes: u64,
    temporaries: AtomicU64,
}

/// Makes a directory that only its owner can enter.
pub(crate) fn ensure_private_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::Io { what: format!("making {} for compiled code", dir.display()), source })
}

impl Sealed {
    pub(crate) fn open_dir(dir: &Path, max_bytes: u64) -> Result<Self, Error> {
        ensure_private_dir(dir)?;
        let io =
            |source| Error::Io { what: format!("the key of the code cache in {}", dir.display()), source };
        // One that was there before may let others write: they could swap code after its seal was checked.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
        let key = load_or_create_key(&dir.join("node.key")).map_err(io)?;
        sweep(dir);
        Ok(Self {
            dir: dir.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            max_bytes,
            temporaries: AtomicU64::new(0),
        })
    }

    /// The file of that name, if it is whole and ours.
    pub(crate) fn open(&self, name: &str) -> Option<PathBuf> {
        let path = self.blob(name);
        let expected = fs::read(self.mac(name)).ok()?;
        let mut context = self.context(name);
        let mut file = File::open(&path).ok()?;
        let mut chunk = vec![0; 256 << 10];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => context.update(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        if aws_lc_rs::constant_time::verify_slices_are_equal(context.sign().as_ref(), &expected).is_err() {
            tracing::warn!(path = %path.display(), "compiled code does not match its seal and is compiled anew");
            return None;
        }
        // Its time says when it was last used: the oldest go first when room is needed. A file system that keeps no
        // times only makes that choice worse.
        let _ = futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
        Some(path)
    }

    /// Writes and seals a file. A crash at any point leaves a miss, never half a file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        self.make_room(bytes.len() as u64);
        let mut context = self.context(name);
        context.update(bytes);
        let path = self.blob(name);
        self.replace(&path, bytes)?;
        self.replace(&self.mac(name), context.sign().as_ref())?;
        Ok(path)
    }

    /// An empty file that others may write for [`Sealed::put`]; the caller removes it.
    pub(crate) fn new_temporary(&self) -> io::Result<PathBuf> {
        let path = self.temporary();
        write_private(&path, &[])?;
        Ok(path)
    }

    fn temporary(&self) -> PathBuf {
        let number = self.temporaries.fetch_add(1, Relaxed);
        self.dir.join(format!("new-{}-{number}", std::process::id()))
    }

    fn context(&self, name: &str) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(name.len() as u64).to_le_bytes());
        context.update(name.as_bytes());
        context
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.cwasm"))
    }

    fn mac(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.mac"))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let written = write_private(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the code that was not used for longest until `coming` more bytes fit. Code in use stays mapped although its name is gone.
    fn make_room(&self, coming: u64) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut files: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in files {
            if total.saturating_add(coming) <= self.max_bytes {
                return;
            }
            let _ = fs::remove_file(path.with_extension("mac"));
            if fs::remove_file(&path).is_ok() {
                total = total.saturating_sub(length);
            }
        }
    }
}

/// Removes what ended processes left unfinished, and seals without their code.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let leftover = match name.strip_prefix("new-").and_then(|rest| rest.split('-').next()) {
            Some(process) => {
                process.parse::<u32>().is_ok_and(|id| !Path::new(&format!("/proc/{id}")).exists())
            }
            None => name.ends_with(".mac") && !path.with_extension("cwasm").exists(),
        };
        if leftover && let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a leftover of the code cache stays");
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

/// A key that others could read or that is cut off is replaced: the code it sealed is then compiled anew.
fn load_or_create_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Some(key) = load_key(path)? {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    write_private(&temporary, &key)?;
    let _ = fs::remove_file(path);
    // A link fails where a rename would replace: of two processes that start together one key wins.
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => load_key(path)?.ok_or_else(|| io::Error::other("another process is replacing it; try again")),
    }
}

fn load_key(path: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        return Ok(None);
    }
    Ok(<[u8; KEY_BYTES]>::try_from(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_again_also_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        Sealed::open_dir(dir.path(), 1000).unwrap().put("a", b"code").unwrap();
        let path = Sealed::open_dir(dir.path(), 1000).unwrap().open("a").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"code");
        assert_eq!(fs::metadata(dir.path().join("node.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_changed_a_swapped_and_an_unsealed_file_are_misses() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealed::open_dir(dir.path(), 1000).unwrap();
        sealed.put("a", b"code").unwrap();
        sealed.put("b", b"other").unwrap();
        fs::write(sealed.blob("a"), b"evil").unwrap();
        assert_eq!(sealed.open("a"), None);
        fs::copy(sealed.blob("b"), sealed.blob("a")).unwrap();
        fs::copy(sealed.mac("b"), sealed.mac("a")).unwrap();
        assert_eq!(sealed.open("a"), None);
        fs::remove_file(sealed.mac("b")).unwrap();
        assert_eq!(sealed.open("b"), None);
    }

    #[test]
    fn a_truncated_a_lengthened_and_another_nodes_file_are_misses() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = Sealed::open_dir(dir.path(), 1000).unwrap();
        for bytes in [&b"cod"[..], b"code and more", b""] {
            sealed.put("a", b"code").unwrap();
            assert!(sealed.open("a").is_some());
            fs::write(sealed.blob("a"), bytes).unwrap();
            assert_eq!(sealed.open("a"), None, "{bytes:?}");
        }
        sealed.put("a", b"code").unwrap();
        fs::write(sealed.mac("a"), &fs::read(sealed.mac("a")).unwrap()[..31]).unwrap();
        assert_eq!(sealed.open("a"), None, "a torn seal");
        let foreign = Sealed::open_dir(other.path(), 1000).unwrap();
        foreign.put("a", b"code").unwrap();
        fs::copy(foreign.blob("a"), sealed.blob("a")).unwrap();
        fs::copy(foreign.mac("a"), sealed.mac("a")).unwrap();
        assert_eq!(sealed.open("a"), None, "sealed with another node's key");
    }

    #[test]
    fn leftovers_of_ended_processes_are_swept_and_those_of_living_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealed::open_dir(dir.path(), 1000).unwrap();
        sealed.put("kept", b"code").unwrap();
        let mine = sealed.new_temporary().unwrap();
        // No process has so high a number (pid_max is 4,194,304 at most).
        let dead = dir.path().join("new-4999999-0");
        fs::write(&dead, b"half").unwrap();
        fs::write(dir.path().join("gone.mac"), b"seal").unwrap();
        let again = Sealed::open_dir(dir.path(), 1000).unwrap();
        assert!(mine.exists() && again.open("kept").is_some());
        assert!(!dead.exists() && !dir.path().join("gone.mac").exists());
    }

    #[test]
    fn what_was_used_last_stays_longest() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealed::open_dir(dir.path(), 10).unwrap();
        let old = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        for name in ["a", "b"] {
            sealed.put(name, b"four").unwrap();
            File::options().write(true).open(sealed.blob(name)).unwrap().set_times(old).unwrap();
        }
        sealed.open("a").unwrap();
        sealed.put("c", b"four").unwrap();
        assert!(sealed.open("a").is_some() && sealed.open("c").is_some());
        assert_eq!(sealed.open("b"), None, "it was not used since it was made");
    }

    #[test]
    fn a_key_that_others_could_have_read_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Sealed::open_dir(dir.path(), 1000).unwrap().put("a", b"code").unwrap();
        fs::set_permissions(dir.path().join("node.key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Sealed::open_dir(dir.path(), 1000).unwrap().open("a"), None);
    }

    #[test]
    fn a_directory_that_others_could_write_in_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Sealed::open_dir(dir.path(), 1000).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_cache_stays_within_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Sealed::open_dir(dir.path(), 10).unwrap();
        for name in ["a", "b", "c"] {
            sealed.put(name, b"four").unwrap();
        }
        let left = ["a", "b", "c"].iter().filter(|name| sealed.open(name).is_some()).count();
        assert_eq!(left, 2);
        assert!(sealed.open("c").is_some());
    }
}
