//! Opening the file: the lock, the checks, and what is said when it cannot be opened.
use super::{COMPACTED, CURRENT, EXPIRY, HEAD, LOG, META};
use redb::{Database, ReadableDatabase};
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is in use by process {pid}: stop that process, or choose another data directory", .path.display())]
    InUse { path: PathBuf, pid: String },
    #[error(
        "{} is damaged ({why}); it was left as it is. Make a copy of it before anything else, then restore a \
         backup or move it away to start with an empty store", .path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// Pages redb may keep in memory. The working set of a small cluster is a few MiB, and reads of the hot path are
/// answered by the watch cache.
const CACHE_BYTES: usize = 8 << 20;

/// Takes the lock and opens the file. The lock goes with the returned handle.
pub(super) fn open(path: &Path) -> Result<(Database, File), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    let lock = lock(path)?;
    check_length(path)?;
    let database = open_file(path)?;
    // Tables must exist before the first read transaction opens them.
    let tables = || -> Result<(), redb::Error> {
        let txn = database.begin_write()?;
        txn.open_table(CURRENT)?;
        txn.open_table(LOG)?;
        txn.open_table(EXPIRY)?;
        txn.open_table(META)?;
        txn.commit()?;
        Ok(())
    };
    let missing = database.begin_read().map_err(|e| damaged(path, e))?.open_table(META).is_err();
    if missing {
        tables().map_err(|e| damaged(path, e))?;
    }
    Ok((database, lock))
}

pub(super) fn open_file(path: &Path) -> Result<Database, OpenError> {
    // redb asserts on some damage; an assertion is one more way to say so.
    let opened = std::panic::catch_unwind(|| Database::builder().set_cache_size(CACHE_BYTES).create(path));
    match opened {
        Ok(Ok(database)) => {
            make_private(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            Ok(database)
        }
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))))
            if source.raw_os_error().is_some() =>
        {
            Err(OpenError::Io { path: path.to_owned(), source })
        }
        Ok(Err(e)) => Err(damaged(path, e)),
        Err(_) => Err(damaged(path, "its pages do not fit together")),
    }
}

/// Secrets lie in the file; the directory it is in may be one that others can enter.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o700))
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), why: why.to_string() }
}

/// The newest revision in the file.
pub(super) fn head(database: &Database, path: &Path) -> Result<u64, OpenError> {
    let read = || -> Result<u64, redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        let (head, compacted) = (meta.get(HEAD)?, meta.get(COMPACTED)?);
        Ok(head.map_or(0, |v| v.value()).max(compacted.map_or(0, |v| v.value())))
    };
    read().map_err(|e| damaged(path, e))
}

/// A lock file beside the data holds the process's id: redb's own lock says only that there is one.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = path.with_extension("lock");
    let io = |source| OpenError::Io { path: lock_path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // 32 bytes hold any process id; what else lies there is not worth printing.
            file.take(32).read_to_string(&mut pid).map_err(io)?;
            return Err(OpenError::InUse { path: path.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// Refuses a file that was cut short before redb sees it: redb repairs what it opens, and a repair writes.
///
/// The header (redb's `docs/design.md`, "Database file layout") says how many regions there are. redb lengthens the
/// file before it writes a header that needs the room, and shortens it afterwards, so a file that is shorter than
/// its header says was cut by someone else.
fn check_length(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    let mut header = [0; 32];
    let read = File::open(path).and_then(|mut f| f.read(&mut header)).map_err(io)?;
    if read < header.len() || !header.starts_with(b"redb\x1A\x0A\xA9\x0D\x0A") {
        return Err(damaged(path, "it does not begin as a redb file does"));
    }
    let word = |at: usize| {
        u128::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let (page, region_header, region_pages, full, trailing) =
        (word(12), word(16), word(20), word(24), word(28));
    let trailing_pages = if trailing > 0 { region_header + trailing } else { 0 };
    let expected = page * (1 + full * (region_header + region_pages) + trailing_pages);
    if u128::from(length) < expected {
        return Err(damaged(path, format!("it is {length} bytes long where its header says {expected}")));
    }
    Ok(())
}
