//! A path below a volume, never outside of it, whatever links a container left in there.
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where `sub` lies below `volume`, made as a directory if it is not there. Links are followed before use and
/// what they lead to must lie inside the volume.
pub fn resolve(volume: &Path, sub: &str) -> io::Result<PathBuf> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {sub:?} {why}"));
    let sub_path = Path::new(sub);
    if sub_path.is_absolute() || sub_path.components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(refused("must be relative and without \"..\""));
    }
    let root = volume.canonicalize()?;
    let mut at = root.clone();
    for part in sub_path.components() {
        let next = at.join(part);
        match fs::symlink_metadata(&next) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&next)?;
                at = next;
            }
            Err(e) => return Err(e),
            Ok(_) => {
                at = next.canonicalize()?;
                if !at.starts_with(&root) {
                    return Err(refused("leads out of the volume"));
                }
            }
        }
    }
    Ok(at)
}
