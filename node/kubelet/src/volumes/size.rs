//! Holding emptyDirs to their `sizeLimit`: a volume on disk is measured now and then, and a pod that has more in one
//! than it may is evicted (kubelet's `localStorageEviction`). One in memory is a file system of that size.
use super::volume_dir;
use client::k8s_openapi::api::core::v1 as core;
use machinery::quantity::Quantity;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The names of directories yet to be looked at: a hundred thousand of an ordinary length. Who has more, deep down, wants
/// to fill this process's memory.
const MAX_PATHS_BYTES: usize = 16 << 20;

/// Files in one volume that are looked at: some seconds of work, and what takes no room is not limited otherwise.
const MAX_FILES: u64 = 1_000_000;

/// An emptyDir that may hold so much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    pub volume: String,
    pub bytes: u64,
    /// As the pod says it.
    pub text: String,
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Bytes(u64),
    /// More than can be looked through.
    Countless,
}

/// The emptyDirs of a pod that have a limit. Those of 0 have none (upstream's reading of it).
pub fn limited(pod: &core::Pod) -> Vec<Limited> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let limit = |v: &core::Volume| {
        let text = &v.empty_dir.as_ref()?.size_limit.as_ref()?.0;
        let bytes = u64::try_from(Quantity::parse(text).ok()?.value()).ok().filter(|bytes| *bytes > 0)?;
        Some(Limited { volume: v.name.clone(), bytes, text: text.clone() })
    };
    volumes.filter_map(limit).collect()
}

/// Looks for a volume that holds more than it may; gives why the pod is evicted, in upstream's words where it has some.
/// Blocking.
pub fn exceeded(root: &Path, uid: &str, limited: &[Limited]) -> Option<String> {
    limited.iter().find_map(|l| match held(&volume_dir(root, uid, "empty-dir", &l.volume), l.bytes) {
        Ok(Held::Bytes(bytes)) if bytes > l.bytes => {
            Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", l.volume, l.text))
        }
        Ok(Held::Bytes(_)) => None,
        Ok(Held::Countless) => Some(format!(
            "EmptyDir volume {:?} holds too many files, or files too deep, to be held to its limit {:?}. ",
            l.volume, l.text
        )),
        Err(error) => {
            tracing::warn!(uid, volume = l.volume, %error, "an emptyDir cannot be measured");
            None
        }
    })
}

/// The room that what lies in a directory takes, hard links once; no more than is needed to know that it is too much.
fn held(directory: &Path, limit: u64) -> io::Result<Held> {
    let (mut bytes, mut files) = (0u64, 0u64);
    let (mut pending, mut linked) = (vec![PathBuf::from(directory)], HashSet::new());
    let mut waiting = directory.as_os_str().len();
    while let Some(directory) = pending.pop() {
        waiting -= directory.as_os_str().len();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if is_gone(&e) => continue,
            // Deeper than a path can tell of: nobody needs that but to hide something.
            Err(e) if e.kind() == io::ErrorKind::InvalidFilename => return Ok(Held::Countless),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let found = match entry.metadata() {
                Ok(found) => found,
                Err(e) if is_gone(&e) => continue,
                Err(e) if e.kind() == io::ErrorKind::InvalidFilename => return Ok(Held::Countless),
                Err(e) => return Err(e),
            };
            files += 1;
            if files > MAX_FILES {
                return Ok(Held::Countless);
            }
            if found.is_dir() {
                let path = entry.path();
                waiting += path.as_os_str().len();
                if waiting > MAX_PATHS_BYTES {
                    return Ok(Held::Countless);
                }
                pending.push(path);
            } else if found.nlink() > 1 && !linked.insert((found.dev(), found.ino())) {
                continue;
            }
            bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
            if bytes > limit {
                return Ok(Held::Bytes(bytes));
            }
        }
    }
    Ok(Held::Bytes(bytes))
}

/// The pod goes on meanwhile.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(volumes: serde_json::Value) -> core::Pod {
        serde_json::from_value(json!({ "spec": { "containers": [], "volumes": volumes } })).unwrap()
    }

    #[test]
    fn only_empty_dirs_with_a_limit_are_measured() {
        let pod = pod(json!([
            { "name": "a", "emptyDir": { "sizeLimit": "1Mi" } },
            { "name": "b", "emptyDir": {} },
            { "name": "c", "emptyDir": { "sizeLimit": "0" } },
            { "name": "d", "hostPath": { "path": "/" } },
        ]));
        assert_eq!(limited(&pod), [Limited { volume: "a".into(), bytes: 1 << 20, text: "1Mi".into() }]);
    }

    #[test]
    fn what_files_take_counts_wherever_they_lie_and_holes_and_second_names_do_not() {
        let root = tempfile::tempdir().unwrap();
        let volume = volume_dir(root.path(), "u", "empty-dir", "a");
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        let of = |bytes| [Limited { volume: "a".into(), bytes, text: "128Ki".into() }];
        fs::write(volume.join("deep/er/file"), vec![1; 64 << 10]).unwrap();
        fs::hard_link(volume.join("deep/er/file"), volume.join("again")).unwrap();
        fs::File::create(volume.join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", volume.join("out")).unwrap();
        assert_eq!(exceeded(root.path(), "u", &of(128 << 10)), None);
        fs::write(volume.join("more"), vec![1; 64 << 10]).unwrap();
        assert_eq!(
            exceeded(root.path(), "u", &of(128 << 10)).as_deref(),
            Some("Usage of EmptyDir volume \"a\" exceeds the limit \"128Ki\". ")
        );
        assert_eq!(exceeded(root.path(), "u", &of(1 << 20)), None);
        assert_eq!(exceeded(root.path(), "nobody", &of(1)), None);
    }

    #[test]
    fn nothing_is_hidden_below_the_longest_path() {
        let root = tempfile::tempdir().unwrap();
        let volume = volume_dir(root.path(), "u", "empty-dir", "a");
        fs::create_dir_all(&volume).unwrap();
        // One directory after another, each made from within the one before, as a guest would.
        let name = "d".repeat(200);
        let mut at = fs::File::open(&volume).unwrap();
        for _ in 0..25 {
            nix::sys::stat::mkdirat(&at, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let flags = nix::fcntl::OFlag::O_DIRECTORY;
            let next = nix::fcntl::openat(&at, name.as_str(), flags, nix::sys::stat::Mode::empty());
            at = next.unwrap().into();
        }
        let limited = [Limited { volume: "a".into(), bytes: 1 << 30, text: "1Gi".into() }];
        let why = exceeded(root.path(), "u", &limited).unwrap();
        assert!(why.contains("too deep"), "{why}");
    }
}
