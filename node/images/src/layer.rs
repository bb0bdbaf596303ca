//! Unpacking tar layers: each into a directory of its own that overlayfs can stack.
//!
//! Invariant: nothing is written outside the target directory, whatever an archive says. Names with `..` end the
//! unpacking; names that lead through a symbolic link of the layer or of one below lead to where a program in the
//! container would find it, so that no link leads out of the image's root. Whiteouts become overlayfs's:
//! a character device 0/0 for a removed file, `trusted.overlay.opaque` on a directory that hides what is below.
use crate::Error;
use crate::manifest::Compression;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};
use tar::{Archive, Entry, EntryType};

/// How much a layer may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerLimits {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Counts and hashes what passes, and ends an archive that unpacks to more than the limit.
struct Checked<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    limit: u64,
    /// What may still be read until the next entry begins.
    header_room: Rc<Cell<u64>>,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes += n as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other(format!("it unpacks to more than {} bytes", self.limit)));
        }
        let Some(room) = self.header_room.get().checked_sub(n as u64) else {
            return Err(refuse(format!("an entry's header has more than {MAX_HEADER_BYTES} bytes")));
        };
        self.header_room.set(room);
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Names, attributes and maps of sparse files that stand before an entry, together: the library collects them in memory.
/// Linux's longest path has 4 KiB and its longest attribute 64 KiB.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Symbolic links that one name may lead through (Linux's own limit, path_resolution(7)).
const MAX_LINKS: u32 = 40;

fn decompress(file: File, compression: Compression) -> io::Result<Box<dyn Read>> {
    let file = io::BufReader::with_capacity(256 * 1024, file);
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
    })
}

/// Why a layer was refused: about the archive, not about the disk.
fn refuse(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Unpacks the layer `blob` into the new directory `target`, on top of `lower` (lowest first). Checks that the tar
/// within has the digest `diff_id`. Gives the bytes unpacked.
pub(crate) fn unpack(
    blob: &Path,
    digest: &str,
    diff_id: &str,
    compression: Compression,
    target: &Path,
    lower: &[PathBuf],
    limits: LayerLimits,
) -> Result<u64, Error> {
    let run = || -> io::Result<(String, u64)> {
        fs::create_dir(target)?;
        fs::set_permissions(target, Permissions::from_mode(0o755))?;
        let reader = decompress(File::open(blob)?, compression)?;
        let header_room = Rc::new(Cell::new(MAX_HEADER_BYTES));
        let checked = Checked {
            inner: reader,
            hash: Sha256::new(),
            bytes: 0,
            limit: limits.bytes,
            header_room: header_room.clone(),
        };
        let mut archive = Archive::new(checked);
        let mut layer = Layer { root: target, lower, directories: Vec::new(), room: limits.bytes, limits };
        for (count, entry) in archive.entries()?.enumerate() {
            if count as u64 >= limits.entries {
                return Err(refuse(format!("it holds more than {} files", limits.entries)));
            }
            let mut entry = entry?;
            header_room.set(u64::MAX);
            layer.entry(&mut entry)?;
            // All of it, so that what is read from here on is the next entry's header.
            io::copy(&mut entry, &mut io::sink())?;
            header_room.set(MAX_HEADER_BYTES);
        }
        header_room.set(u64::MAX);
        layer.finish()?;
        // What follows the end mark counts for the digest.
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink())?;
        Ok((format!("sha256:{}", hex::encode(rest.hash.finalize())), rest.bytes))
    };
    let (actual, bytes) = run().map_err(|e| {
        if e.raw_os_error().is_some() {
            Error::Io { what: format!("unpacking layer {digest}"), source: e }
        } else {
            Error::BadLayer { digest: digest.to_string(), reason: e.to_string() }
        }
    })?;
    if actual != diff_id {
        let what = format!("the content of layer {digest}");
        return Err(Error::DigestMismatch { what, expected: diff_id.to_string(), actual });
    }
    Ok(bytes)
}

struct Layer<'a> {
    root: &'a Path,
    lower: &'a [PathBuf],
    /// Their times are set last: writing into a directory changes them.
    directories: Vec<(PathBuf, u64)>,
    /// Bytes that may still be written. More can come out of an archive than lies in it: a sparse file's holes, and
    /// files of the layers below that a hard link copies.
    room: u64,
    limits: LayerLimits,
}

