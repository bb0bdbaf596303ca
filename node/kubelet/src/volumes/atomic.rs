//! Files that change all at once: written into a fresh directory beside, then one symbolic link is renamed.
//!
//! ```text
//!   volume/
//!     key        -> ..data/key
//!     ..data     -> ..v3            the link that is replaced
//!     ..v3/key                      what is seen
//! ```
//! The layout is upstream's (programs watch `..data`).
use super::plan::File;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Makes `dir` show `files`; says whether anything changed. May be called again after dying at any point.
pub fn write(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && same(&dir.join(current), files)?
    {
        link_names(dir, files)?;
        return Ok(false);
    }
    let fresh = fresh_name(dir)?;
    let to = dir.join(&fresh);
    fs::create_dir(&to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let path = to.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let tmp = dir.join(DATA_TMP);
    match fs::remove_file(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => symlink(&fresh, &tmp)?,
    }
    fs::rename(&tmp, dir.join(DATA))?;
    link_names(dir, files)?;
    remove_old(dir, &fresh)?;
    Ok(true)
}

/// Whether a directory holds just these files.
fn same(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<bool> {
    if !dir.is_dir() {
        return Ok(false);
    }
    let mut found = BTreeSet::new();
    list(dir, "", &mut found)?;
    if found.len() != files.len() || !files.keys().all(|k| found.contains(k)) {
        return Ok(false);
    }
    for (path, file) in files {
        let at = dir.join(path);
        if fs::metadata(&at)?.permissions().mode() & 0o777 != file.mode || fs::read(&at)? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), into)?;
        } else {
            into.insert(name);
        }
    }
    Ok(())
}

/// A name no directory has: one more than the highest there is.
fn fresh_name(dir: &Path) -> io::Result<String> {
    let mut highest = 0u64;
    for entry in fs::read_dir(dir)? {
        if let Some(n) =
            entry?.file_name().to_str().and_then(|n| n.strip_prefix("..v")).and_then(|n| n.parse().ok())
        {
            highest = highest.max(n);
        }
    }
    Ok(format!("..v{}", highest.saturating_add(1)))
}

/// The first path element of every file, as the names to show.
fn tops(files: &BTreeMap<String, File>) -> BTreeSet<&str> {
    files.keys().map(|k| k.split('/').next().unwrap_or(k)).collect()
}

/// Links every name into `..data` and removes names that are no more.
fn link_names(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted = tops(files);
    for name in &wanted {
        let at = dir.join(name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(name), &at)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

fn remove_old(dir: &Path, keep: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("..v") && name != keep && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
