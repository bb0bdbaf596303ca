//! Mounts as WASI knows them: preopened directories.
//!
//! WASI has no mount table, only directories handed to the guest under a name. A mounted directory is handed over
//! as it is. A mounted file (a ConfigMap's subPath) is handed over inside a private *view*: a directory of the
//! container's own that stands for the file's parent and holds a hard link to it, or a copy.
//!
//! Invariant: a guest sees exactly what was mounted; handing over a file never reveals its neighbours. What is pinned
//! is handed over as it was pinned, to every instance: its path may lead elsewhere by then, and is not looked at.
use nix::fcntl::{AT_FDCWD, AtFlags};
use shim::{Error, Mount, Pinned};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory as a guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preopen {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
    /// Keeps `host` valid, where that is the path of an open directory.
    pub(crate) pinned: Option<Pinned>,
}

/// What lies at a mount's path on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    File,
}

/// A directory to hand over, and what must be made for it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    Directory(Preopen),
    View { guest: String, files: Vec<ViewFile>, read_only: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViewFile {
    name: String,
    host: PathBuf,
    read_only: bool,
}

/// Files that the kubelet mounts into every container. Where a mounted directory hides them they are left out: no
/// manifest mentions them, so none may fail over them.
const KUBELETS_OWN: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

/// Decides which directories the guest gets.
pub(crate) fn plan_preopens(mounts: &[(Mount, Found)]) -> Result<Vec<Planned>, Error> {
    let mut directories = BTreeMap::new();
    let mut views: BTreeMap<String, Vec<ViewFile>> = BTreeMap::new();
    for (mount, found) in mounts {
        let guest = guest_path(&mount.container_path)?;
        if *found == Found::Directory {
            let preopen = Preopen {
                host: mount.source(),
                guest: guest.clone(),
                read_only: mount.read_only,
                pinned: mount.pinned.clone(),
            };
            if directories.insert(guest.clone(), preopen).is_some() {
                return Err(Error::InvalidSpec(format!("two volumes are mounted at {guest}")));
            }
            continue;
        }
        let Some((parent, name)) = guest.rsplit_once('/') else {
            return Err(Error::InvalidSpec(format!("{guest:?} is no place for a file")));
        };
        let parent = if parent.is_empty() { "/" } else { parent };
        let file = ViewFile { name: name.to_owned(), host: mount.source(), read_only: mount.read_only };
        views.entry(parent.to_owned()).or_default().push(file);
    }
    for (parent, files) in &mut views {
        let Some(hiding) = directories.keys().find(|directory| is_below(parent, directory)) else { continue };
        files.retain(|file| !KUBELETS_OWN.contains(&format!("{parent}/{}", file.name).as_str()));
        if let Some(file) = files.first() {
            return Err(Error::InvalidSpec(format!(
                "the file {parent}/{} is mounted inside the volume at {hiding}; WebAssembly cannot see both, so \
                 mount one of them elsewhere",
                file.name
            )));
        }
    }
    let views = views.into_iter().filter(|(_, files)| !files.is_empty()).map(|(guest, files)| {
        let read_only = files.iter().all(|file| file.read_only);
        Planned::View { guest, files, read_only }
    });
    Ok(directories.into_values().map(Planned::Directory).chain(views).collect())
}

fn is_below(path: &str, directory: &str) -> bool {
    directory == "/"
        || path == directory
        || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn guest_path(path: &str) -> Result<String, Error> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || parts.contains(&"..") {
        return Err(Error::InvalidSpec(format!("{path:?} is not an absolute path to mount at")));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Looks at what is mounted and makes the views below `views_dir`.
pub(crate) fn apply_preopens(mounts: &[Mount], views_dir: &Path) -> Result<Vec<Preopen>, Error> {
    let mut found = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let io = |source| Error::Io { what: format!("mounting {}", mount.host_path.display()), source };
        let host_path = match mount.pinned {
            Some(_) => mount.host_path.clone(),
            None => mount.host_path.canonicalize().map_err(io)?,
        };
        let mount = Mount { host_path, ..mount.clone() };
        let metadata = mount.source().metadata().map_err(io)?;
        let kind = match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => Found::Directory,
            (_, true) => Found::File,
            _ => {
                return Err(Error::InvalidSpec(format!(
                    "{} is neither a directory nor a file; WebAssembly can see no sockets and devices",
                    mount.host_path.display()
                )));
            }
        };
        found.push((mount, kind));
    }
    plan_preopens(&found)?
        .into_iter()
        .enumerate()
        .map(|(number, planned)| match planned {
            Planned::Directory(preopen) => Ok(preopen),
            Planned::View { guest, files, read_only } => {
                let host = views_dir.join(number.to_string());
                make_view(&host, &files, read_only)?;
                Ok(Preopen { host, guest, read_only, pinned: None })
            }
        })
        .collect()
}

fn make_view(view: &Path, files: &[ViewFile], view_is_read_only: bool) -> Result<(), Error> {
    let io = |source| Error::Io { what: format!("making {}", view.display()), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(view).map_err(io)?;
    for file in files {
        let inside = view.join(&file.name);
        remove_if_there(&inside).map_err(io)?;
        // A file that the guest must not change, in a view where it may write, can only be a copy.
        let linked =
            if file.read_only && !view_is_read_only { None } else { Some(hard_link(&file.host, &inside)) };
        match linked {
            Some(Ok(())) => continue,
            Some(Err(e)) if !file.read_only => {
                return Err(Error::Io {
                    what: format!(
                        "{} cannot be mounted writable (it lies on another filesystem or belongs to another user); \
                         mount its directory instead",
                        file.host.display()
                    ),
                    source: e,
                });
            }
            _ => {}
        }
        fs::copy(&file.host, &inside).map_err(io)?;
    }
    Ok(())
}

/// Links to what the path leads to, not to a link it is: a pinned file's path is one of the kernel's.
fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    Ok(nix::unistd::linkat(AT_FDCWD, from, AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(host: &str, guest: &str, read_only: bool) -> Mount {
        Mount { host_path: host.into(), container_path: guest.into(), read_only, pinned: None }
    }

    #[test]
    fn files_of_one_directory_share_a_view_that_is_read_only_if_all_are() {
        let plan = plan_preopens(&[
            (mount("/a", "/etc/app/a.conf", true), Found::File),
            (mount("/b", "/etc/app/b.conf", false), Found::File),
            (mount("/c", "/srv/c", true), Found::File),
            (mount("/d", "/data//x/", true), Found::Directory),
        ])
        .unwrap();
        let file =
            |name: &str, host: &str, read_only| ViewFile { name: name.into(), host: host.into(), read_only };
        assert_eq!(
            plan,
            [
                Planned::Directory(Preopen {
                    host: "/d".into(),
                    guest: "/data/x".into(),
                    read_only: true,
                    pinned: None
                }),
                Planned::View {
                    guest: "/etc/app".into(),
                    files: vec![file("a.conf", "/a", true), file("b.conf", "/b", false)],
                    read_only: false
                },
                Planned::View { guest: "/srv".into(), files: vec![file("c", "/c", true)], read_only: true },
            ]
        );
    }

    #[test]
    fn a_file_inside_a_mounted_directory_is_refused_unless_the_kubelet_put_it_there() {
        let etc = (mount("/e", "/etc", true), Found::Directory);
        let hosts = (mount("/h", "/etc/hosts", true), Found::File);
        let mine = (mount("/m", "/etc/app/mine", true), Found::File);
        assert_eq!(plan_preopens(&[etc.clone(), hosts]).unwrap().len(), 1);
        let error = plan_preopens(&[etc, mine]).unwrap_err().to_string();
        assert!(error.contains("/etc/app/mine is mounted inside the volume at /etc"), "{error}");
    }

    #[test]
    fn paths_that_climb_are_refused() {
        for path in ["relative", "/a/../b", ".."] {
            assert!(plan_preopens(&[(mount("/x", path, true), Found::Directory)]).is_err(), "{path}");
        }
    }

    #[test]
    fn a_read_only_file_in_a_writable_view_is_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let mounts = [mount(a.to_str().unwrap(), "/m/a", true), mount(b.to_str().unwrap(), "/m/b", false)];
        let preopens = apply_preopens(&mounts, &dir.path().join("views")).unwrap();
        fs::write(preopens[0].host.join("a"), "changed").unwrap();
        fs::write(preopens[0].host.join("b"), "changed").unwrap();
        assert_eq!(fs::read_to_string(&a).unwrap(), "a");
        assert_eq!(fs::read_to_string(&b).unwrap(), "changed");
    }
}