impl Layer<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = clean(&entry.path_bytes())?;
        let Some(last) = name.file_name().map(OsStr::to_os_string) else {
            // The root itself: its owner and mode count.
            let root = self.root.to_path_buf();
            return self.attributes(entry, &root);
        };
        let parent = name.parent().unwrap_or(Path::new(""));
        let directory = self.root.join(self.ensure_parents(parent)?);
        if let Some(hidden) = last.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&directory, hidden);
        }
        let path = directory.join(&last);
        self.make_room(&path, kind)?;
        match kind {
            EntryType::Directory => {
                if !path.is_dir() {
                    fs::create_dir(&path)?;
                }
                self.directories.push((path.clone(), entry.header().mtime().unwrap_or(0)));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.take_room(entry.size())?;
                let mut file = File::create_new(&path)?;
                io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                let to = entry.link_name_bytes().ok_or_else(|| refuse("a symbolic link leads nowhere"))?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&to), &path)?;
                // Ownership only: a link has no mode, and its times matter to nobody.
                return self.owner(entry, &path);
            }
            EntryType::Link => {
                let to = entry.link_name_bytes().ok_or_else(|| refuse("a hard link leads nowhere"))?;
                return self.hard_link(&clean(&to)?, &path);
            }
            EntryType::Fifo => {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
            }
            // The container gets its devices from the runtime; a device of an image would be a way around that.
            EntryType::Char | EntryType::Block => return Ok(()),
            other => return Err(refuse(format!("{} is of the unknown type {other:?}", name.display()))),
        }
        self.attributes(entry, &path)
    }

    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        let limit = self.limits.bytes;
        self.room = self
            .room
            .checked_sub(bytes)
            .ok_or_else(|| refuse(format!("it unpacks to more than {limit} bytes")))?;
        Ok(())
    }

    /// Removes what stands in the way of a new entry: a later entry of the same name wins.
    fn make_room(&mut self, path: &Path, kind: EntryType) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() && kind == EntryType::Directory => Ok(()),
            Ok(there) if there.is_dir() => {
                self.directories.retain(|(directory, _)| !directory.starts_with(path));
                fs::remove_dir_all(path)
            }
            Ok(_) => fs::remove_file(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Where a directory that a name leads through lies, as a program in the container would find it: links of this layer
    /// and of those below are followed, but never further up than the root. Directories that the archive left out are made
    /// as they are in the layers below. Nobody else writes here meanwhile.
    fn ensure_parents(&self, parent: &Path) -> io::Result<PathBuf> {
        let parts = |path: &Path| -> Vec<OsString> {
            // What is to come, the next one last. Names of links may climb.
            let part = |component| match component {
                Component::Normal(part) => Some(part.to_os_string()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            };
            path.components().rev().filter_map(part).collect()
        };
        let (mut pending, mut at, mut links) = (parts(parent), PathBuf::new(), 0);
        while let Some(part) = pending.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let relative = at.join(&part);
            let path = self.root.join(&relative);
            let (own, below) = match fs::symlink_metadata(&path) {
                Ok(there) if there.is_dir() => {
                    at = relative;
                    continue;
                }
                Ok(there) if there.is_symlink() => (Some(path.clone()), None),
                Ok(_) => return Err(refuse(format!("{} is a file and a directory", relative.display()))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => (None, self.below(&relative)),
                Err(e) => return Err(e),
            };
            let below_link =
                || below.as_ref().filter(|(_, meta)| meta.is_symlink()).map(|(path, _)| path.clone());
            if let Some(link) = own.or_else(below_link) {
                links += 1;
                if links > MAX_LINKS {
                    let name = parent.display();
                    return Err(refuse(format!("{name} leads through more than {MAX_LINKS} symbolic links")));
                }
                let to = fs::read_link(link)?;
                if to.is_absolute() {
                    at = PathBuf::new();
                }
                pending.extend(parts(&to));
                continue;
            }
            fs::create_dir(&path)?;
            match below.filter(|(_, meta)| meta.is_dir()) {
                Some((_, meta)) => {
                    std::os::unix::fs::chown(&path, Some(meta.uid()), Some(meta.gid()))?;
                    fs::set_permissions(&path, Permissions::from_mode(meta.mode() & 0o7777))?;
                }
                None => fs::set_permissions(&path, Permissions::from_mode(0o755))?,
            }
            at = relative;
        }
        Ok(at)
    }

    /// What the layers below have under a name, the highest first. Never through a symbolic link of theirs: it may lead
    /// to files of this machine.
    fn below(&self, relative: &Path) -> Option<(PathBuf, fs::Metadata)> {
        if hides_below(self.root, relative) {
            return None;
        }
        for layer in self.lower.iter().rev() {
            let (mut path, mut found) = (layer.clone(), None);
            for component in relative.components() {
                // A file or link where a directory should be hides what even lower layers have below that name.
                if found.as_ref().is_some_and(|meta: &fs::Metadata| !meta.is_dir()) {
                    return None;
                }
                path.push(component);
                found = fs::symlink_metadata(&path).ok();
                if found.is_none() {
                    break;
                }
            }
            if let Some(meta) = found {
                return Some((path, meta));
            }
            if hides_below(layer, relative) {
                return None;
            }
        }
        None
    }

    fn whiteout(&self, directory: &Path, hidden: &[u8]) -> io::Result<()> {
        if hidden == b".wh..opq" {
            return xattr::set(directory, "trusted.overlay.opaque", b"y");
        }
        // Other names that begin so are aufs's own book-keeping.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refuse("a whiteout without a name"));
        }
        let path = directory.join(OsStr::from_bytes(hidden));
        // An entry of the same layer beats its whiteout.
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(());
        }
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        Ok(mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
    }

    /// A hard link within the layer; what lies in a layer below is copied up, as writing to it would.
    fn hard_link(&mut self, to: &Path, path: &Path) -> io::Result<()> {
        let parent = to.parent().unwrap_or(Path::new(""));
        let Some(last) = to.file_name() else { return Err(refuse("a hard link to the root")) };
        let to = self.ensure_parents(parent)?.join(last);
        let source = self.root.join(&to);
        match fs::symlink_metadata(&source) {
            Ok(meta) if meta.is_dir() => {
                return Err(refuse(format!("a hard link to the directory {}", to.display())));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.below(&to) {
                Some((lower, meta)) if meta.is_file() => {
                    self.take_room(meta.len())?;
                    fs::copy(&lower, &source)?;
                    std::os::unix::fs::chown(&source, Some(meta.uid()), Some(meta.gid()))?;
                    fs::set_permissions(&source, Permissions::from_mode(meta.mode() & 0o7777))?;
                }
                _ => return Err(refuse(format!("a hard link to {}, which is not there", to.display()))),
            },
            Err(e) => return Err(e),
        }
        // linkat without AT_SYMLINK_FOLLOW: a link to a symbolic link links the link.
        fs::hard_link(&source, path)
    }

    fn owner(&self, entry: &Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        let header = entry.header();
        let id = |field: &[u8], id: io::Result<u64>| {
            // Some tools leave the field empty for root.
            if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
                return Ok(0);
            }
            u32::try_from(id?).map_err(|_| refuse("an owner that is no user id of this machine"))
        };
        let (uid, gid) = (id(&header.as_old().uid, header.uid())?, id(&header.as_old().gid, header.gid())?);
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
    }

    fn attributes(&self, entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        self.owner(entry, path)?;
        // After the owner: changing that clears set-user-id.
        fs::set_permissions(path, Permissions::from_mode(entry.header().mode()? & 0o7777))?;
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
                // overlayfs's own attributes in an archive would forge whiteouts and redirects.
                if name.starts_with(b"trusted.") {
                    continue;
                }
                match xattr::set(path, OsStr::from_bytes(name), extension.value_bytes()) {
                    Err(e) if e.kind() != io::ErrorKind::Unsupported => return Err(e),
                    _ => {}
                }
            }
        }
        if entry.header().entry_type() != EntryType::Directory && !path.is_dir() && path.is_file() {
            set_time(path, entry.header().mtime().unwrap_or(0))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        for (directory, time) in self.directories.drain(..) {
            set_time(&directory, time)?;
        }
        Ok(())
    }
}

