//! A file that says which process works in a directory.
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Whether a directory is ours now.
pub(crate) enum Held {
    /// Ours until the handle goes.
    ByUs(File),
    /// Another process works there; its id, as far as it has been written.
    ByOther(Option<i32>),
}

/// Takes the lock at `path`, making the file if it is missing.
pub(crate) fn take(path: &Path) -> Result<Held> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // 32 bytes hold any process id.
            file.take(32).read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?;
            return Ok(Held::ByOther(text.trim().parse().ok()));
        }
        Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("locking {}", path.display())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(Held::ByUs(file))
}