/// Whether a directory of the layer above that name says that nothing of the layers below it is seen.
fn hides_below(layer: &Path, relative: &Path) -> bool {
    let directories = relative.ancestors().skip(1).map(|ancestor| layer.join(ancestor));
    let is_opaque = |directory: PathBuf| matches!(xattr::get(directory, "trusted.overlay.opaque"), Ok(Some(value)) if value == b"y");
    directories.into_iter().any(is_opaque)
}

fn set_time(path: &Path, seconds: u64) -> io::Result<()> {
    // Times beyond what a file system can hold are no reason to refuse an image.
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(u32::MAX.into()));
    File::open(path)?.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time))
}

/// A name of an archive as a path inside the root: `/a/./b` is `a/b`; `..` is refused.
fn clean(name: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(name));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse(format!("the name {} leads out of the image", path.display())));
            }
        }
    }
    Ok(clean)
}

/// Finds a wasm file in a tar layer: `wanted` if it is named, else the only `.wasm` there is. Copies it to `target`.
/// Says whether it was found.
pub(crate) fn extract_wasm(
    blob: &Path,
    digest: &str,
    compression: Compression,
    wanted: Option<&str>,
    target: &Path,
    limit: u64,
) -> Result<bool, Error> {
    let wanted = wanted.map(|path| clean(path.as_bytes())).transpose();
    let run = || -> io::Result<bool> {
        let wanted = wanted?;
        let reader = decompress(File::open(blob)?, compression)?;
        // A wasm image is its file and little else.
        let checked = Checked {
            inner: reader,
            hash: Sha256::new(),
            bytes: 0,
            limit: limit.saturating_mul(4),
            header_room: Rc::new(Cell::new(u64::MAX)),
        };
        let mut archive = Archive::new(checked);
        let mut found = false;
        for entry in archive.entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = clean(&entry.path_bytes())?;
            let fits = match &wanted {
                Some(wanted) => {
                    name == *wanted || (wanted.components().count() == 1 && name.ends_with(wanted))
                }
                None => name.extension().is_some_and(|extension| extension == "wasm"),
            };
            if !fits {
                continue;
            }
            if found && wanted.is_none() {
                return Err(refuse("it holds several .wasm files, and nothing says which of them to run"));
            }
            if entry.size() > limit {
                return Err(refuse(format!("{} has more than {limit} bytes", name.display())));
            }
            io::copy(&mut entry, &mut File::create(target)?)?;
            found = true;
        }
        Ok(found)
    };
    run().map_err(|e| Error::BadLayer { digest: digest.to_string(), reason: e.to_string() })
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
